# %% [markdown]
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)][colab]
#
# [colab]: https://colab.research.google.com/github/OWNER/wan_jax/blob/main/notebooks/flow_matching.ipynb
#
# # Flow matching
#
# Wan is trained by flow matching: a network learns the velocity that carries noise to data along straight paths.
# Here the same small network is trained live in both ways, as flow matching and as diffusion, on points in the plane;
# then the same ideas are looked for in the latents of a video model.

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
# ## The path and its velocity
# Let $x_0$ be data, $\varepsilon$ Gaussian noise, and the noise level $\sigma$ run from 1 (noise) to 0 (data). All of
# wan_jax states it once, in [`diffusion/flow.py`](../wan_jax/diffusion/flow.py):
#
# $$x_\sigma = (1-\sigma)\,x_0 + \sigma\,\varepsilon \qquad v = \frac{dx}{d\sigma} = \varepsilon - x_0 \qquad
# \hat x_0 = x_\sigma - \sigma v$$
#
# A network is trained to predict $v$ from $x_\sigma$ and $\sigma$ by least squares. It cannot know which pair
# $(x_0, \varepsilon)$ led to $x_\sigma$, so it learns the *mean* velocity there. Following that mean from $\sigma=1$
# to 0 turns noise into samples of the data. Each pair's path is straight; the paths of the mean velocity bend where
# pairs cross.

# %%
from functools import partial

import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from wan_jax.diffusion.flow import interpolate, velocity

plt.rcParams |= {"figure.dpi": 60, "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False}
FLOW, DIFFUSION, DDIM, INK = "#1b7f79", "#d1495b", "#edae49", "#30323d"


def draw_data(key, count):
    """Points [n 2] in eight clusters on a circle of radius 2."""
    which, blur = jax.random.split(key)
    angle = 2 * jnp.pi / 8 * jax.random.randint(which, (count,), 0, 8)
    return 2 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], 1) + 0.1 * jax.random.normal(blur, (count, 2))


# %% [markdown]
# ## Two ways to add noise
# Diffusion keeps the variance instead: $x_t = \alpha_t x_0 + \sigma_t \varepsilon$ with $\alpha_t^2 + \sigma_t^2 =
# 1$, here by the linear-β schedule of DDPM and score-based models, and its network predicts $\varepsilon$. Between
# the same two points, the one path is a chord and the other an arc:


# %%
def flow_path(t):
    return 1 - t, t


def diffusion_path(t):
    """The variance-preserving SDE with β from 0.1 to 20 (arXiv:2011.13456)."""
    log_alpha = -(t**2) * (20 - 0.1) / 4 - t * 0.1 / 2
    return jnp.exp(log_alpha), jnp.sqrt(-jnp.expm1(2 * log_alpha))


t = jnp.linspace(0, 1, 21)
data, noise = jnp.array([-1.2, 0.4]), jnp.array([0.5, 1.3])
figure, axes = plt.subplots(1, 2, figsize=(9, 3))
for name, path, colour in (("flow matching", flow_path, FLOW), ("diffusion", diffusion_path, DIFFUSION)):
    alpha, sigma = path(t)
    points = alpha[:, None] * data + sigma[:, None] * noise
    axes[0].plot(*points.T, ".-", color=colour, label=name)
    axes[1].plot(t, alpha, color=colour)
    axes[1].plot(t, sigma, "--", color=colour)
axes[0].annotate("data", data), axes[0].annotate("noise", noise), axes[0].legend()
axes[0].set_title("one pair, 20 equal steps of time"), axes[1].set_title("α (line) and σ (dashed) over t")
plt.show()

# %% [markdown]
# ## The same network, trained twice
# Three hidden layers of 64. Data, noise, times, optimiser and number of steps are the same for both; only the path and
# the target differ.

# %%
import time

import flax.linen as nn
import optax


