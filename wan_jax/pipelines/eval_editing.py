"""How well a VACE model of the little world keeps what it is shown, and paints the rest as its caption says.

Three tasks on drawn clips of combinations that were never trained on: a video from the first frame; the objects painted
anew in another colour, through a mask that covers them; a clip that is gone on with, four times as long.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from wan_jax import editing
from wan_jax.errors import WanError
from wan_jax.pipelines.contact_sheet import write_pairs
from wan_jax.pipelines.eval_mini import open_pipeline, shares
from wan_jax.pipelines.long_video import long_video, overlap_of
from wan_jax.pipelines.wan import WanPipeline
from wan_jax.typing import Bool, Float, Int, UInt8
from wan_jax.video_io import atomic
from wan_jax.world.look import look
from wan_jax.world.render import render
from wan_jax.world.scene import Scene, stage
from wan_jax.world.words import COLOURS, Truth, caption, draw_truth

SEGMENTS = 4
_MARGIN = 1.35  # of an object's radius, within which the mask lies
_PAIRS = 2  # of each task that are drawn

Pair = tuple[str, Float["f h w 3"], Float["f h w 3"]]  # a caption, what was given, and what was made of it


def evaluate_tasks(
    model: str,
    count: int = 50,
    seed: int = 0,
    steps: int | None = None,
    guidance: float | None = None,
    solver: str = "unipc",
    shift: float | None = None,
    updates: Sequence[Mapping[str, Any]] = (),
    quantization: str | None = None,
    dtype: Any = "bfloat16",
    out: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Generates `count` videos of each task, and measures them.

    Args:
        steps, guidance, solver, shift, updates, quantization: see `eval_mini.evaluate_prompts`.
        out: a folder for `tasks.json` and `tasks.png`, which shows some of them; None writes nothing.

    Returns:
        a dict, as in `tasks.json`, with, for each of `first frame`, `inpaint` and `extend`, shares and means over the
        clips: `psnr`, in dB, of what was to be kept: the first frame, or all outside the mask; `right`, the shares of
        what the video shows as told, as of `wan_jax.pipelines.eval_mini`; `changed`, the mean difference within the
        mask; `seam`, how much more than usual changes from frame to frame where a segment fades into the next (see
        `changes_at`): the mean over clips at the place of the fade where it is greatest, `greatest seam`, that of each
        clip at its own greatest, and `worst seam`, the greatest of all; `elsewhere`, the same of as many frames within
        the segments.

    Raises:
        WanError: the model takes no frames and masks, or is missing.
    """
    pipe = open_pipeline(model, dtype, updates, quantization)
    if not pipe.config.takes_context:
        raise WanError(f"--tasks: {pipe.config.name} takes no frames and masks; name a VACE model of the little world")
    options = {"num_inference_steps": steps, "guidance_scale": guidance, "solver": solver, "flow_shift": shift}
    pairs: list[Pair] = []
    report = {
        "first frame": _first_frame(pipe, count, seed, options, pairs),
        "inpaint": _inpaint(pipe, count, seed, options, pairs),
        "extend": _extend(pipe, count, seed, options, pairs),
        "clips": count,
        "steps": steps or pipe.config.sampling.num_inference_steps,
        "guidance": guidance,
        "solver": solver,
        "shift": pipe.config.sampling.flow_shift if shift is None else shift,
        "updates": list(map(dict, updates)),
        "seed": seed,
        **pipe.provenance(),
    }
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
        write_pairs(Path(out) / "tasks.png", pairs)
        with atomic(Path(out) / "tasks.json") as temporary:
            temporary.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    return report


def table(report: dict[str, Any]) -> str:
    """What `python -m wan_jax eval-mini --tasks` prints."""
    lines = []
    for task in ("first frame", "inpaint", "extend"):
        told = dict(report[task])
        right = told.pop("right", {})
        cells = [f"{name} {value:.2f}" for name, value in told.items()]
        cells += [f"{name} {right[name]:.1%}" for name in ("colour", "motion", "all") if name in right]
        lines.append(f"{task:<12} " + ", ".join(cells))
    return "\n".join(lines)


def _first_frame(
    pipe: WanPipeline, count: int, seed: int, options: dict[str, Any], pairs: list[Pair]
) -> dict[str, Any]:
    errors, seen, truths = [], [], []
    for number, (truth, text, _, clip) in enumerate(_clips(pipe, count, seed, "first frame")):
        made = pipe(text, image=clip[0], seed=seed + number, **options).frames[0]
        errors.append(pixel_psnr(made[:1], clip[:1] / 255))
        if number < _PAIRS:
            pairs.append((f"first frame: {text}", editing.first_last(clip[0], None, len(clip)).frames, made))
        seen.append(look(made))
        truths.append(truth)
    return {"psnr": float(np.mean(errors)), "worst psnr": float(np.min(errors)), "right": shares(seen, truths)}


