# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)][colab]
#
# [colab]: https://colab.research.google.com/github/OWNER/wan_jax/blob/main/notebooks/flow_matching.ipynb
#
# # Flow matching
#
# Wan is trained by flow matching: a network learns the velocity that carries noise to data along straight paths.
# Here the same small network learns points in the plane, once so and once as diffusion, and you see both move, measure
# how straight they go and how many steps they need. Then the same is looked for in the latents of a video model.

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
# ## The path and its velocity
# Let $x_0$ be data, $\varepsilon$ Gaussian noise, and the noise level $\sigma$ run from 1 (noise) to 0 (data). All of
# wan_jax states it once, in [`diffusion/flow.py`](../wan_jax/diffusion/flow.py):
#
# $$x_\sigma = (1-\sigma)\,x_0 + \sigma\,\varepsilon \qquad v = \frac{dx}{d\sigma} = \varepsilon - x_0 \qquad
# \hat x_0 = x_\sigma - \sigma v$$
#
# The network sees $x_\sigma$ and $\sigma$ and is to say $v$, by least squares. It cannot know which pair
# $(x_0, \varepsilon)$ led there, so it learns the *mean* velocity of all that could have. To follow that mean from
# $\sigma = 1$ to 0 turns noise into samples of the data. This is all there is to a training step:
#
# ```python
# predicted = network(interpolate(clean, noise, sigma), sigma)
# loss = mean((predicted - velocity(clean, noise)) ** 2)
# ```
#
# Diffusion keeps the variance instead, $x_t = \alpha_t x_0 + \sqrt{1 - \alpha_t^2}\,\varepsilon$, and its network says
# $\varepsilon$. Between the same two points the one path is a chord, evenly run, and the other an arc:

# %%
from figures import save

from wan_jax.explain import figures as draw
from wan_jax.explain.plane import DIFFUSION, FLOW

figure = draw.pair_paths((FLOW, DIFFUSION), clean=[-1.2, 0.4], noise=[0.5, 1.3])
save(figure, "flow_paths", "One pair of data and noise: the path of flow matching, and that of diffusion")

# %% [markdown]
# ## The same network, trained in both ways
# Three hidden layers of 64, three networks each from three seeds, the same data, optimiser, batch and number of steps
# ([`learning.py`](../wan_jax/explain/learning.py)); the whole training of all seeds is one jitted `lax.scan`. A third
# training comes after: flow matching once more, on the pairs of noise and data that the first one has made. That is
# the second round of [rectified flow](https://arxiv.org/abs/2209.03003).

# %%
import time

from wan_jax.explain.comparison import compare

known, started = {}, time.monotonic()
for data in ("eight Gaussians", "two moons"):
    *_, known[data] = compare(data)
    print(f"{data}: {time.monotonic() - started:.0f} s")

eight = known["eight Gaussians"]
save(draw.ways(eight), "flow_ways", "From noise to data in 100 steps: 120 ways of each, where 300 end, and the data")

# %% [markdown]
# The field that flow matching has learned. At $\sigma = 1$ nothing is known of the data that belong to a point, so all
# arrows show to the mean of the data; the clusters pull only where little noise is left. The ways turn in between,
# though each pair's own path is straight.

# %%
save(draw.velocity_field(eight), "flow_field", "The learned velocity, towards the data, at four noise levels")

# %% [markdown]
# ## How straight?
# Two measures ([`measures.py`](../wan_jax/explain/measures.py)). The *detour* is of the drawn line alone: its length
# over the distance of its ends. $S$ is that of rectified flow, here relative to the way:
#
# $$S = \frac{\int_0^1 \mathrm{E}\,\lVert (x_1 - x_0) - \dot x_t \rVert^2\,dt}{\mathrm{E}\,\lVert x_1 - x_0 \rVert^2}$$
#
# It is 0 where one Euler step makes no error. A solver feels $S$: it asks for the velocity at a few times and trusts it
# until the next.
#
# ## Steps to quality
# The distance of 2,000 samples to 2,000 fresh points of the data: the sliced Wasserstein distance, which projects both
# on many directions, sorts, and compares. Bands are the range of the seeds. Diffusion is sampled by DDIM, and by Euler
# on its probability flow.