class Network(nn.Module):
    """What is to be predicted at points [n 2] at times [n]."""

    @nn.compact
    def __call__(self, x, t):
        waves = t[:, None] * jnp.pi * 2.0 ** jnp.arange(-1, 4)
        h = jnp.concatenate([x, jnp.sin(waves), jnp.cos(waves)], 1)
        for _ in range(3):
            h = nn.silu(nn.Dense(64)(h))
        return nn.Dense(2)(h)


STEPS, BATCH, network = 4000, 512, Network()
optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, STEPS))


def flow_loss(params, x0, noise, t):
    predicted = network.apply(params, interpolate(x0, noise, t[:, None]), t)
    return jnp.mean((predicted - velocity(x0, noise)) ** 2)


def diffusion_loss(params, x0, noise, t):
    alpha, sigma = diffusion_path(t[:, None])
    return jnp.mean((network.apply(params, alpha * x0 + sigma * noise, t) - noise) ** 2)


@partial(jax.jit, static_argnums=0)
def train(loss, seed):
    def step(carry, key):
        params, state = carry
        a, b, c = jax.random.split(key, 3)
        x0, noise = draw_data(a, BATCH), jax.random.normal(b, (BATCH, 2))
        value, gradient = jax.value_and_grad(loss)(params, x0, noise, jax.random.uniform(c, (BATCH,), minval=1e-3))
        updates, state = optimizer.update(gradient, state)
        return (optax.apply_updates(params, updates), state), value

    params = network.init(jax.random.key(seed), jnp.zeros((1, 2)), jnp.zeros(1))
    (params, _), losses = jax.lax.scan(
        step, (params, optimizer.init(params)), jax.random.split(jax.random.key(1), STEPS)
    )
    return params, losses


trained = {}
for name, loss in (("flow", flow_loss), ("diffusion", diffusion_loss)):
    started = time.monotonic()
    trained[name], losses = jax.block_until_ready(train(loss, 0))
    # The two losses measure different things and are not to be compared.
    print(f"{name}: loss {losses[:50].mean():.3f} → {losses[-500:].mean():.3f} in {time.monotonic() - started:.0f} s")

# %% [markdown]
# ## From noise to data
# Both are sampled by an ordinary differential equation. For diffusion that is the *probability flow*
# $\frac{dx}{dt} = -\frac{\beta_t}{2}\left(x - \varepsilon / \sigma_t\right)$, which has the same marginals as its
# random process. `ddim` is the solver that diffusion models are really sampled with: it steps in a way that makes the
# bend of the arc itself harmless.


# %%
def euler_flow(params, x, now, then):
    return x + (then - now) * network.apply(params, x, jnp.full(len(x), now))


def euler_diffusion(params, x, now, then):
    noise, beta = network.apply(params, x, jnp.full(len(x), now)), 0.1 + now * (20 - 0.1)
    return x - (then - now) * beta / 2 * (x - noise / diffusion_path(now)[1])


def ddim(params, x, now, then):
    noise = network.apply(params, x, jnp.full(len(x), now))
    (alpha, sigma), (alpha_then, sigma_then) = diffusion_path(now), diffusion_path(then)
    return alpha_then * (x - sigma * noise) / alpha + sigma_then * noise


@partial(jax.jit, static_argnums=(0, 3))
def sample(rule, params, noise, steps):
    """The points of the ways from noise to data [steps + 1, n, 2]."""

    def step(x, span):
        x = rule(params, x, *span)
        return x, x

    times = jnp.linspace(1, 0, steps + 1)
    _, path = jax.lax.scan(step, noise, (times[:-1], times[1:]))
    return jnp.concatenate([noise[None], path])


