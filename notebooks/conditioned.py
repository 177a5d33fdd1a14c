# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)][colab]
#
# [colab]: https://colab.research.google.com/github/OWNER/wan_jax/blob/main/notebooks/conditioned.ipynb
#
# # Image to video, and editing
#
# A VACE model is given frames, and a mask that says of every pixel whether it stays or is to be made. That is all: a
# first frame, a first and a last one, a box to be painted anew, a clip to be gone on with are the same model, the same
# weights and the same compiled program. Here you see how frames and masks become one condition, and what comes of it.

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
# `wan_mini` knows these tasks in its own little world. The second set of values fetches the smallest released VACE
# model, if disk and memory suffice for it; **it was never run here**.

# %%
FOLDER = "files"  # on Colab, after drive.mount("/content/drive"): "/content/drive/MyDrive/wan"
MODEL, PRESET, STEPS = "wan_mini", "auto", 10
# MODEL, PRESET, STEPS = "Wan-AI/Wan2.1-VACE-1.3B-diffusers", "colab-v5e", 30
CONVERTED = f"{FOLDER}/models"

from runtime import prepare

dtype = prepare(FOLDER)

# %%
from wan_jax import WanPipeline

pipe = WanPipeline.from_pretrained(MODEL, dtype=dtype, preset=PRESET, cache_dir=CONVERTED)
pipe.set_progress_bar_config(disable=True)
own = pipe.config.sampling
print(f"{own.width}×{own.height}, {own.num_frames} frames; context blocks at {pipe.config.transformer.vace_layers}")

# %% [markdown]
# ## Something to start from
# A clip that was drawn, not generated, so that we know what is in it. Any file will do as well: `video="clip.mp4"` is
# brought to the model's rate and size.

# %%
import numpy as np
from figures import play, plt, rows, save, strip

from wan_jax.world.render import render
from wan_jax.world.scene import stage
from wan_jax.world.words import Truth

truth = Truth("red", "ball", "bounce", size="large", place="grass")
prompt = "a large red ball bounces on green grass"
clip = np.asarray(render(stage(truth, np.random.default_rng(4), own.num_frames), side=own.height)) / np.float32(255)
print(f"{clip.shape[0]} frames of {clip.shape[2]}×{clip.shape[1]}: {prompt}")

# %% [markdown]
# ## Tasks are frames and masks
# `wan_jax.editing` builds them of arrays. A `Canvas` holds frames F and a mask M: where M is 1 (white) the video is
# generated and F is grey, where it is 0 (black) the frame stays.

# %%
from wan_jax import editing

