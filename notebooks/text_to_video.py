# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)][colab]
#
# [colab]: https://colab.research.google.com/github/OWNER/wan_jax/blob/main/notebooks/text_to_video.ipynb
#
# # Text to video on one TPU chip
#
# A sentence becomes a video, first with a small model that comes with the package and runs anywhere, even on two CPU
# cores; then, by one cell, with Wan2.2-TI2V-5B on the TPU v5e chip that Colab lends.
# On the way you see what the number of steps buys, and how four distilled steps do the work of twenty.

# %% [markdown]
# ## Install
# Colab's own JAX is older than the one needed here. The cell installs what is missing and asks you to restart once;
# after that it finds everything in place.

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
root, before = find_checkout(), installed()
wanted = ["-r", str(root / "requirements.txt"), "matplotlib"]
if any(Path("/dev").glob("accel*")) or Path("/dev/vfio/0").exists():
    wanted.append("jax[tpu]")  # libtpu has to go with JAX
elif "COLAB_RELEASE_TAG" in os.environ and shutil.which("nvidia-smi"):
    wanted.append("jax[cuda12]")
subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *wanted], check=True)
if installed() != before:
    raise SystemExit("Installed. Restart the session once (Runtime > Restart session), then run all cells.")
sys.path.insert(0, str(root))
print("nothing had to be installed")

# %% [markdown]
# ## What is this machine?
# Weights and compiled programs go to `FOLDER`. On Colab a session's disk is lost with the session: name a folder on
# Drive, and the next session finds them again.

# %%
FOLDER = (
    "files"  # on Drive: from google.colab import drive; drive.mount("/content/drive"), "/content/drive/MyDrive/wan"
)

Path(FOLDER).mkdir(parents=True, exist_ok=True)
os.environ.setdefault("WAN_JAX_CACHE", f"{FOLDER}/cache")  # compiled programs

# %%
import jax

device = jax.devices()[0]
print(f"{len(jax.devices())} × {device.device_kind} ({device.platform}), JAX {jax.__version__}")
print(f"{shutil.disk_usage(FOLDER).free / 2**30:.0f} GiB of disk free")

# %% [markdown]
# A *preset* decides how a model's weights are kept so that it fits the memory of a device: resident, or waiting in host
# memory until they are used, as they are or in 8 bits. `auto` looks at the devices at hand; `colab-v5e` plans for one
# v5e chip wherever you are. No weight has to be read to ask:

# %%
import jax.numpy as jnp

from wan_jax.pipelines import presets
from wan_jax.pipelines.loading import component_bytes, read_config

for model in ("wan_mini", "wan22_ti2v_5b", "wan22_t2v_a14b"):
    config = read_config(model)
    sizes = component_bytes(config, jnp.bfloat16, jnp.bfloat16)
    print(f"\n{model}: " + ", ".join(f"{part} {size / 2**30:.2f} GiB" for part, size in sizes.items()))
    for name in ("auto", "colab-v5e", "colab-v6e"):
        preset = presets.find(name)
        print(
            f"  {name:9}  {presets.arrange(preset, config, jnp.bfloat16, jnp.bfloat16, presets.memory_bytes(preset))}"
        )

# %% [markdown]
# ## A first video
# `wan_mini` is a Wan2.2 of 12.6 million parameters, built like the large one (umT5, two experts, a causal video
# autoencoder) and trained on a little world of moving objects. It knows that world and nothing else.
# bfloat16 is right for TPUs and GPUs; a CPU is faster in float32.

# %%
import time

import numpy as np
from IPython.display import Image, Video, display
from PIL import Image as Picture

from wan_jax import WanPipeline, export_to_video

dtype = "float32" if device.platform == "cpu" else "bfloat16"
pipe = WanPipeline.from_pretrained("wan_mini", dtype=dtype, preset="auto")
pipe.set_progress_bar_config(disable=True)


def show(*videos, name="video.mp4"):
    """Plays videos of one size beside one another."""
    path = export_to_video(np.concatenate(videos, axis=2), f"{FOLDER}/{name}", fps=pipe.config.sampling.fps)
    attributes = "autoplay loop muted playsinline"
    return Video(str(path), embed=True, width=256 * len(videos), html_attributes=attributes)


def still(frames, name="still.jpg"):
    """Shows a picture [h w 3] in [0, 1] or of bytes."""
    pixels = frames if frames.dtype == np.uint8 else (frames * 255).astype(np.uint8)
    Picture.fromarray(pixels).save(f"{FOLDER}/{name}", quality=88)
    return Image(f"{FOLDER}/{name}")


# %%
english = pipe("a large red ball bounces on green grass", seed=0)
chinese = pipe("一个大蓝色方块在黄色沙滩上向右移动", seed=1)  # a large blue cube moves right on yellow sand
print(f"first step {pipe.first_step_s:.0f} s after the start, compiling included; frames {english.frames.shape}")
show(english.frames[0], chinese.frames[0])

# %% [markdown]
# What you did not say is the model's own: 20 steps, guidance 3, its size and length. `out.settings` says all of it;
# stored in the file, `python -m wan_jax generate --from video.mp4` repeats the video.

# %%
export_to_video(english.frames[0], f"{FOLDER}/ball.mp4", metadata=english.settings[0])
told = ("num_inference_steps", "solver", "flow_shift", "guidance_scales", "sigma_grid", "seed", "checkpoint")
{key: value for key, value in english.settings[0].items() if key in told}

# %% [markdown]
# ## A contact sheet, and the preview
# Eight frames of the video, as `generate --sheet` writes them:

# %%
from wan_jax.pipelines.contact_sheet import write_frames