noise, truth = jax.random.normal(jax.random.key(2), (4000, 2)), draw_data(jax.random.key(3), 4000)
paths = {
    "flow matching": sample(euler_flow, trained["flow"], noise, 250),
    "diffusion": sample(euler_diffusion, trained["diffusion"], noise, 250),
}
figure, axes = plt.subplots(1, 3, figsize=(12, 4), sharex=True, sharey=True)
for axis, (name, path), colour in zip(axes, paths.items(), (FLOW, DIFFUSION)):
    axis.plot(*np.asarray(path[:, :120]).transpose(2, 0, 1), color=colour, linewidth=0.6, alpha=0.7)
    axis.plot(*path[-1, :1500].T, ".", color=INK, markersize=1.5)
    axis.set_title(f"{name}: 120 trajectories")
axes[2].plot(*truth[:1500].T, ".", color=INK, markersize=1.5)
axes[2].set_title("data"), axes[2].set_xlim(-3, 3), axes[2].set_ylim(-3, 3)
plt.show()

# %% [markdown]
# ## How straight?
# Two measures. *Bend* is of the drawn line alone: its length over the distance between its ends, 1 where it is
# straight. *Straightness* is that of rectified flow (arXiv:2209.03003): how far the velocity is from being constant,
#
# $$S = \frac{\int_0^1 \mathrm{E}\,\lVert (x_1 - x_0) - \dot x_t \rVert^2\,dt}{\mathrm{E}\,\lVert x_1 - x_0 \rVert^2},$$
#
# 0 where one Euler step would make no error. A solver feels the second: it asks for the velocity at a few times and
# trusts it until the next.


# %%
def bend(path):
    """Length of the way over distance of its ends, for each trajectory of [steps + 1, n, …]."""
    path = np.asarray(path, np.float64).reshape(len(path), path.shape[1], -1)
    length = np.linalg.norm(np.diff(path, axis=0), axis=-1).sum(0)
    return length / np.linalg.norm(path[-1] - path[0], axis=-1)


def straightness(path):
    """How far the velocity is from constant along [steps + 1, n, …]."""
    path = np.asarray(path, np.float64).reshape(len(path), path.shape[1], -1)
    chord, velocities = path[-1] - path[0], np.diff(path, axis=0) * (len(path) - 1)
    return np.mean(np.sum((velocities - chord) ** 2, -1)) / np.mean(np.sum(chord**2, -1))


figure, axis = plt.subplots(figsize=(7, 2.6))
for (name, path), colour in zip(paths.items(), (FLOW, DIFFUSION)):
    speed = np.linalg.norm(np.diff(np.asarray(path), axis=0), axis=-1).mean(1) * (len(path) - 1)
    axis.plot(np.linspace(1, 0, len(speed)), speed, color=colour, label=name)
    print(f"{name:13}  bend, median: {np.median(bend(path)):.2f}   straightness (0 is best): {straightness(path):.2f}")
axis.invert_xaxis(), axis.set_xlabel("time, from noise to data"), axis.set_ylabel("mean speed"), axis.legend()
plt.show()

# %% [markdown]
# The answer depends on what is asked. Near pure noise the mean velocity of flow matching points at the mean of all
# data, so the points go inwards first and out to their cluster later: in the plane that is a detour, and the drawn
# lines of diffusion bend *less*. But diffusion does most of its way in a short time, and flow matching moves much
# more evenly.

# %% [markdown]
# ## Steps to quality
# The distance between 4,000 samples and 4,000 points of the data, as the sliced Wasserstein distance: project both on
# many directions, sort, compare. Two sets of real data are the floor. Lines are means over three draws of the noise.
# Beside Euler runs UniPC, Wan's own solver, from the very table of weights that makes videos.

# %%
from wan_jax.diffusion.solvers import SolverState, make_steps, solver_step

angles = np.linspace(0, np.pi, 64, endpoint=False)
DIRECTIONS = jnp.asarray(np.stack([np.cos(angles), np.sin(angles)]), jnp.float32)


def distance(a, b):
    return float(jnp.mean(jnp.abs(jnp.sort(a @ DIRECTIONS, 0) - jnp.sort(b @ DIRECTIONS, 0))))


