"""The validation losses of a recipe's runs as one small picture.  Needs matplotlib.

python -m benchmarks.shapes.curves --runs runs --out docs/shapes/curves.png
"""

import argparse
import sys
from pathlib import Path

from wan_jax.errors import WanError
from wan_jax.train.journal import read_journal

_LOSS = "validation/loss"
NAMES = ("base", "high", "low")


def validation_curve(run: Path) -> tuple[list[int], list[float]]:
    """Steps and validation losses of one run.

    Raises:
        WanError: it told of none.
    """
    told = [entry for entry in read_journal(run) if _LOSS in entry]
    if not told:
        raise WanError(f"{run} tells of no validation loss")
    return [entry["step"] for entry in told], [entry[_LOSS] for entry in told]


def draw(runs: Path, out: Path) -> dict[str, tuple[float, float]]:
    """Draws the curves, and returns the first and the last loss of each."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise WanError("curves need matplotlib: pip install matplotlib") from None

    figure = Figure(figsize=(9, 2.6), dpi=80, layout="constrained")
    ends = {}
    for axes, name in zip(figure.subplots(1, len(NAMES)), NAMES):
        steps, losses = validation_curve(runs / name)
        ends[name] = losses[0], losses[-1]
        axes.plot(steps, losses, color="tab:blue")
        axes.set(title=name, xlabel="step", yscale="log")
        axes.grid(alpha=0.3, which="both")
    figure.axes[0].set_ylabel("validation loss")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    return ends


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="out= of the recipe")
    parser.add_argument("--out", type=Path, required=True, metavar="PNG")
    args = parser.parse_args()
    for name, (first, last) in draw(args.runs, args.out).items():
        print(f"{name}: validation loss {first:.4f} at first, {last:.4f} at last")


if __name__ == "__main__":
    try:
        main()
    except WanError as error:
        sys.exit(f"error: {error}")
