"""How well a model shows what its captions say, on combinations that it was never trained on.

    python -m benchmarks.shapes.measure --model runs/models/shapes --out docs/shapes
    python -m benchmarks.shapes.measure --rendered 300      # is the measuring itself right?

Writes measured.json and contact_sheet.png.  The second command measures clips that were drawn, not generated: all
should be right, and with the captions dealt out anew no more than chance.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np

from benchmarks.shapes.look import Seen, look
from benchmarks.shapes.sheet import write_sheet
from benchmarks.shapes.world import EVERYTHING, Truth, held_out_captions, render
from wan_jax import WanPipeline, __version__
from wan_jax.errors import WanError
from wan_jax.typing import Float


def generate(pipe: WanPipeline, captions: Sequence[str], batch: int, **options) -> Float["b f h w 3"]:
    """A video for each caption; each has a seed of its own."""
    made = []
    for first in range(0, len(captions), batch):
        some = list(captions[first : first + batch])
        filled = some + [""] * (batch - len(some))  # one size, one program
        made.append(pipe(filled, seed=first, **options).frames[: len(some)])
    return np.concatenate(made)


def agreement(seen: Sequence[Seen], truths: Sequence[Truth]) -> dict[str, float]:
    """The shares of clips whose colour, shape, direction are right; and colour and direction; and all."""
    each = [one.agrees(truth) for one, truth in zip(seen, truths)]
    shares = {name: float(np.mean([right[name] for right in each])) for name in each[0]}
    shares["colour and direction"] = float(np.mean([right["colour"] and right["direction"] for right in each]))
    return shares | {"all": float(np.mean([all(right.values()) for right in each]))}


def rendered(count: int, seed: int = 0) -> tuple[dict[str, float], dict[str, float]]:
    """The agreement of clips that were drawn, with their own truths and with those of others."""
    rng = np.random.default_rng(seed)
    truths = [EVERYTHING[i] for i in rng.integers(len(EVERYTHING), size=count)]
    seen = [look(render(truth, rng).astype(np.float32) / 255) for truth in truths]
    others = [truths[i] for i in rng.permutation(count)]
    return agreement(seen, truths), agreement(seen, others)


def measure(model: str, out: Path, count: int, batch: int, dtype: str, **options) -> dict:
    """Generates held-out captions, measures them and writes both files."""
    captions, truths = zip(*held_out_captions(count))
    pipe = WanPipeline.from_pretrained(model, dtype=dtype)
    pipe.set_progress_bar_config(disable=True)
    clips = generate(pipe, captions, batch, **options)
    seen = [look(np.asarray(clip)) for clip in clips]
    each = [
        {"caption": text, "truth": asdict(truth), "seen": asdict(one)}
        for text, truth, one in zip(captions, truths, seen)
    ]
    versions = {"wan_jax": __version__, "jax": jax.__version__, "device": jax.devices()[0].device_kind}
    about = {"model": pipe.config.name, "weights": pipe.fingerprint, "settings": options, **versions}
    report = {"clips": count, "right": agreement(seen, truths), **about, "each": each}
    out.mkdir(parents=True, exist_ok=True)
    (out / "measured.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    write_sheet(out / "contact_sheet.png", clips, truths, seen)
    return report


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", metavar="DIR", help="a model folder")
    parser.add_argument("--out", type=Path, metavar="DIR", help="where the two files go")
    parser.add_argument("--clips", type=int, default=50, metavar="N")
    parser.add_argument("--batch", type=int, default=25, metavar="N")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the model's own)")
    parser.add_argument("--guidance", type=float, metavar="G", help="of both experts (default: the model's own)")
    parser.add_argument("--dtype", default="bfloat16", metavar="NAME")
    parser.add_argument("--rendered", type=int, metavar="N", help="measure drawn clips instead")
    args = parser.parse_args()
    if args.rendered:
        right, dealt = rendered(args.rendered)
        print(f"{'drawn clips':<24}{_line(right)}\n{'with captions of others':<24}{_line(dealt)}")
        return
    if not (args.model and args.out):
        raise WanError("--model and --out are needed: a model folder, and where the results go")
    given = {"num_inference_steps": args.steps, "guidance_scale": args.guidance}
    options = {name: value for name, value in given.items() if value is not None}
    report = measure(args.model, args.out, args.clips, args.batch, args.dtype, **options)
    print(f"{args.model}, {args.clips} held-out captions: {_line(report['right'])}")


def _line(shares: dict[str, float]) -> str:
    return ", ".join(f"{name} {share:.0%}" for name, share in shares.items())


if __name__ == "__main__":
    try:
        main()
    except WanError as error:
        sys.exit(f"error: {error}")