@partial(jax.jit, static_argnums=2)
def unipc_flow(params, noise, steps):
    """Points as videos [n 1 1 1 2] of one pixel."""
    table = jax.tree.map(jnp.asarray, make_steps("unipc", steps, shift=1.0)[1])

    def step(i, state):
        v = network.apply(params, state.sample[:, 0, 0, 0], jnp.full(len(noise), table.sigma[i]))
        return solver_step(state, v[:, None, None, None], table, i)

    return jax.lax.fori_loop(0, steps, step, SolverState.init(noise[:, None, None, None])).sample[:, 0, 0, 0]


def end_of(rule, params, noise, steps):
    return sample(rule, params, noise, steps)[-1]


METHODS = {
    "flow matching, Euler": (partial(end_of, euler_flow), "flow", FLOW, "o-"),
    "flow matching, UniPC": (unipc_flow, "flow", FLOW, "s:"),
    "diffusion, Euler": (partial(end_of, euler_diffusion), "diffusion", DIFFUSION, "o-"),
    "diffusion, DDIM": (partial(end_of, ddim), "diffusion", DDIM, "o-"),
}
COUNTS, keys = (1, 2, 4, 8, 16, 32, 64), jax.random.split(jax.random.key(4), 3)
floor = np.mean([distance(draw_data(key, 4000), truth) for key in keys])
starts = [jax.random.normal(key, (4000, 2)) for key in keys]
figure, axis = plt.subplots(figsize=(7, 4))
print("steps".ljust(22), *(f"{n:6}" for n in COUNTS))
for name, (run, weights, colour, style) in METHODS.items():
    found = [np.mean([distance(run(trained[weights], x, n), truth) for x in starts]) for n in COUNTS]
    axis.loglog(COUNTS, found, style, color=colour, label=name)
    print(name.ljust(22), *(f"{value:6.3f}" for value in found))
axis.axhline(floor, color=INK, linewidth=0.8), axis.text(1, floor * 1.05, "real data against real data")
axis.set_xlabel("steps (network evaluations)"), axis.set_ylabel("distance to the data"), axis.legend()
plt.show()

# %% [markdown]
# With four or eight steps flow matching comes closer to these data than diffusion does by either of its solvers; with
# many, all end at the same place. A single step shows little: flow matching and DDIM jump to the mean of the data,
# and Euler on the diffusion path hardly moves.
#
# What was compared is one path, grid and target with another, not two kinds of model. At equal ratios $\sigma/\alpha$
# the two paths differ by a factor alone, and an Euler step of flow matching *is* the DDIM step of its path: DDIM at
# the noise levels of flow matching would do the same. Flow matching is the choice for which the plainest solver and
# an even grid are good already.
#
# ## The same in the latents of a video
# `wan_mini` is a Wan2.2 of 12.6 million parameters; a video of its is 9 × 16 × 16 latents of 16 channels. We follow
# it for 20 Euler steps, evenly spaced (`flow_shift=1`), without guidance, which would bend the flow on purpose, and
# then with it.

# %%
import os

os.environ.setdefault("WAN_JAX_CACHE", "files/cache")  # compiled programs

from wan_jax import WanPipeline

dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
pipe = WanPipeline.from_pretrained("wan_mini", dtype=dtype)
pipe.set_progress_bar_config(disable=True)
prompt, shape = "a large red ball bounces on green grass", (1, 16, 9, 16, 16)


def follow(steps, **options):
    """The latents [steps + 1, …] along a run, in float32; `seed` gives the noise."""
    path = [np.asarray(jax.random.normal(jax.random.key(0), shape))]
    keep = lambda pipe, step, timestep, tensors: path.append(np.asarray(tensors["latents"]))  # noqa: E731
    options = {"solver": "euler", "flow_shift": 1.0} | options
    pipe(prompt, latents=path[0], num_inference_steps=steps, output_type="latent", callback_on_step_end=keep, **options)
    return np.stack(path)