# %%
save(draw.qualities(eight), "flow_quality", "Eight Gaussians: distance to the data against the number of steps")

# %% [markdown]
# What was found, in words that are written from the numbers of your run
# ([`finding.py`](../wan_jax/explain/finding.py)); where the seeds overlap, it says so:

# %%
from wan_jax.explain.finding import finding

for data, comparison in known.items():
    print(data.upper(), *finding(comparison), sep="\n  ")

# %% [markdown]
# So "flow matching is straight" is a statement about the paths of pairs, not about what is learned from them: the mean
# velocity bends. Few steps come from straight *learned* ways, as the third training shows, where pairs are such that
# their paths hardly cross. Distilling a video model to four steps works towards the same end by other means
# (`generate --preset lightning`).
#
# ## The same in the latents of a video
# `wan_mini` is a Wan2.2 of 12.6 million parameters; its video is 9 × 16 × 16 latents of 16 channels. Here are its ways
# from one noise, in its 20 steps, here even ones of Euler, without guidance and with it.

# %%
from wan_jax import WanPipeline
from wan_jax.explain import measures
from wan_jax.explain.trace import trace
from wan_jax.pipelines.preview import fit_colours

pipe = WanPipeline.from_pretrained("wan_mini", dtype=dtype)
pipe.set_progress_bar_config(disable=True)
PROMPT = "a large red ball bounces on green grass"
colours = fit_colours(pipe)
runs = {
    name: trace(pipe, PROMPT, solver="euler", flow_shift=1.0, guidance_scale=scale, colours=colours)
    for name, scale in (("without guidance", 1.0), ("guidance 3", 3.0))
}
for name, run in runs.items():
    path = run.path[:, None]  # one way
    print(f"{name:17} S {measures.straightness(path):.3f}   length over chord {measures.bend(path)[0]:.3f}")

# %%
sigmas = [*(step.sigma for step in runs["guidance 3"].steps), 0.0]
figure = draw.latent_ways({name: run.path for name, run in runs.items()}, sigmas, pipe.config.boundary_ratio)
save(figure, "flow_in_latents", "wan_mini: how a run turns from step to step, and its way in a plane of the latents")

# %% [markdown]
# Without guidance the way is nearly straight. Guidance moves each velocity away from that of the negative prompt, which
# bends the way, most at high noise.
#
# A grid that puts its steps where the way turns needs fewer. That is what `flow_shift` does, which moves steps to high
# noise, and what a multistep solver adds, which remembers earlier predictions. The relative distance of the final
# latents to those of 20 UniPC steps from the same noise, without guidance:

# %%
import numpy as np


def end(steps, solver, shift):
    options = {"num_inference_steps": steps, "solver": solver, "flow_shift": shift, "guidance_scale": 1.0}
    return pipe(PROMPT, output_type="latent", **options).frames


reference = end(20, "unipc", 3.0)
print("steps               ", *(f"{steps:6}" for steps in (4, 8)))
for solver, shift in (("euler", 1.0), ("euler", 3.0), ("unipc", 3.0)):
    off = [np.linalg.norm(end(n, solver, shift) - reference) / np.linalg.norm(reference) for n in (4, 8)]
    print(f"{solver:6} at shift {shift:g}   ", *(f"{value:6.3f}" for value in off))

# %% [markdown]
# One prompt and one noise show where a way turns, and prove nothing about quality. That was measured on 400 held-out
# prompts with UniPC at shift 3 ([card](../wan_jax/weights/wan_mini/README.md)): 4, 10, 20 and 50 steps show 83, 92, 93
# and 93 % of what was asked for.
#
# **Next:** [two_experts](two_experts.ipynb): why the noise level is a division of labour too. In the code:
# [`flow.py`](../wan_jax/diffusion/flow.py), [`schedules.py`](../wan_jax/diffusion/schedules.py),
# [`solvers.py`](../wan_jax/diffusion/solvers.py). The Explorer has the plane with live training:
# `python -m wan_jax app`.
