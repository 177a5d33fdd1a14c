# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)][colab]
#
# [colab]: https://colab.research.google.com/github/OWNER/wan_jax/blob/main/notebooks/inside_the_vae.ipynb
#
# # Inside the video autoencoder
#
# Wan does not denoise pixels but latents. A causal autoencoder makes 1 + 4n frames into 1 + n latent frames, an eighth
# as high and wide, and back. Here you see what it keeps and what it loses, what a latent looks like, why "causal"
# matters, and how a cache of a few frames for each layer lets it run over videos without end in the same memory.

# %% [markdown]
# ## Install
# Colab's own JAX is older than the one needed here. The cell installs what is missing and restarts the session once;
# run it again after that, and it finds everything in place.

# %% tags=["install"]
# Takes a checkout around this notebook, an uploaded wan_jax*.zip, or the repository; pip adds only what is missing.
import importlib.metadata
import os
import shutil
import subprocess
import sys
from pathlib import Path

REPOSITORY = "https://github.com/OWNER/wan_jax"


def find_checkout():
    here = Path.cwd()
    folders = [here, *here.parents, *here.glob("wan_jax*")]
    return next((f for f in folders if (f / "wan_jax" / "pipelines").is_dir()), None)


def installed():
    return {(package.name, package.version) for package in importlib.metadata.distributions()}


for file in [] if find_checkout() else Path.cwd().glob("wan_jax*.zip"):
    shutil.unpack_archive(file, ".")
if not find_checkout():
    subprocess.run(["git", "clone", "--depth", "1", REPOSITORY, "wan_jax_checkout"], check=True)
root, before, on_colab = find_checkout(), installed(), "COLAB_RELEASE_TAG" in os.environ
wanted = ["-r", str(root / "requirements.txt"), "matplotlib", "ipywidgets"]
if any(Path("/dev").glob("accel*")) or Path("/dev/vfio/0").exists():
    wanted.append("jax[tpu]")  # libtpu has to go with JAX
elif on_colab and shutil.which("nvidia-smi"):
    wanted.append("jax[cuda13]")
subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)
if installed() != before:
    if on_colab:
        get_ipython().kernel.do_shutdown(restart=True)  # noqa: F821
    raise SystemExit("Installed. The session has to restart once (Colab does by itself): then run all cells.")
sys.path[:0] = [str(root), str(root / "notebooks")]
os.environ["PYTHONPATH"] = str(root)  # for commands in other processes
print("nothing had to be installed")

# %% [markdown]
# ## What to run, and where
# The autoencoder of `wan_mini` is a small one of the same make. The other name fetches that of Wan2.2-T2V-A14B, half a
# gigabyte, and nothing else of that model; **it was never run here**.

# %%
FOLDER = "files"  # on Colab, after drive.mount("/content/drive"): "/content/drive/MyDrive/wan"
MODEL = "wan_mini"
# MODEL = "wan22_t2v_a14b"

from runtime import prepare

dtype = prepare(FOLDER)

# %%
import jax
import numpy as np

from wan_jax.pipelines.autoencoder import open_autoencoder

coder = open_autoencoder(MODEL, "float32")
count = sum(x.size for x in jax.tree.leaves(coder.params))
print(f"{count / 1e6:.1f} million parameters; z_dim {coder.config.z_dim}, channels {coder.config.base_dim} and up")

# %% [markdown]
# ## A clip, there and back
# The little world that `wan_mini` was trained on draws us a clip. `coder.encode` takes frames one by one and yields
# normalised latents; `coder.decode` takes latents and yields pixels in [-1, 1].

# %%
from figures import play, plt, rows, save, strip

from wan_jax.metrics import psnr, ssim
from wan_jax.world.render import render
from wan_jax.world.scene import stage
from wan_jax.world.words import Truth


def drawn(*what, side=128, seed=1, **how):
    """A clip [f h w 3] of bytes."""
    return np.asarray(render(stage(Truth(*what, **how), np.random.default_rng(seed), 33), side=side))


clip = drawn("red", "ball", "bounce", size="large", texture="spotted", place="grass")


def encoded(frames):
    return np.concatenate(list(coder.encode(frames)))


def decoded(latents):
    return np.concatenate([np.asarray(piece[0]) for piece in coder.decode([latents[None]])]) / 2 + 0.5


