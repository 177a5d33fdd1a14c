"""What a comparison found, in words; every one of them follows from the numbers."""

from wan_jax.explain.comparison import CLOSE, COUNTS, FEW, STRAIGHTENED, Comparison
from wan_jax.explain.plane import DDIM, DIFFUSION, EULER, FLOW, PROBABILITY_FLOW
from wan_jax.typing import Float

_PLAIN = (FLOW.name, EULER.name)
_SOLVERS = ((DIFFUSION.name, DDIM.name), (DIFFUSION.name, PROBABILITY_FLOW.name))
_STRAIGHT = (STRAIGHTENED, EULER.name)


def finding(comparison: Comparison) -> list[str]:
    """Sentences: in few steps, to get close, straightness, and what straightening did.  `comparison` is complete.

    One is said to be ahead of another where each of its seeds is ahead of each of the other's.
    """
    return [_few_steps(comparison), _steps_to_quality(comparison), _straightness(comparison), _straightened(comparison)]


def steps_to_quality(comparison: Comparison) -> dict[tuple[str, str], int | None]:
    """The fewest steps, by what was learned and solver, that come as close as `CLOSE` times the best distance of all.

    None: not in the most that were tried.
    """
    curves = {key: curve.mean(0) for key, curve in comparison.curves().items()}
    aim = CLOSE * min(curve.min() for curve in curves.values())
    return {key: next((n for n, d in zip(COUNTS, curve) if d <= aim), None) for key, curve in curves.items()}


def _few_steps(comparison: Comparison) -> str:
    curves = comparison.curves()
    at = {key: curves[key][:, COUNTS.index(FEW)] for key in (_PLAIN, *_SOLVERS)}
    said = "; ".join(f"{_name(key)} {_about(d)}" for key, d in at.items())
    verdicts = " ".join(f"{_ahead(at[_PLAIN], at[key], _name(_PLAIN), _name(key))}." for key in _SOLVERS)
    return f"The distance to {comparison.data} after {FEW} steps: {said}. {verdicts}"


def _steps_to_quality(comparison: Comparison) -> str:
    needed = steps_to_quality(comparison)

    def said(key: tuple[str, str]) -> str:
        return f"{_name(key)} " + (f"needs {needed[key]}" if needed[key] else f"is not there in {COUNTS[-1]}")

    most = "; ".join(said(key) for key in (_PLAIN, *_SOLVERS, _STRAIGHT))
    return f"Steps to come within {CLOSE:g} times the best distance of all: {most}."


def _straightness(comparison: Comparison) -> str:
    flow, diffusion = comparison.learned[FLOW.name], comparison.learned[DIFFUSION.name]
    constant = _ahead(flow.straightness, diffusion.straightness, *_TWO, better="has a steadier velocity than")
    line = _ahead(flow.bend, diffusion.bend, *_TWO, better="draws straighter lines than")
    return (
        f"Unevenness of the velocity, S (0 is straight): flow matching {_about(flow.straightness)}, diffusion "
        f"{_about(diffusion.straightness)}. {constant}. Length over chord: {_about(flow.bend)} and "
        f"{_about(diffusion.bend)}. {line}."
    )


def _straightened(comparison: Comparison) -> str:
    before, after = (comparison.learned[name] for name in (FLOW.name, STRAIGHTENED))
    one, few = (comparison.curves()[key][:, i] for key, i in ((_STRAIGHT, 0), (_PLAIN, COUNTS.index(FEW))))
    verdict = _ahead(
        one, few, "one straightened step", f"{FEW} steps of the first flow", better="is closer to the data than"
    )
    return (
        f"Trained again on its own pairs, flow matching goes from S = {_about(before.straightness)} to "
        f"{_about(after.straightness)}, and its single step ends at {_about(one)}. {verdict}."
    )


_TWO = FLOW.name, DIFFUSION.name


def _ahead(a: Float[" s"], b: Float[" s"], name_a: str, name_b: str, better: str = "is ahead of") -> str:
    """Less is better."""
    if a.max() < b.min():
        said = f"{name_a} {better} {name_b}"
    elif b.max() < a.min():
        said = f"{name_b} {better} {name_a}"
    else:
        said = f"between {name_a} and {name_b} the seeds do not decide"
    return said[0].upper() + said[1:]


def _name(key: tuple[str, str]) -> str:
    learned, solver = key
    return learned if learned != DIFFUSION.name else f"{learned} by {solver}"


def _about(values: Float[" s"]) -> str:
    return f"{_short(values.mean())} ({_short(values.min())}–{_short(values.max())})"


def _short(value: float) -> str:
    """Two digits that count."""
    return f"{value:.1f}" if value >= 1 else f"{value:.2g}"
