"""What step caching saves, and what it costs: seconds against PSNR and SSIM to the video of all steps.

    python -m benchmarks.step_cache --prompts 4 --steps 50

Prompts are held-out ones of the little world, half English and half Chinese; each has noise of its own.  For each
prompt every setting in turn makes its video, warm: a first one, which compiles, does not count.  Seconds are from the
prompt to its latents, text encoder included; the median over prompts is taken, and the speed-up is that of the medians.
PSNR and SSIM are those of decoded frames to the first setting's.  Prints JSON and a table.
"""

import json
import statistics
import sys
import time
from typing import Annotated, Any

import jax
import numpy as np
import tyro

from wan_jax import WanPipeline, __version__
from wan_jax.metrics import psnr, ssim
from wan_jax.pipelines.eval_mini import LANGUAGES, held_out_prompts

SETTINGS = (
    "1",
    "magnitude:0.97",
    "magnitude:0.9",
    "magnitude:0.7",
    "magnitude:0.5",
    "first_block:0.9",
    "first_block:0.7",
    "guidance:0.9",
)


def main(
    model: str = "wan_mini",
    settings: Annotated[tuple[str, ...], tyro.conf.arg(metavar="[METHOD:]QUALITY", help="first: all steps")] = SETTINGS,
    prompts: int = 4,
    steps: int = 50,
    seed: int = 0,
    dtype: str = "float32",
):
    pipe = WanPipeline.from_pretrained(model, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    texts = [text for language in LANGUAGES for text, _ in held_out_prompts(-(-prompts // 2), language, seed)][:prompts]
    for setting in settings:
        _make(pipe, setting, texts[0], seed, steps)
    rows = {setting: [] for setting in settings}
    for number, text in enumerate(texts):
        shown = None
        for setting in settings:
            row, latents = _make(pipe, setting, text, seed + number, steps)
            frames = np.asarray(pipe.decode(np.moveaxis(latents, 1, -1)))[0]
            if shown is None:
                shown = frames
            else:
                row |= {"psnr": float(psnr(shown, frames)), "ssim": float(ssim(shown, frames))}
            rows[setting].append(row)
            print(setting, row, file=sys.stderr, flush=True)
    summary = {setting: _summary(rows[setting], rows[settings[0]]) for setting in settings}
    result = {
        "model": pipe.config.name,
        "steps": steps,
        "prompts": texts,
        "dtype": pipe.dtype.name,
        "versions": {"wan_jax": __version__, "jax": jax.__version__},
        "device": jax.devices()[0].device_kind,
        "summary": summary,
        "each": rows,
    }
    print(json.dumps(result, ensure_ascii=False))
    print(table(summary, steps))


def _make(pipe: WanPipeline, setting: str, text: str, seed: int, steps: int) -> tuple[dict[str, Any], np.ndarray]:
    """A video's latents, and what they took."""
    method, _, quality = setting.rpartition(":")
    options = {"quality": float(quality)} | ({"step_cache": method} if method else {})
    started = time.monotonic()
    out = pipe(text, seed=seed, num_inference_steps=steps, output_type="latent", **options)
    return {"seconds": time.monotonic() - started, "computed": out.computed_steps}, out.frames


def _summary(rows: list[dict[str, Any]], exact: list[dict[str, Any]]) -> dict[str, float]:
    seconds, all_seconds = (statistics.median(row["seconds"] for row in some) for some in (rows, exact))
    found = {"seconds": seconds, "speedup": all_seconds / seconds}
    found["computed"] = statistics.mean(row["computed"] for row in rows)
    for name in ("psnr", "ssim") if rows is not exact else ():
        values = [row[name] for row in rows]
        found |= {name: statistics.mean(values), f"worst_{name}": min(values)}
    return found


def table(summary: dict[str, dict[str, float]], steps: int) -> str:
    lines = [
        f"| setting | seconds | faster | computed of {steps} | SSIM, worst | PSNR, worst |",
        "|---|---|---|---|---|---|",
    ]
    for setting, row in summary.items():
        cells = (
            setting,
            f"{row['seconds']:.1f}",
            f"{row['speedup']:.2f}×",
            f"{row['computed']:.1f}",
            f"{row['ssim']:.4f}, {row['worst_ssim']:.4f}" if "ssim" in row else "",
            f"{row['psnr']:.1f}, {row['worst_psnr']:.1f} dB" if "psnr" in row else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