plain, guided = follow(20, guidance_scale=1.0), follow(20)
for name, path in (("without guidance", plain), ("guidance 3", guided)):
    print(f"{name:17} bend {bend(path)[0]:.3f}   straightness {straightness(path):.3f}")

# %% [markdown]
# Where does it bend? Two steps that follow each other go the same way where the cosine between them is 1. And a view of
# the whole: the plane of the way that a run takes from noise to video, and of what bends it most.

# %%
figure, axes = plt.subplots(1, 2, figsize=(11, 3.4))
for name, path, colour in (("without guidance", plain, FLOW), ("guidance 3", guided, DIFFUSION)):
    flat = path.reshape(len(path), -1)
    moves = np.diff(flat, axis=0)
    unit = moves / np.linalg.norm(moves, axis=1, keepdims=True)
    axes[0].plot(
        np.linspace(1, 0, len(unit) + 1)[1:-1], np.sum(unit[1:] * unit[:-1], 1), ".-", color=colour, label=name
    )
    along = (flat[-1] - flat[0]) / np.linalg.norm(flat[-1] - flat[0])
    aside = flat - flat[0] - np.outer((flat - flat[0]) @ along, along)
    side = np.linalg.svd(aside, full_matrices=False)[2][0]
    axes[1].plot((flat - flat[0]) @ along, aside @ side * np.sign((aside @ side).sum()), ".-", color=colour)
axes[0].axvline(pipe.config.boundary_ratio, color=INK, linestyle=":")
axes[0].set_xlabel("σ (dotted: the experts change)"), axes[0].set_ylabel("cosine of successive steps")
axes[0].invert_xaxis(), axes[0].legend()
axes[1].set_xlabel("along the chord"), axes[1].set_ylabel("aside"), axes[1].set_aspect("equal")
plt.show()

# %% [markdown]
# A grid that spends its steps where the path bends needs fewer of them. That is what `flow_shift` does (it moves
# steps to high noise), and what a multistep solver adds by remembering earlier predictions. Relative distance of the
# latents to a run of 20 UniPC steps from the same noise, no guidance:


# %%
def end(steps, **options):
    noise = jax.random.normal(jax.random.key(0), shape)
    options = {"num_inference_steps": steps, "guidance_scale": 1.0, "output_type": "latent"} | options
    return np.asarray(pipe(prompt, latents=noise, **options).frames)


figure, axis = plt.subplots(figsize=(7, 3.4))
reference = end(20, solver="unipc")
GRIDS = {
    "Euler, shift 1": ("euler", 1.0, FLOW, "o-"),
    "Euler, shift 3": ("euler", 3.0, DDIM, "o-"),
    "UniPC, shift 3": ("unipc", 3.0, DIFFUSION, "s-"),
}
counts = (2, 4, 8)
print("steps".ljust(16), *(f"{n:6}" for n in counts))
for name, (solver, shift, colour, style) in GRIDS.items():
    ends = [end(n, solver=solver, flow_shift=shift) for n in counts]
    errors = [np.linalg.norm(x - reference) / np.linalg.norm(reference) for x in ends]
    axis.loglog(counts, errors, style, color=colour, label=name)
    print(name.ljust(16), *(f"{value:6.3f}" for value in errors))
axis.set_xlabel("steps"), axis.set_ylabel("relative distance"), axis.set_xticks(counts, counts), axis.minorticks_off()
axis.legend()
plt.show()

# %% [markdown]
# This is one prompt and one noise: it shows what bends and where, and proves nothing about quality. Measured on 400
# held-out prompts with UniPC at shift 3, 4, 10, 20 and 50 steps show 83, 92, 93 and 93 % of what was asked for
# ([card](../wan_jax/weights/wan_mini/README.md)).
#
# **Next:** [two_experts](two_experts.ipynb): why the noise level is also a division of labour. In the code:
# [`flow.py`](../wan_jax/diffusion/flow.py), [`schedules.py`](../wan_jax/diffusion/schedules.py) and
# [`solvers.py`](../wan_jax/diffusion/solvers.py).
