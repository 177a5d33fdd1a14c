"""How well a model of the little world shows what its captions say, on combinations that it was never trained on."""

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from wan_jax.errors import WanError
from wan_jax.pipelines.contact_sheet import write_contact_sheet
from wan_jax.pipelines.wan import WanPipeline
from wan_jax.typing import Float
from wan_jax.video_io import atomic
from wan_jax.world.look import MEASURED, Seen, look
from wan_jax.world.render import render
from wan_jax.world.scene import stage
from wan_jax.world.words import Truth, caption, draw_truth

LANGUAGES = ("english", "chinese")
EXPERTS = ("both", "swapped", "high", "low")
_SHEET_CLIPS = 40


def held_out_prompts(count: int, language: str, seed: int = 0) -> list[tuple[str, Truth]]:
    """Captions of what is never trained on, and what they ask for."""
    rng = np.random.default_rng([seed, LANGUAGES.index(language)])
    truths = [draw_truth(rng, held_out=True) for _ in range(count)]
    return [(caption(truth, rng, language == "chinese"), truth) for truth in truths]


def evaluate_prompts(
    model: str | os.PathLike,
    prompts: int = 200,
    languages: Sequence[str] = LANGUAGES,
    steps: int | None = None,
    guidance: float | None = None,
    solver: str = "unipc",
    shift: float | None = None,
    updates: Sequence[Mapping[str, Any]] = (),
    quantization: str | None = None,
    experts: str = "both",
    batch: int = 10,
    seed: int = 0,
    dtype: Any = "bfloat16",
    out: str | os.PathLike | None = None,
) -> dict[str, Any]:
    """Generates a video for each held-out prompt and measures what it shows.

    Args:
        model, dtype, quantization: see `WanPipeline.from_pretrained`.
        prompts: so many in each language.
        languages: some of "english" and "chinese".
        steps, guidance, shift: None is the model's own.
        solver: see `WanPipeline.__call__`.
        updates: see `open_pipeline`.
        experts: "swapped" has each expert do the other's steps; "high" and "low" have one do all.
        batch: videos at a time.
        seed: of the prompts and of the noise.
        out: a folder for `mini.json` and `contact_sheet.png`; None writes nothing.

    Returns:
        a dict, as in `mini.json`: `right`, for each language and thing measured the share of videos that show it, with
        `all` the share of everything; `shuffled`, the same with the prompts dealt out anew, which is chance; `each`.

    Raises:
        WanError: a value is impossible, or the model is missing or has one expert where two are asked for.
    """
    _check(prompts, languages, experts, batch)
    if out is not None:
        Path(out).mkdir(parents=True, exist_ok=True)
    pipe = open_pipeline(model, dtype, updates, quantization)
    use_experts(pipe, experts)
    options = {"num_inference_steps": steps, "guidance_scale": guidance, "solver": solver, "flow_shift": shift}
    report, shown = {"right": {}, "shuffled": {}, "each": []}, []
    for language in languages:
        texts, truths = zip(*held_out_prompts(prompts, language, seed))
        clips = _generate(pipe, texts, batch, seed, options)
        seen = [look(clip, pipe.config.sampling.fps) for clip in clips]
        dealt = [truths[i] for i in np.random.default_rng(seed).permutation(prompts)]
        report["right"][language] = shares(seen, truths)
        report["shuffled"][language] = shares(seen, dealt)
        entries = zip(texts, truths, seen)
        report["each"] += [{"prompt": t, "truth": asdict(truth), "seen": asdict(one)} for t, truth, one in entries]
        shown += list(zip(clips, truths, seen))[: _SHEET_CLIPS // len(languages)]
    report |= {
        "prompts": prompts,
        "experts": experts,
        "steps": steps or pipe.config.sampling.num_inference_steps,
        "guidance": guidance,
        "solver": solver,
        "shift": pipe.config.sampling.flow_shift if shift is None else shift,
        "updates": list(map(dict, updates)),
        "seed": seed,
        **pipe.provenance(),
    }
    if out is not None:
        write_contact_sheet(Path(out) / "contact_sheet.png", *zip(*shown))
        with atomic(Path(out) / "mini.json") as temporary:
            temporary.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return report


def open_pipeline(
    model: str | os.PathLike, dtype: Any, updates: Sequence[Mapping[str, Any]], quantization: str | None = None
) -> WanPipeline:
    """A pipeline without progress bar.

    Args:
        model, dtype, quantization: see `WanPipeline.from_pretrained`.
        updates: arguments of `WanPipeline.load_lora_weights`, one call after the other.
    """
    pipe = WanPipeline.from_pretrained(model, dtype=dtype, quantization=quantization)
    pipe.set_progress_bar_config(disable=True)
    for update in updates:
        pipe.load_lora_weights(**update)
    return pipe


def evaluate_renders(count: int, seed: int = 0) -> dict[str, Any]:
    """The same of clips that were drawn, so that all should be right: is the measuring itself?"""
    _check(count, LANGUAGES, "both", 1)
    rng = np.random.default_rng(seed)
    truths = [draw_truth(rng, held_out=bool(i % 2)) for i in range(count)]
    clips = (np.asarray(render(stage(truth, rng, 33)), np.float32) / 255 for truth in truths)
    seen = [look(clip) for clip in tqdm(clips, "look", count, unit="clip")]
    dealt = [truths[i] for i in rng.permutation(count)]
    return {
        "right": {"drawn": shares(seen, truths)},
        "shuffled": {"drawn": shares(seen, dealt)},
        "prompts": count,
        "seed": seed,
    }


def shares(seen: Sequence[Seen], truths: Sequence[Truth]) -> dict[str, float]:
    """The share of clips that show each thing which their truth lets one see, and of all these together."""
    each = [one.agrees(truth) for one, truth in zip(seen, truths)]
    found = {name: [right[name] for right in each if name in right] for name in MEASURED}
    rows = {name: float(np.mean(values)) for name, values in found.items() if values}
    return rows | {"all": float(np.mean(list(chain(*found.values()))))}


def table(report: dict[str, Any]) -> str:
    """What `python -m wan_jax eval-mini` prints."""
    columns = {name: report["right"][name] for name in report["right"]}
    columns |= {f"{name}, shuffled": report["shuffled"][name] for name in report["shuffled"]}
    lines = [f"{'share of clips':<14}" + "".join(f"  {name:>17}" for name in columns)]
    for row in (*MEASURED, "all"):
        cells = (f"{share[row]:.1%}" if row in share else "-" for share in columns.values())
        lines.append(f"{row:<14}" + "".join(f"  {cell:>17}" for cell in cells))
    return "\n".join(lines)


def _check(prompts: int, languages: Sequence[str], experts: str, batch: int):
    if prompts < 1 or batch < 1:
        raise WanError(f"prompts={prompts} and batch={batch} must be at least 1")
    for language in languages:
        if language not in LANGUAGES:
            raise WanError(f"language {language!r} is none of {', '.join(LANGUAGES)}")
    if experts not in EXPERTS:
        raise WanError(f"experts={experts!r} is none of {', '.join(EXPERTS)}")


def use_experts(pipe: WanPipeline, experts: str):
    """Has each expert do the other's steps ("swapped"; twice is as before), or one do all ("high", "low").

    Both have to be on the device.

    Raises:
        WanError: there is one expert only.
    """
    if experts == "both":
        return
    names = pipe.config.transformers
    if len(names) < 2:
        raise WanError(f"experts={experts!r}: {pipe.config.name} has one expert")
    high, low = (pipe.weights[name] for name in names)
    chosen = {"swapped": (low, high), "high": (high, high), "low": (low, low)}[experts]
    for name, params in zip(names, chosen):
        pipe.weights.change(name, lambda _, params=params: params)


def _generate(
    pipe: WanPipeline, texts: Sequence[str], batch: int, seed: int, options: dict[str, Any]
) -> list[Float["f h w 3"]]:
    """A video for each; each has noise of its own."""
    made = []
    for first in tqdm(range(0, len(texts), batch), "generate", unit="batch"):
        some = list(texts[first : first + batch])
        filled = some + some[:1] * (batch - len(some))  # one size, one program
        made += list(pipe(filled, seed=seed + first, **options).frames)[: len(some)]
    return made
