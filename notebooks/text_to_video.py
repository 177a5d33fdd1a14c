# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)][colab]
#
# [colab]: https://colab.research.google.com/github/OWNER/wan_jax/blob/main/notebooks/text_to_video.ipynb
#
# # Text to video on one TPU chip
#
# A sentence becomes a video, first with a small model that comes with the package and runs anywhere, even on two CPU
# cores; then, by changing one cell, with Wan2.2-TI2V-5B on the TPU v5e chip that Colab lends.
# On the way you see what a model is going to make before it is done, what the number of steps buys, and how four
# distilled steps do the work of twenty.

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
# `FOLDER` keeps converted weights and compiled programs. A Colab session's disk is lost with the session: mount Drive
# and name a folder there, and the next session converts and compiles nothing.
#
# `wan_mini` is a Wan2.2 of 12.6 million parameters, built like the large one (umT5, two experts, a causal video
# autoencoder) and trained on a little world of moving objects. It knows that world and nothing else. For the real model
# take the second set of values. What to know before you do, **none of which has been run on a TPU**: memory is modelled
# by the TPU's compiler, or computed from shapes.
#
# - Of the 15.75 GiB of a v5e chip, umT5 takes 10.6, the transformer 9.4 and the autoencoder 1.3 GiB in bfloat16.
#   Together they do not fit, one after the other they do: so `colab-v5e` arranges it, and the weights wait in host
#   memory, 21 GiB of the 48 that a machine with one v5e has.
# - Files are fetched one at a time, converted and deleted; 21 GiB stay, more than the 15 GB of a free Drive.
#   `CONVERTED` may also be a bucket, `gs://…`. Whether disk and memory suffice is checked before anything is fetched.

# %%
FOLDER = "files"  # on Colab, after drive.mount("/content/drive"): "/content/drive/MyDrive/wan"
MODEL, PRESET, SETTINGS = "wan_mini", "auto", {}
# MODEL, PRESET, SETTINGS = "wan22_ti2v_5b", "colab-v5e", {"num_frames": 49}
CONVERTED = f"{FOLDER}/models"

from runtime import prepare

dtype = prepare(FOLDER)

# %% [markdown]
# A *preset* decides how a model's weights are kept so that it fits the memory of a device: resident, or waiting in host
# memory until they are used, as they are or in 8 bits. `auto` looks at the devices at hand; `colab-v5e` plans for one
# v5e chip wherever you are. No weight has to be read to ask:

# %%
import jax.numpy as jnp

from wan_jax.pipelines import presets
from wan_jax.pipelines.loading import component_bytes, read_config

for name in ("wan_mini", "wan22_ti2v_5b", "wan22_t2v_a14b"):
    config = read_config(name)
    sizes = component_bytes(config, jnp.bfloat16, jnp.bfloat16)
    print(f"{name}: " + ", ".join(f"{part} {size / 2**30:.2f} GiB" for part, size in sizes.items()))
    for preset in map(presets.find, ("colab-v5e", "colab-v6e")):
        how = presets.arrange(preset, config, jnp.bfloat16, jnp.bfloat16, presets.memory_bytes(preset))
        print(f"    on one {preset.chip}: {how}")

# %% [markdown]
# ## A first video, and what is seen of it while it is made
# After every step a callback sees the latents, and what the model then takes the clean latents to be (`denoised`).
# `fit_colours` finds the linear map from a latent to the mean colour of the pixels that it stands for, so a preview
# costs no run of the autoencoder.

# %%
import time

import numpy as np
from figures import play, rows, save, strip

from wan_jax import WanPipeline, export_to_video
from wan_jax.pipelines.preview import colours_of, fit_colours

pipe = WanPipeline.from_pretrained(MODEL, dtype=dtype, preset=PRESET, cache_dir=CONVERTED)
pipe.set_progress_bar_config(disable=True)
colours, seen = fit_colours(pipe), []


def watch(pipe, step, timestep, tensors):
    latents = np.moveaxis(np.asarray(tensors["denoised"])[0], 0, -1)  # [c f h w] to [f h w c]
    seen.append(colours_of(latents, colours))


prompt = "a large red ball bounces on green grass"
out = pipe(prompt, seed=0, callback_on_step_end=watch, **SETTINGS)
first = np.asarray(out.frames[0])
print(f"the first step began {pipe.first_step_s:.0f} s after the start, loading and compiling included")
play(first, fps=pipe.config.sampling.fps)