write_frames(Path(FOLDER, "sheet.png"), english.frames[0])
still(np.asarray(Picture.open(f"{FOLDER}/sheet.png")))

# %% [markdown]
# A callback sees the latents after every step, and what the model then takes the clean latents to be (`denoised`).
# `fit_colours` finds the linear map from a latent to the mean colour of the 8×8 pixels it stands for, so that no
# autoencoder has to run. Here is the middle of the video after every second step:

# %%
from wan_jax.pipelines.preview import colours_of, fit_colours

colours, seen = fit_colours(pipe), []


def watch(pipe, step, timestep, tensors):
    latents = np.moveaxis(np.asarray(tensors["denoised"])[0], 0, -1)  # [c f h w] to [f h w c]
    seen.append(colours_of(latents, colours)[latents.shape[0] // 2])


pipe("a large red ball bounces on green grass", seed=0, callback_on_step_end=watch)
still(np.kron(np.concatenate(seen[1::2], axis=1), np.ones((5, 5, 1))))

# %% [markdown]
# `callback_on_step_end=Preview("preview.png")` from the same module writes such a picture to a file after every step.
#
# ## Steps against quality
# The same noise, more and more steps. The difference is measured against 20 steps, as the PSNR of the frames: how far a
# run is from where the solver would end, not how beautiful it is.

# %%
counts, prompt, runs = (2, 4, 8, 20), "two small yellow stars orbit over the blue sea", {}
for steps in counts:
    started = time.monotonic()
    frames = pipe(prompt, seed=3, num_inference_steps=steps).frames[0]
    runs[steps] = np.asarray(frames), time.monotonic() - started

for steps, (frames, seconds) in runs.items():
    error = np.mean((frames - runs[20][0]) ** 2)
    closeness = f"{-10 * np.log10(error):.1f} dB" if error else "the reference"
    print(f"{steps:2} steps  {seconds:5.1f} s  {closeness}")
still(np.concatenate([np.concatenate(frames[::5, ::2, ::2], axis=1) for frames, _ in runs.values()]))

# %% [markdown]
# Measured over 400 prompts that were kept out of its training, `wan_mini` shows this much of what it is told
# ([card](../wan_jax/weights/wan_mini/README.md)): beyond ten steps there is little to gain.
#
# | | 4 steps | 10 | 20 | 50 | 4, lightning |
# |---|---|---|---|---|---|
# | English | 83.0 % | 92.2 | 93.1 | 93.0 | 91.1 |
# | Chinese | 82.2 % | 92.5 | 92.4 | 92.6 | 92.1 |
#
# ## Four steps: the lightning preset
# Low-rank updates that were distilled from twenty guided steps, for four Euler steps without guidance. Guidance costs a
# second prediction in every step, so a tenth of the work is left.

# %%
fast = WanPipeline.from_pretrained("wan_mini", dtype=dtype, preset="lightning")
fast.set_progress_bar_config(disable=True)
fast(prompt, seed=3)  # compiles

started = time.monotonic()
made = fast(prompt, seed=3).frames[0]
print(f"{time.monotonic() - started:.1f} s, decoding included, instead of {runs[20][1]:.1f} s")
show(made, runs[20][0])  # lightning, and twenty guided steps

# %% [markdown]
# ## Real weights: Wan2.2-TI2V-5B
# The same call, another name. What to know before `REAL = True` on a v5e chip of Colab; **none of it has been run on a
# TPU, and memory is modelled** by the TPU's compiler or computed from shapes:
#
# - Of the 15.75 GiB of a v5e, umT5 takes 10.6, the transformer 9.4 and the autoencoder 1.3 GiB in bfloat16. Together
#   they do not fit, one after the other they do: that is what `colab-v5e` chose above.
# - The weights wait in host memory, about 21 GiB of the 48 that a machine with one v5e has.
# - Each file is fetched, converted tensor by tensor, and deleted. What stays is about 21 GiB, which is more than the
#   15 GB of a free Drive.
# - A second session that finds `cache_dir` converts nothing. It may also be a bucket, `cache_dir="gs://bucket/models"`.

# %%
REAL = False
MODEL, PRESET, MODELS = "wan22_ti2v_5b", "colab-v5e", f"{FOLDER}/models"


def check_room(model, folder):
    """Whether disk and host memory suffice to fetch, convert and hold a model in bfloat16."""
    weights = sum(component_bytes(read_config(model), jnp.bfloat16, jnp.bfloat16).values()) / 2**30
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    disk, enough = shutil.disk_usage(folder).free / 2**30, True
    for what, free, needed in (("disk", disk, weights + 15), ("host memory", host, weights + 4)):
        print(f"{what}: {free:.0f} GiB, about {needed:.0f} needed")
        enough &= free >= needed
    return enough


enough = check_room(MODEL, FOLDER)

# %%
if REAL and not enough:
    raise SystemExit("There is not enough room: name another FOLDER, or take a larger runtime.")
if REAL:
    del pipe, fast
    pipe = WanPipeline.from_pretrained(MODEL, preset=PRESET, cache_dir=MODELS)
    out = pipe("A corgi runs along a beach at sunset", num_frames=49, num_inference_steps=30)
    export_to_video(out.frames[0], f"{FOLDER}/corgi.mp4", metadata=out.settings[0])
    display(Video(f"{FOLDER}/corgi.mp4", embed=True, width=640, html_attributes="controls loop"))

# %% [markdown]
# **Next:** [flow_matching](flow_matching.ipynb) shows what a step is, and [two_experts](two_experts.ipynb) who takes
# it. In the code, [`WanPipeline._denoise`](../wan_jax/pipelines/wan.py) is the loop, and
# [`segments`](../wan_jax/experts.py) the line where experts change.
