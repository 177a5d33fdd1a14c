# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)][colab]
#
# [colab]: https://colab.research.google.com/github/OWNER/wan_jax/blob/main/notebooks/two_experts.ipynb
#
# # Two experts
#
# Wan2.2-T2V-A14B is two transformers of 14 billion parameters, of which one works in each step: the first at high
# noise, the second at low. Here is where they change, what each does, and what happens when they swap places, seen in
# a model of the same build that is small enough for a laptop.

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
# ## Where the switch lies
# The noise level $\sigma$ falls from 1 to 0 during a run. The high-noise expert works while the timestep
# $1000\,\sigma$ is at least 1000 times the model's `boundary_ratio`. The grid of steps is known before the run, so
# the two stretches are too: [`segments`](../wan_jax/experts.py) is all there is to it, and nothing on the device ever
# chooses.

# %%
import jax
import matplotlib.pyplot as plt
import numpy as np

from wan_jax.diffusion.solvers import make_steps
from wan_jax.experts import segments
from wan_jax.pipelines.loading import read_config

plt.rcParams |= {"figure.dpi": 60, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
HIGH, LOW = "#8e4585", "#1b7f79"
EXPERTS = (("high noise", HIGH), ("low noise", LOW))


def plan(config):
    """The noise levels of the model's own run, and who does which steps."""
    own = config.sampling
    schedule, _ = make_steps(own.solver, own.num_inference_steps, own.flow_shift)
    return schedule.sigmas, segments(schedule.timesteps, config.boundary_ratio)


figure, axes = plt.subplots(1, 3, figsize=(12, 3), sharey=True)
for axis, name in zip(axes, ("wan_mini", "wan22_t2v_a14b", "wan22_i2v_a14b")):
    config = read_config(name)
    sigmas, stretches = plan(config)
    for stretch in stretches:
        steps = np.arange(stretch.start, stretch.stop)
        label, colour = EXPERTS[stretch.expert]
        axis.bar(steps, sigmas[steps], color=colour, label=f"{label}: {len(steps)} of {len(sigmas) - 1} steps")
    axis.axhline(config.boundary_ratio, color="black", linewidth=0.8, linestyle=":")
    axis.set_title(f"{name}, shift {config.sampling.flow_shift:g}"), axis.set_xlabel("step"), axis.legend()
axes[0].set_ylabel("σ before the step")
plt.show()

# %% [markdown]
# In words of signal and noise: at the boundary of 0.875 the ratio of their powers, $((1-\sigma)/\sigma)^2$, is 0.02,
# so the high-noise expert never sees more than that. The *shift* bends the grid towards high noise and so gives it
# more steps.

# %%
for boundary in (0.875, 0.9):
    snr = ((1 - boundary) / boundary) ** 2
    print(f"boundary {boundary}: signal to noise {snr:.4f}, {10 * np.log10(snr):.1f} dB")

# %% [markdown]
# ## Total and active parameters
# Both experts have to be stored; in each step one computes.

# %%
import math

from wan_jax.models import abstract_params

for name in ("wan_mini", "wan22_t2v_a14b"):
    config = read_config(name)
    leaves = jax.tree.leaves(abstract_params(config.transformer, np.float32))
    active = sum(math.prod(leaf.shape) for leaf in leaves)
    print(f"{name:15} {active / 1e6:10,.2f} M active, {2 * active / 1e6:10,.2f} M in both experts")

# %% [markdown]
# ## Watch them work
# After every step the model's idea of the finished video (`denoised`) is shown: the middle frame, as colours that a
# linear map makes of the latents. The frame around it tells who was at work.

# %%
import os

os.environ.setdefault("WAN_JAX_CACHE", "files/cache")  # compiled programs

from PIL import Image

from wan_jax import WanPipeline
from wan_jax.pipelines.preview import colours_of, fit_colours

dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
pipe = WanPipeline.from_pretrained("wan_mini", dtype=dtype)
pipe.set_progress_bar_config(disable=True)
colours, boundary = fit_colours(pipe), pipe.config.boundary_ratio


def preview(prompt, **options):
    """A picture of what the video was going to be, after every step."""
    tiles = []

    def watch(pipe, step, timestep, tensors):
        latents = np.moveaxis(np.asarray(tensors["denoised"])[0], 0, -1)  # [c f h w] to [f h w c]
        tile = np.kron(colours_of(latents, colours)[len(latents) // 2], np.ones((4, 4, 1)))
        at_work = int(timestep < boundary * 1000)
        edge = np.array([int(EXPERTS[at_work][1][i : i + 2], 16) / 255 for i in (1, 3, 5)])
        framed = np.broadcast_to(edge, (tile.shape[0] + 8, tile.shape[1] + 8, 3)).copy()
        framed[4:-4, 4:-4] = tile
        tiles.append(framed)

    frames = pipe(prompt, callback_on_step_end=watch, **options).frames[0]
    rows = [np.concatenate(tiles[i : i + 10], axis=1) for i in range(0, len(tiles), 10)]
    return frames, Image.fromarray((np.concatenate(rows) * 255).astype(np.uint8)).quantize(128)


PROMPT, STEPS = "a large red ball bounces on green grass", 10
frames, picture = preview(PROMPT, seed=0, num_inference_steps=STEPS)
picture

# %% [markdown]
# The scene, its colours and where things are stand after the first steps; then outlines and texture become sharp.
# That is the division of labour that Wan2.2's authors describe: layout and motion at high noise, detail at low.
#
# ## Let others do the work
# The boundary is a number of the model's config. Above every timestep it leaves all steps to the low-noise expert; at
# 0 the high-noise expert does them all. To swap the experts is to exchange two parameter trees, which the one
# compiled program takes as an argument: nothing is compiled again.

# %%
from dataclasses import replace

from wan_jax.pipelines.eval_mini import held_out_prompts
from wan_jax.world.look import look

ASKED = held_out_prompts(3, "english", seed=1)  # combinations that it was never trained on
config = pipe.config


def generate():
    return [np.asarray(pipe(text, seed=i, num_inference_steps=STEPS).frames[0]) for i, (text, _) in enumerate(ASKED)]


made = {"as trained": generate()}
for name, ratio in (("low alone", 1.1), ("high alone", 0.0)):
    pipe.config = replace(config, boundary_ratio=ratio)
    made[name] = generate()
pipe.config = config

names = config.transformers
experts = {name: pipe.weights[name] for name in names}
for name, other in zip(names, reversed(names)):
    pipe.weights.change(name, lambda _, other=other: experts[other])
made["swapped"] = generate()
pipe.weights.restore(*names)

# %% [markdown]
# Rows: the three prompts. Columns: the first, middle and last frame, for each of the four.

# %%
rows = [
    np.concatenate([clips[i][frame] for clips in made.values() for frame in (0, 16, 32)], axis=1)
    for i in range(len(ASKED))
]
figure, axis = plt.subplots(figsize=(13, 3.6))
axis.imshow(np.concatenate(rows)), axis.axis("off")
for i, name in enumerate(made):
    axis.text(128 * (3 * i + 1.5), -8, name, ha="center")
    axis.axvline(128 * 3 * i - 0.5, color="white", linewidth=3)
plt.show()
for text, _ in ASKED:
    print(text)

# %% [markdown]
# Thresholds, areas and centres measure what a clip of this little world shows; here the things that are right of those
# that were asked for.

# %%
for name, clips in made.items():
    right = [look(clip).agrees(truth) for clip, (_, truth) in zip(clips, ASKED)]
    wrong = sorted({key for each in right for key, fine in each.items() if not fine})
    print(
        f"{name:11} {sum(map(sum, (r.values() for r in right)))} of {sum(map(len, right))}   wrong: {', '.join(wrong)}"
    )

# %% [markdown]
# Three videos are an illustration. Measured with 200 held-out prompts in each language and 20 steps
# ([card](../wan_jax/weights/wan_mini/README.md)), this much is right:
#
# | | English | Chinese |
# |---|---|---|
# | each expert its own steps | 93.1 % | 92.4 % |
# | the low-noise expert for all steps | 89.1 % | 89.0 % |
# | each does the other's steps | 56.2 % | 59.3 % |
# | chance: prompts dealt anew | 25.6 % | 28.2 % |
#
# The low-noise expert of this model began as one that was trained on all noise levels, and still gets along alone; the
# high-noise one adds 4.0 and 3.4 points, most of them in motion. `python -m wan_jax eval-mini --experts swapped`
# repeats it.
#
# ## Move the switch
# The same prompt and noise with the boundary elsewhere:

# %%
strips = []
for ratio in (0.95, 0.875, 0.7, 0.4):
    pipe.config = replace(config, boundary_ratio=ratio)
    schedule, _ = make_steps("unipc", STEPS, config.sampling.flow_shift)
    high = int(np.sum(schedule.timesteps >= ratio * 1000))
    frames = np.asarray(pipe(PROMPT, seed=0, num_inference_steps=STEPS).frames[0])
    strips.append(np.concatenate(frames[::4], axis=1))
    print(f"boundary {ratio}: {high} steps of the high-noise expert, {STEPS - high} of the other")
pipe.config = config
strip = Image.fromarray((np.concatenate(strips) * 255).astype(np.uint8))
strip.resize((strip.width // 2, strip.height // 2)).quantize(64)

# %% [markdown]
# **Next:** train them. [`train_wan22_t2v.py`](../configs/train_wan22_t2v.py) trains both experts of the large model,
# each on the timesteps it will see, and [`train_wan_mini.py`](../configs/train_wan_mini.py) those you have just
# watched.