# %%
at = [0, 1, 3, 7, len(seen) - 1]
previews = {f"after step {i + 1}": strip(seen[i]).repeat(4, 0).repeat(4, 1) for i in at}
save(
    rows({**previews, "decoded": strip(first)}),
    "preview_steps",
    "What the small model takes the clean video to be after some of its 20 steps, without the autoencoder",
)

# %% [markdown]
# `callback_on_step_end=Preview("preview.png")` from the same module keeps such a picture on the disk.
#
# The same in Chinese. The program is compiled now, so this is what a video costs:

# %%
started = time.monotonic()
chinese = np.asarray(pipe("一个大蓝色方块在黄色沙滩上向右移动", seed=1, **SETTINGS).frames[0])
warm = time.monotonic() - started
print(f"{warm:.1f} s from the prompt to {len(chinese)} frames; a large blue cube moves right on yellow sand")
play(chinese, fps=pipe.config.sampling.fps)

# %% [markdown]
# What you did not say is the model's own: its steps, guidance, size and length. `out.settings` says all of it; stored
# in the file, `python -m wan_jax generate --from ball.mp4` repeats the video.

# %%
export_to_video(first, f"{FOLDER}/ball.mp4", metadata=out.settings[0])
told = ("num_inference_steps", "solver", "flow_shift", "num_frames", "seed", "dtype", "checkpoint")
{key: out.settings[0][key] for key in told}

# %% [markdown]
# ## Steps against quality
# The same noise in fewer steps. PSNR against all steps tells how far a run is from where the solver would end, not how
# beautiful it is. The table of steps is part of the program, so each number of them is compiled once: that is why every
# run is made twice here and timed the second time. Decoding takes the same for all of them and is told by itself.


# %%
from wan_jax.metrics import psnr


def timed(pipe, **settings):
    """Frames, and seconds to the latents in a second run: the first one compiles."""
    for _ in range(2):
        started = time.monotonic()
        latents = pipe(prompt, seed=0, output_type="latent", **settings).frames  # [b c f h w]
        seconds = time.monotonic() - started
    return np.asarray(pipe.decode(np.moveaxis(latents, 1, -1)))[0], seconds


runs = {f"{steps} steps": timed(pipe, num_inference_steps=steps, **SETTINGS) for steps in (4, 8)}

# %% [markdown]
# ## Four steps: the lightning preset
# Low-rank updates that were distilled from twenty guided steps, for four Euler steps without guidance. Guidance costs a
# second prediction in every step, so a tenth of the work is left. There are such updates for `wan_mini` and, from the
# hub, for Wan2.2-T2V-A14B.

# %%
if MODEL == "wan_mini":
    fast = WanPipeline.from_pretrained(MODEL, dtype=dtype, preset="lightning")
    fast.set_progress_bar_config(disable=True)
    runs["4, lightning"] = timed(fast)
runs["all steps"] = timed(pipe, **SETTINGS)

best = runs["all steps"]
print(f"decoding: {warm - best[1]:.1f} s")
for name, (frames, seconds) in runs.items():
    close = "" if frames is best[0] else f"{float(psnr(frames, best[0])):5.1f} dB"
    print(f"{name:14}{seconds:5.1f} s  {close}")
save(
    rows({name: strip(frames) for name, (frames, _) in runs.items()}),
    "steps",
    "The same noise and prompt in 4 and 8 guided steps, in 4 distilled ones without guidance, and in all 20",
)

# %% [markdown]
# Four distilled steps end about as near to all twenty as eight guided ones do. What counts is whether a video shows
# what was asked for: over 400 prompts that were kept out of training, `wan_mini` shows this much of what it is told
# ([card](../wan_jax/weights/wan_mini/README.md)):
#
# | | 4 steps | 10 | 20 | 50 | 4, lightning |
# |---|---|---|---|---|---|
# | English | 83.0 % | 92.2 | 93.1 | 93.0 | 91.1 |
# | Chinese | 82.2 % | 92.5 | 92.4 | 92.6 | 92.1 |
#
# **Next:** [flow_matching](flow_matching.ipynb) shows what a step is, [two_experts](two_experts.ipynb) who takes it,
# and [conditioned](conditioned.ipynb) what else can be given than words. In the code,
# [`WanPipeline._denoise`](../wan_jax/pipelines/wan.py) is the loop.