def _inpaint(pipe: WanPipeline, count: int, seed: int, options: dict[str, Any], pairs: list[Pair]) -> dict[str, Any]:
    errors, changes, seen, truths = [], [], [], []
    for number, (truth, _, scene, clip) in enumerate(_clips(pipe, count, seed, "inpaint")):
        rng = np.random.default_rng([seed, number])
        truth = replace(truth, colour=str(rng.choice([x for x in COLOURS if x != truth.colour])))
        canvas = editing.repaint(clip, around_objects(scene, clip.shape[1]))
        text = caption(truth, rng)
        made = pipe(text, video=canvas.frames, mask=canvas.mask, seed=seed + number, **options).frames[0]
        errors.append(pixel_psnr(made[~canvas.mask], clip[~canvas.mask] / 255))
        if number < _PAIRS:
            pairs.append((f"inpaint: {text}", canvas.frames, made))
        changes.append(np.abs(made - clip / 255)[canvas.mask].mean())
        seen.append(look(made))
        truths.append(truth)
    told = {"psnr": float(np.mean(errors)), "worst psnr": float(np.min(errors)), "changed": float(np.mean(changes))}
    return told | {"right": shares(seen, truths)}


def _extend(pipe: WanPipeline, count: int, seed: int, options: dict[str, Any], pairs: list[Pair]) -> dict[str, Any]:
    at_seams, elsewhere = [], []
    overlap = overlap_of(pipe.config, None, pipe.config.sampling.num_frames)
    for number, (_, text, _, clip) in enumerate(_clips(pipe, count, seed, "extend", moving=True)):
        prompts, options = [text] * (1 + SEGMENTS), options | {"seed": seed + number}
        pieces = list(long_video(pipe, prompts, overlap, first=1, tail=clip[-overlap:], **options))
        parts = [clip[:-overlap], *(x.frames for x in pieces), pieces[-1].tail]
        video, seams = np.concatenate(parts), np.cumsum([len(x) for x in parts])[:-2]
        at_seams.append(changes_at(video, seams, overlap + 1))
        elsewhere.append(changes_at(video, seams + len(pieces[0].frames) // 2, overlap + 1))
        if number < _PAIRS:
            pairs.append((f"extend: {text}", editing.keep_frames(len(video), (0, clip)).frames, editing.unit(video)))
    told = {}
    for name, found in (("seam", np.array(at_seams)), ("elsewhere", np.array(elsewhere))):
        # A single video changes unevenly by itself; what many do at the same place is the seam's.
        told[name] = float(found.mean((0, 1)).max())
        told[f"greatest {name}"] = float(found.max((1, 2)).mean())
        told[f"worst {name}"] = float(found.max())
    return told


def around_objects(scene: Scene, side: int) -> Bool["f h w"]:
    """Boxes around the objects, wherever they are in each frame."""
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    mask = np.zeros((len(scene.centres), side, side), bool)
    for shown, centres, radii, (left, top, zoom) in zip(mask, scene.centres, scene.radii, scene.camera):
        for centre, radius in zip(centres, radii):
            dx, dy = (x - 0.5) / zoom + left - centre[0], (y - 0.5) / zoom + top - centre[1]
            shown |= np.maximum(np.abs(dx), np.abs(dy)) < _MARGIN * radius
    return mask


def changes_at(video: UInt8["f h w 3"], starts: Int[" s"], count: int) -> Float["s n"]:
    """How much changes between a frame and the one before, over the median of the video.

    Args:
        starts: of the frames looked at: these, and those that follow them.
        count: how many follow each other.
    """
    changes = np.abs(np.diff(video.astype(np.float32), axis=0)).mean((1, 2, 3))
    return np.stack([changes[start - 1 :][:count] for start in starts]) / np.median(changes)


def _clips(
    pipe: WanPipeline, count: int, seed: int, task: str, moving: bool = False
) -> Iterator[tuple[Truth, str, Scene, UInt8["f h w 3"]]]:
    """Held-out clips in the size of the model: what they show, in words, as a scene, and drawn."""
    rng = np.random.default_rng(seed)
    own = pipe.config.sampling
    for _ in tqdm(range(count), task, unit="clip"):
        truth = draw_truth(rng, held_out=True)
        while moving and truth.motion not in _MOVING:
            truth = draw_truth(rng, held_out=True)
        scene = stage(truth, rng, own.num_frames)
        yield truth, caption(truth, rng), scene, np.asarray(render(scene, own.height))


_MOVING = ("left", "right", "up", "down", "orbit", "bounce")  # of what rests, a median difference would be nothing


def pixel_psnr(made: Float["*n 3"], wanted: Float["*n 3"]) -> float:
    """Peak signal-to-noise ratio, in dB, of all of these pixels together, in [0, 1]."""
    return float(-10 * np.log10(np.square(made - wanted).mean() + 1e-10))