stars = drawn("purple", "star", "orbit", count=2, size="small", speed="fast", place="sand") / np.float32(255)
latents = encoded(clip)
pixels, again = clip / np.float32(255), np.clip(decoded(latents), 0, 1)
stars_again = np.clip(decoded(encoded((stars * 255).astype(np.uint8))), 0, 1)
print(f"{clip.shape} bytes → {latents.shape} numbers: {clip.size / latents.size:.0f} times fewer")
for name, before, after in (("a large ball", pixels, again), ("two small stars", stars, stars_again)):
    print(f"{name:15} PSNR {float(psnr(before, after)):.1f} dB, SSIM {float(ssim(before, after)):.3f}")
play(pixels, again)

# %%
shown = {"clip": pixels, "again": again, "error × 4": np.abs(again - pixels) * 4, "stars": stars, "again ": stars_again}
save(
    rows({name: strip(video) for name, video in shown.items()}),
    "vae_reconstruction",
    "A large ball through the small autoencoder and back, four times the error, and small stars that it loses",
)

# %% [markdown]
# A patch of 8×8 pixels and four frames has 16 numbers. A large ball fits into them, but for its edge and its spots.
# Small stars that move fast do not: they fade where they are fastest, in an autoencoder of this size.
#
# ## What a latent looks like
# The channels of the middle latent frame. Each is normalised by its own mean and deviation over many clips, so that
# noise of variance 1, where denoising begins, is as large as a video.