count, height, width, _ = clip.shape
box = tuple(round(width * share) for share in (0.19, 0.06, 0.62, 0.88))  # left, top, width, height
canvases = {
    "first frame": editing.keep_frames(count, (0, clip[:1])),
    "first and last": editing.keep_frames(count, (0, clip[:1]), (count - 1, clip[-1:])),
    "box": editing.repaint(clip, editing.box_mask(count, height, width, box)),
    "go on": editing.keep_frames(count, (0, clip[: count // 2])),
}
given = {
    f"{name}\n{part}": strip(frames)
    for name, canvas in canvases.items()
    for part, frames in (("F", canvas.frames), ("M", np.repeat(canvas.mask[..., None], 3, -1).astype(np.float32)))
}
save(rows(given), "vcu_tasks", "Four tasks as frames (grey: unknown) and masks (white: to be made)")

# %% [markdown]
# ## One condition of all of it
# The Video Condition Unit. What stays and what changes go through the autoencoder, each with grey in place of the
# other; the mask is folded, so that each latent position gets one channel for every pixel that it stands for. Together
# they are the context, which has the layout of the latents and joins the denoiser in every other block.

# %%
import jax

from wan_jax.models import streaming
from wan_jax.vcu import context_frames

vae = pipe.config.vae


def encode(pieces, frames):
    with jax.set_mesh(pipe.mesh):
        return streaming.encode_pieces(pipe.vae, pipe.weights["vae"], pieces, frames, height, width)


units = {name: np.asarray(context_frames(encode, canvas, (), vae))[0] for name, canvas in canvases.items()}
z, folded = vae.z_dim, vae.spatial_factor**2
print(
    f"context [f h w c]: {units['box'].shape}; channels: {z} of what stays, {z} of what changes, {folded} of the mask"
)
for name, unit in units.items():
    parts = np.split(unit, (z, 2 * z), axis=-1)
    stays, changes, mask = (np.abs(part).mean() for part in parts)
    print(f"{name:15} mean size: stays {stays:.2f}, changes {changes:.2f}; {mask:4.0%} of the mask set")

# %%
unit = units["box"][len(units["box"]) // 2]
shown = {
    "stays, channels 0–2": (0, 1, 2),
    "changes, 0–2": (z, z + 1, z + 2),
    "mask, 0, 31, 63": (2 * z, 2 * z + 31, -1),
}
figure, axes = plt.subplots(1, 9, figsize=(8, 1.4))
for start, (name, channels) in zip((0, 3, 6), shown.items()):
    axes[start + 1].set_title(name)
    for axis, channel in zip(axes[start : start + 3], channels):
        axis.imshow(unit[..., channel], cmap="RdBu", vmin=-2, vmax=2)
        axis.set(xticks=[], yticks=[])
save(figure, "vcu_channels", "Channels of the condition unit for a box, in the middle of the clip")

# %% [markdown]
# Grey is not 0 in the latents, since the autoencoder saw grey pixels; the mask tells it from a grey wall. Of a single
# first or last frame the mask says nothing, as the table shows: it is folded from one frame in four, and neither the
# first nor the last is among them. That is the released models' own rule, and there the latents of what stays have to
# tell.
#
# ## What the model makes of it
# The same call each time, with other frames, another mask, and for the box another wish. Only the first call compiles:
# a task is no other program. What stays is not copied into the video: it goes through the model and its autoencoder, so
# we also look how much of it the autoencoder alone would bring back.

# %%
import time

wishes = dict.fromkeys(canvases, prompt) | {"box": "a large blue cube bounces on green grass"}
again = np.asarray(pipe.decode(encode([2 * clip[None] - 1], count)))[0]


def closeness(frames, canvas):
    """PSNR in dB of what was to stay."""
    return -10 * np.log10(np.square(frames - canvas.frames)[~canvas.mask].mean())


made = {}
for name, canvas in canvases.items():
    started = time.monotonic()
    out = pipe(wishes[name], video=canvas.frames, mask=canvas.mask, num_inference_steps=STEPS, seed=7)
    made[name] = np.asarray(out.frames[0])
    took, kept, bare = time.monotonic() - started, closeness(made[name], canvas), closeness(again, canvas)
    print(f"{name:15} {took:5.1f} s; what was to stay: {kept:.1f} dB, through the autoencoder alone {bare:.1f} dB")

# %%
save(
    rows({"clip": strip(clip)} | {name: strip(frames) for name, frames in made.items()}),
    "vcu_results",
    "A drawn clip, and what the small model makes of its first frame, its ends, a box to fill, and its first half",
)

# %%
play(clip, made["box"], made["go on"], fps=own.fps)

# %% [markdown]
# For a first frame there is a shortcut, `pipe(prompt, image="first.png")`, and with `last_image=` for both ends.
#
# ## The same from the command line
#
# ```bash
# python -m wan_jax generate --prompt "a large red ball bounces on green grass" --image first.png
# python -m wan_jax generate --prompt "a large blue cube bounces on green grass" --video ball.mp4 --box 24,8,80,112
# python -m wan_jax generate --prompt "a large red ball bounces on green grass" --video ball.mp4 --extend 16after
# ```
#
# Image-to-video models without VACE (`wan22_i2v_a14b`, `wan22_ti2v_5b`) take `image=` in the same call; what they are
# given is told in [`conditioning.py`](../wan_jax/conditioning.py), which is all that tells one task from another.
#
# **Next:** [inside_the_vae](inside_the_vae.ipynb), through which frames and masks have to go.
