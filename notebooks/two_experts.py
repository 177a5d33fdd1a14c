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
# ## Where
# `FOLDER` keeps compiled programs for the next session; on Colab, a folder of Drive.

# %%
FOLDER = "files"

from runtime import prepare

dtype = prepare(FOLDER)

# %% [markdown]
# ## Where the switch lies
# The noise level $\sigma$ falls from 1 to 0 in a run. The high-noise expert works while the timestep, $1000\,\sigma$
# cut to an integer, is at least 1000 times the model's `boundary_ratio`. The steps are known before the run, so both
# stretches are too. This is all of [`experts.py`](../wan_jax/experts.py), and nothing on the device ever chooses:
#
# ```python
# high = sum(timesteps >= boundary_ratio * 1000)
# return [Segment(expert=0, start=0, stop=high), Segment(expert=1, start=high, stop=steps)]
# ```

# %%
from figures import save

from wan_jax.explain import experts
from wan_jax.explain import figures as draw
from wan_jax.pipelines.loading import read_config

MODELS = {name: read_config(name) for name in ("wan_mini", "wan22_t2v_a14b", "wan22_i2v_a14b")}
plans = {f"{name}, shift {config.sampling.flow_shift:g}": experts.plan(config) for name, config in MODELS.items()}
boundaries = dict(zip(plans, (config.boundary_ratio for config in MODELS.values())))
save(draw.noise_plans(plans, boundaries), "experts_plans", "Who does which step; dashed: where the experts change")

# %% [markdown]
# The *shift* moves steps towards high noise and so gives the first expert more of them. In words of signal and noise,
# of which the powers are as $((1-\sigma)/\sigma)^2$ to 1, and in parameters, counted from the shapes of the networks:

# %%
for name, config in MODELS.items():
    switch = experts.Step(config.boundary_ratio, int(1000 * config.boundary_ratio), 0)
    size = experts.parameters(config)
    print(
        f"{name:15} changes at σ = {switch.sigma:<5}  signal to noise {switch.snr:.4f} = {switch.snr_db:.1f} dB   "
        f"{size.active / 1e6:,.2f} M parameters at work of {size.total / 1e6:,.2f} M"
    )

# %% [markdown]
# Wan's authors call theirs 27B in all and 14B active.
#
# ## Watch them work
# After every step the model's idea of the finished video (`denoised`) becomes a picture by a linear map from latents to
# colours: here its middle frame, with the colour of who was at work around it.

# %%
from wan_jax import WanPipeline
from wan_jax.explain.trace import moved_boundary, swapped, trace
from wan_jax.pipelines.preview import fit_colours

pipe = WanPipeline.from_pretrained("wan_mini", dtype=dtype)
pipe.set_progress_bar_config(disable=True)
PROMPT = "a large red ball bounces on green grass"
colours = fit_colours(pipe)
run = trace(pipe, PROMPT, colours=colours)
save(
    draw.contact_sheet(run),
    "experts_at_work",
    "20 steps: purple frames are of the high-noise expert, green of the low",
)

# %% [markdown]
# ## Let others do the work
# The boundary is a number of the config: at 0 the high-noise expert does all steps, at 1 the low-noise expert. To swap
# the experts is to exchange two parameter trees, which the one compiled program takes as an argument: nothing is
# compiled again. The prompts are combinations of colour, shape and motion that were never trained on; 8 steps.

# %%
from contextlib import nullcontext

import numpy as np

from wan_jax.pipelines.eval_mini import held_out_prompts

STEPS = 8
asked, truths = zip(*held_out_prompts(2, "english", seed=1))
MODES = {
    "own steps": nullcontext(),
    "low alone": moved_boundary(pipe, 1.0),
    "high alone": moved_boundary(pipe, 0.0),
    "swapped": swapped(pipe),
}
made = {}
for name, mode in MODES.items():
    with mode:
        made[name] = [np.asarray(pipe(text, num_inference_steps=STEPS).frames[0]) for text in asked]
print(*asked, sep="\n")

# %%
from figures import rows

sheet = {name: np.concatenate([clip[i] for clip in clips for i in (0, 16, 32)], 1) for name, clips in made.items()}
save(rows(sheet), "experts_swapped", "First, middle and last frame of two videos, by who did the steps")

# %% [markdown]
# Late steps by the high-noise expert, in the two lower rows, leave rough edges and texture. Thresholds, areas and
# centres measure what a clip of this little world shows
# ([`look.py`](../wan_jax/world/look.py)); here, of what was asked for, the part that is right:

# %%
from wan_jax.world.look import look

for name, clips in made.items():
    right = [look(clip).agrees(truth) for clip, truth in zip(clips, truths)]
    wrong = sorted({key for one in right for key, fine in one.items() if not fine})
    good, all_of_them = sum(sum(one.values()) for one in right), sum(map(len, right))
    print(f"{name:13} {good} of {all_of_them}   wrong somewhere: {', '.join(wrong) or 'nothing'}")

# %% [markdown]
# Two videos are an illustration. What is known of the division of labour, and from where; what is *reported* was said
# by Wan's authors and not measured here:

# %%
from IPython.display import Markdown

lines = ["| | high-noise expert | low-noise expert | source |", "|---|---|---|---|"]
for fact in experts.FACTS:
    kind = "reported" if fact.reported else "measured"
    lines.append(f"| {fact.what} | {fact.high} | {fact.low} | {kind}: {fact.source} |")
Markdown("\n".join(lines))

# %% [markdown]
# The low-noise expert of `wan_mini` began as one that was trained on all noise levels, and still gets along alone. With
# 200 prompts in each language and 20 steps this is repeated by `python -m wan_jax eval-mini --experts swapped`.
#
# ## Move the switch
# The same prompt and noise in 8 steps, with the boundary elsewhere; how far each video is from that with the model's
# own boundary is told in dB of PSNR:

# %%
from figures import strip

from wan_jax.metrics import psnr

own = np.asarray(trace(pipe, PROMPT, num_inference_steps=STEPS, colours=colours).frames)
strips = {f"{pipe.config.boundary_ratio}, its own": strip(own)}
for ratio in (0.95, 0.6, 0.3):
    moved = trace(pipe, PROMPT, num_inference_steps=STEPS, boundary=ratio, colours=colours)
    strips[f"{ratio}: {moved.switch} steps high"] = strip(moved.frames)
    print(
        f"boundary {ratio}: {moved.switch} of {STEPS} steps high, {float(psnr(np.asarray(moved.frames), own)):.1f} dB"
    )
save(rows(strips), "experts_boundary", "One prompt and one noise, with the experts changing at four noise levels")

# %% [markdown]
# **Next:** train them. [`train_wan22_t2v.py`](../configs/train_wan22_t2v.py) trains both experts of the large model,
# each on the timesteps it will see, and [`train_wan_mini.py`](../configs/train_wan_mini.py) those that you have just
# watched. In the Explorer you move the boundary yourself: `python -m wan_jax app`.