# %%
middle = latents[len(latents) // 2]
figure, axes = plt.subplots(2, 9, figsize=(8, 2.1))
axes[0, 0].imshow(clip[len(clip) // 2])
axes[1, 0].axis("off")
for axis, channel in zip(axes[:, 1:].flat, np.moveaxis(middle, -1, 0)):
    axis.imshow(channel, cmap="RdBu", vmin=-3, vmax=3)
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
print(f"deviation of this clip's latents: {latents.std():.2f}")
save(figure, "vae_channels", "A frame and the first 16 channels of its latent, from -3 (red) to 3 (blue)")

# %% [markdown]
# Some channels carry brightness, others edges; none is a colour. That a linear map finds colours in them nevertheless
# is what previews are made of ([text_to_video](text_to_video.ipynb)).
#
# ## Causal
# All convolutions in time look back and never ahead: latent frame *i* stands for pixel frames 4i − 3 to 4i and depends
# on these and earlier ones. So a picture is a video of one frame, and a first frame can be given without knowing what
# follows. We change the clip from frame 21 on and look which latents notice; then one latent, and look which frames do.

# %%
late = 21
changed = clip.copy()
changed[late:] = 255 - changed[late:]
of_latents = np.abs(encoded(changed) - latents).max(axis=(1, 2, 3))
first = int(np.flatnonzero(of_latents)[0])
print(f"frames from {late} on changed: latents from {first} on differ; before, by {of_latents[:first].max()}")

edited = latents.copy()
edited[first] += 1
of_frames = np.abs(decoded(edited) - decoded(latents)).max(axis=(1, 2, 3))
then = int(np.flatnonzero(of_frames)[0])
print(f"latent {first} changed: frames from {then} on differ; before, by {of_frames[:then].max()}")

figure, axes = plt.subplots(1, 2, figsize=(8, 2.2))
axes[0].bar(range(len(of_latents)), of_latents, color="tab:blue")
axes[0].set(title=f"frames from {late} on were changed", xlabel="latent frame", ylabel="largest difference")
axes[1].bar(range(len(of_frames)), of_frames, color="tab:orange")
axes[1].set(title=f"latent frame {first} was changed", xlabel="pixel frame")
save(
    figure,
    "vae_causality",
    "Which latents a change of late frames reaches, and which frames one of a latent: none before",
)

# %% [markdown]
# Before the change the difference is exactly 0. After it, a latent is felt for many frames.
#
# ## The feature cache
# Looking back two frames in every convolution is all the memory that a causal network needs. What the next chunk has to
# know of those before it is an *argument and a result* of one pure function, `(chunk, cache) → (latents, cache)`, and
# hides in no module. What it holds:

# %%
import jax.numpy as jnp
from flax.traverse_util import flatten_dict

one = jax.ShapeDtypeStruct((1, 1, *clip.shape[1:]), jnp.float32)
four = jax.ShapeDtypeStruct((1, 4, *clip.shape[1:]), jnp.float32)


def step(params, chunk, cache=None):
    return coder.vae.apply({"params": params}, chunk, cache, method="encode")


_, cache = jax.eval_shape(step, coder.params, one)  # shapes only: nothing runs
held = {"/".join(map(str, path)): x for path, x in flatten_dict(cache).items() if x is not None}
for name, x in list(held.items())[:6]:
    print(f"{name:24} {x.shape}")
total = sum(x.size * x.dtype.itemsize for x in held.values())
print(f"… {len(held)} arrays, {total / 2**20:.1f} MiB in all, for a video of any length")

# %% [markdown]
# So the cut does not matter. The clip in one piece, and frame by frame through the cache:

# %%
signed = jnp.asarray(pixels)[None] * 2 - 1
whole = jax.jit(step)(coder.params, signed)[0][0]
print(f"relative difference: {np.linalg.norm(whole - latents) / np.linalg.norm(latents):.1e}")

# %% [markdown]
# ## Memory against length
# The compiler says what a program needs beside its weights, its input and its output. In one piece that grows with the
# clip; through the cache it does not.

# %%
from wan_jax.models.streaming import vae_step

_, cache = jax.eval_shape(step, coder.params, four, cache)  # as it is once the clip is under way
streamed = vae_step.lower(coder.vae, coder.params, four, cache, "encode").compile().memory_analysis()
cached = (streamed.temp_size_in_bytes + 2 * total) / 2**20

lengths, uncached = (5, 9, 17, 33), []
for n in lengths:
    shape = jax.ShapeDtypeStruct((1, n, *clip.shape[1:]), jnp.float32)
    # The caches that a whole clip leaves are of no use, so they are not asked for.
    compiled = jax.jit(lambda params, x: step(params, x)[0]).lower(coder.params, shape).compile()
    uncached.append(compiled.memory_analysis().temp_size_in_bytes / 2**20)

figure, axis = plt.subplots(figsize=(4.5, 2.6))
axis.plot(lengths, uncached, "o-", label="in one piece")
axis.plot(lengths, [cached] * len(lengths), "s-", label="through the cache")
axis.set(xlabel="frames of 128×128", ylabel="MiB", ylim=0)
axis.legend(frameon=False)
print("MiB:", {n: round(x) for n, x in zip(lengths, uncached)}, "and through the cache", round(cached))
save(
    figure, "vae_memory", "Memory reserved by the compiler to encode a clip, in one piece and through the feature cache"
)

# %% [markdown]
# ## Video without end
# Frames come from a generator, latents go straight into the decoder, and nothing else is kept. The memory of the
# process is read as it runs.

# %%
import itertools
import time
from pathlib import Path

SIDE, LENGTH = 64, 321


def frames_without_end():
    for number in itertools.count():
        yield from drawn("red", "ball", "bounce", size="large", place="grass", side=SIDE, seed=number)


def memory():
    """MiB that this process holds, as Linux tells."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


source, compared = itertools.tee(itertools.islice(frames_without_end(), LENGTH))
done, errors, started = 0, [], time.monotonic()
for piece in coder.decode(latent[None] for latent in coder.encode(source)):
    made = np.clip(np.asarray(piece[0]) / 2 + 0.5, 0, 1)
    original = np.stack(list(itertools.islice(compared, len(made)))) / np.float32(255)
    errors.append(float(psnr(original, made)))
    done += len(made)
    if done % 80 == 1:
        print(f"{done:4} frames, {time.monotonic() - started:5.1f} s, {memory():6.0f} MiB, {np.mean(errors):.1f} dB")

# %% [markdown]
# The same from file to file, for hours, going on after a kill:
#
# ```bash
# python -m wan_jax encode film.mp4 film.safetensors
# python -m wan_jax decode film.safetensors again.mp4
# ```
#
# **Next:** [conditioned](conditioned.ipynb) gives frames to the model through this autoencoder. In the code,
# [`wan_vae.py`](../wan_jax/models/wan_vae.py) is the network and [`streaming.py`](../wan_jax/models/streaming.py) the
# loop around it.
