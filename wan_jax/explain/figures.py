"""Figures of notebooks and of the Explorer, without pyplot: no state, no window, and safe in threads."""

import io
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from wan_jax.explain import experts, learning, measures
from wan_jax.explain.comparison import COUNTS, STRAIGHTENED, Comparison
from wan_jax.explain.experts import NAMES, Step
from wan_jax.explain.plane import DIFFUSION, FLOW, Way
from wan_jax.explain.trace import Trace
from wan_jax.typing import Float

COLOURS = {FLOW.name: "#0d9488", DIFFUSION.name: "#e11d48", STRAIGHTENED: "#4f46e5"}
_INK, _FAINT = "#334155", "#cbd5e1"
_SIDE = 2.9  # how much of the plane is shown around the middle
_SHOWN = 120  # ways that are drawn


def picture(figure: Figure, dpi: int = 110) -> Image.Image:
    """A figure as pixels."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, facecolor="white")
    return Image.open(file).convert("RGB")


def _panels(count: int, width: float, height: float, **options) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = list(figure.subplots(1, count, squeeze=False, **options)[0])
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.spines[["left", "bottom"]].set_color(_FAINT)
        axis.tick_params(colors=_INK, labelsize=8)
    return figure, axes


def _plain(axis: Axes):
    axis.set(xlim=(-_SIDE, _SIDE), ylim=(-_SIDE, _SIDE), aspect="equal", xticks=[], yticks=[])
    axis.spines[:].set_visible(False)


def _label(axis: Axes, x: str, y: str, title: str = ""):
    axis.set_xlabel(x, fontsize=9, color=_INK)
    axis.set_ylabel(y, fontsize=9, color=_INK)
    axis.set_title(title, fontsize=10, color=_INK, loc="left")


def pair_paths(ways: Sequence[Way], clean: Float[" 2"], noise: Float[" 2"]) -> Figure:
    """The path between one point of the data and one of noise, in 20 even steps of time, by each way."""
    figure, (axis,) = _panels(1, 4.2, 3.2)
    time = np.linspace(0, 1, 21)[:, None]
    for way in ways:
        points = np.asarray(way.noised(np.asarray(clean)[None], np.asarray(noise)[None], time))
        axis.plot(*points.T, ".-", color=COLOURS[way.name], label=way.name, linewidth=1)
    for name, place in (("data", clean), ("noise", noise)):
        axis.annotate(name, place, xytext=(6, 4), textcoords="offset points", fontsize=9, color=_INK)
    axis.set_aspect("equal")
    axis.legend(frameon=False, fontsize=8)
    _label(axis, "", "", "one pair, 20 even steps of time")
    return figure


def velocity_field(comparison: Comparison, times: Sequence[float] = (1.0, 0.7, 0.4, 0.1)) -> Figure:
    """What flow matching has learned: the way to go, for a grid of points at several noise levels."""
    figure, axes = _panels(len(times), 2.6 * len(times), 2.8)
    params = jax.tree.map(lambda x: x[0], comparison.learned[FLOW.name].params)
    grid = np.stack(np.meshgrid(*[np.linspace(-2.4, 2.4, 11)] * 2), -1).reshape(-1, 2).astype(np.float32)
    truth = comparison.truth[0][:400]
    noise = np.random.default_rng(0).standard_normal(truth.shape)
    for axis, time in zip(axes, times):
        towards_data = -np.asarray(learning.predict(params, jnp.asarray(grid), jnp.float32(time)))
        axis.plot(*FLOW.noised(truth, noise, time).T, ".", color=_FAINT, markersize=3, markeredgewidth=0)
        axis.quiver(*grid.T, *towards_data.T, color=COLOURS[FLOW.name], angles="xy", scale=45, width=0.006)
        _plain(axis)
        _label(axis, "", "", f"σ = {time:g}")
    return figure


def ways(comparison: Comparison) -> Figure:
    """The trajectories of what was learned so far, with where they end, and the data."""
    names = list(COLOURS)
    figure, axes = _panels(len(names) + 1, 11.4, 3.1)
    for axis, name in zip(axes, names):
        one = comparison.learned.get(name)
        _plain(axis)
        _label(axis, "", "", name)
        if one is None:
            axis.text(0, 0, "not yet", ha="center", fontsize=9, color=_FAINT)
            continue
        axis.plot(*one.path[:, :_SHOWN].transpose(2, 0, 1), color=COLOURS[name], linewidth=0.6, alpha=0.55)
        axis.plot(*one.path[-1].T, ".", color=_INK, markersize=3, markeredgewidth=0)
    axes[-1].plot(*comparison.truth[0].T, ".", color=_INK, markersize=2.2, markeredgewidth=0)
    _plain(axes[-1])
    _label(axes[-1], "", "", "data")
    return figure


def losses(comparison: Comparison) -> Figure:
    """The losses in training, smoothed, for each seed.  Only the shapes of the curves are to be compared."""
    figure, (axis,) = _panels(1, 5.6, 3.2)
    for name, one in comparison.learned.items():
        width = max(1, one.losses.shape[1] // 40)
        for number, losses in enumerate(one.losses):
            smooth = losses[: len(losses) // width * width].reshape(-1, width).mean(1)
            label = name if number == 0 else None
            axis.plot(np.arange(len(smooth)) * width, smooth, color=COLOURS[name], linewidth=1, label=label)
    axis.set_yscale("log")
    axis.legend(frameon=False, fontsize=8)
    _label(axis, "training step", "loss", "loss of each against its own target")
    return figure


def qualities(comparison: Comparison) -> Figure:
    """The distance to the data against the number of steps: mean of the seeds, and their range."""
    figure, (axis,) = _panels(1, 5.6, 3.2)
    for (name, solver), distances in comparison.curves().items():
        usual = solver != "Euler" or name != DIFFUSION.name
        style = {"color": COLOURS[name], "linestyle": "-" if usual else ":", "marker": "o", "markersize": 3.5}
        label = name if name != DIFFUSION.name else f"{name}, {solver}"
        axis.plot(COUNTS, distances.mean(0), label=label, linewidth=1.5, **style)
        axis.fill_between(COUNTS, distances.min(0), distances.max(0), color=COLOURS[name], alpha=0.15, linewidth=0)
    floor = comparison.floor.mean()
    axis.axhline(floor, color=_INK, linewidth=0.8, linestyle="--", label="data against data")
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(COUNTS, map(str, COUNTS))
    axis.minorticks_off()
    axis.legend(frameon=False, fontsize=8)
    _label(axis, "steps from noise to data", "distance to the data", "steps to quality")
    return figure


def straightnesses(comparison: Comparison) -> Figure:
    """Both measures of straightness, a dot for each seed."""
    figure, axes = _panels(2, 5.6, 2.2, sharey=True)
    names = [name for name in COLOURS if name in comparison.learned and len(comparison.learned[name].bend)]
    for row, name in enumerate(names):
        one = comparison.learned[name]
        for axis, values in zip(axes, (one.straightness, one.bend - 1)):
            axis.plot(values, [row] * len(values), "o", color=COLOURS[name], markersize=6, alpha=0.7)
    axes[0].set_yticks(range(len(names)), [name.replace(", ", ",\n") for name in names])
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    for axis, title in zip(axes, ("unevenness of the velocity, S", "detour: length over chord − 1")):
        axis.set_xlim(left=-0.08)
        axis.axvline(0, color=_FAINT, linewidth=1)
        axis.grid(axis="y", color=_FAINT, linewidth=0.5)
        _label(axis, "", "", title)
    return figure


def noise_plans(plans: Mapping[str, Sequence[Step]], boundaries: Mapping[str, float]) -> Figure:
    """Noise level before each step of several runs; the colour says who does it."""
    figure, axes = _panels(len(plans), 3.6 * len(plans), 2.7, sharey=True)
    for axis, (name, steps) in zip(axes, plans.items()):
        for expert, (label, colour) in enumerate(zip(NAMES, experts.COLOURS)):
            own = [i for i, step in enumerate(steps) if step.expert == expert]
            axis.bar(own, [steps[i].sigma for i in own], color=colour, width=0.8, label=f"{label}: {len(own)} steps")
        axis.axhline(boundaries[name], color=_INK, linewidth=0.8, linestyle="--")
        axis.set_ylim(0, 1.45)
        axis.set_yticks([0, 0.5, 1])
        axis.legend(frameon=False, fontsize=8, loc="upper right")
        _label(axis, "step", "", name)
    axes[0].set_ylabel("noise level σ", fontsize=9, color=_INK)
    return figure


def contact_sheet(trace: Trace, columns: int = 10, zoom: int = 4) -> Float["h w 3"]:
    """The middle frame of the preview after every step, framed in the colour of the expert that did it."""
    middle = trace.previews.shape[1] // 2
    tiles = [_framed(p[middle].repeat(zoom, 0).repeat(zoom, 1), s.expert) for p, s in zip(trace.previews, trace.steps)]
    tiles += [np.ones_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.concatenate(tiles[i : i + columns], axis=1) for i in range(0, len(tiles), columns)]
    return np.concatenate(rows)


def _framed(tile: Float["h w 3"], expert: int, edge: int = 4) -> Float["i j 3"]:
    height, width, _ = tile.shape
    colour = [int(experts.COLOURS[expert][i : i + 2], 16) / 255 for i in (1, 3, 5)]
    framed = np.ones((height + 4 * edge, width + 4 * edge, 3), np.float32)
    framed[edge:-edge, edge:-edge] = colour
    framed[2 * edge : -2 * edge, 2 * edge : -2 * edge] = tile
    return framed


def latent_ways(paths: Mapping[str, Float["m f h w c"]], sigmas: Sequence[float], boundary: float | None) -> Figure:
    """How runs from the same noise bend in the space of latents.

    On the left the angle between each two steps; on the right the way in a plane: along the chord, and along what
    leaves it most.

    Args:
        paths: latents before the first step and after each.
        sigmas: of these points.
    """
    figure, axes = _panels(2, 8.4, 3.0)
    for colour, (name, path) in zip(COLOURS.values(), paths.items()):
        axes[0].plot(sigmas[1:-1], measures.turns(path[:, None])[:, 0], ".-", color=colour, label=name, linewidth=1)
        axes[1].plot(*_plane_of(path), ".-", color=colour, linewidth=1)
    if boundary is not None:
        axes[0].axvline(boundary, color=_INK, linestyle="--", linewidth=0.8)
        axes[0].annotate("experts change", (boundary, axes[0].get_ylim()[1]), fontsize=8, color=_INK, ha="left")
    axes[0].invert_xaxis()
    axes[0].set_ylim(bottom=0)
    axes[0].legend(frameon=False, fontsize=8)
    _label(axes[0], "noise level σ", "turn between two steps, degrees")
    _label(axes[1], "along the chord, from noise to video", "aside")
    axes[1].set_aspect("equal")
    return figure


def _plane_of(path: Float["m f h w c"]) -> tuple[Float[" m"], Float[" m"]]:
    flat = path.reshape(len(path), -1).astype(np.float64)
    flat = flat - flat[0]
    along = flat[-1] / np.linalg.norm(flat[-1])
    aside = flat - np.outer(flat @ along, along)
    side = np.linalg.svd(aside, full_matrices=False)[2][0]
    way = aside @ side
    return flat @ along, way * np.sign(way.sum())
