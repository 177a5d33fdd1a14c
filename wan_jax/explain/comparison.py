"""Flow matching against diffusion: the same networks, trained and measured, and what was found, in words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import jax.numpy as jnp
import numpy as np

from wan_jax.explain import learning, measures
from wan_jax.explain.learning import Learner, Pairs
from wan_jax.explain.plane import DDIM, DIFFUSION, EULER, FLOW, PROBABILITY_FLOW, Solver, Way
from wan_jax.typing import Float, Params

COUNTS = (1, 2, 4, 8, 16, 50)  # steps from noise to data
FEW = 4  # of these, what is spoken of
CLOSE = 1.5  # times the best distance that any reaches: the quality that is aimed at
STRAIGHTENED = "flow matching, straightened"
_PAIRS, _POINTS, _WAYS = 16_000, 2_000, 300  # learned from, compared, and drawn
_FINE = 100  # steps that stand for the exact way


@dataclass(frozen=True)
class Learned:
    """One way, learned by a network for each seed.

    Attributes:
        name: of the way and what was done to it.
        way: see `plane`.
        params: of the networks.
        losses: of each training step.  Those of two ways are not to be compared.
        path: ways from noise to data of the first seed.
        straightness: see `measures`.  Empty while it is in training, like the next two.
        bend: see `measures`; that of the median way.
        distances: by solver, of samples in each of `COUNTS` steps to fresh data.
    """

    name: str
    way: Way = field(repr=False)
    params: Params = field(repr=False)
    losses: Float["s n"]
    path: Float["m n 2"]
    straightness: Float[" s"] = field(default_factory=lambda: np.zeros(0))
    bend: Float[" s"] = field(default_factory=lambda: np.zeros(0))
    distances: Mapping[str, Float["s k"]] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """What is known so far.

    Attributes:
        data: see `plane.DATA`.
        truth: fresh points, for each seed.
        floor: the distance between two such sets.
        learned: by name.
        done: the share of all work.
    """

    data: str
    truth: Float["s n 2"]
    floor: Float[" s"]
    learned: Mapping[str, Learned] = field(default_factory=dict)
    done: float = 0.0

    def curves(self) -> dict[tuple[str, str], Float["s k"]]:
        """Distances by the name of what was learned and that of the solver."""
        return {(name, solver): d for name, one in self.learned.items() for solver, d in one.distances.items()}


def compare(data: str, seeds: Sequence[int] = (0, 1, 2), steps: int = 2500, reports: int = 5) -> Iterator[Comparison]:
    """Trains flow matching, diffusion, and flow matching once more on the pairs that the first has made.

    That is rectified flow's second round (arXiv:2209.03003): what was dealt at random, noise and data, is paired by the
    flow itself, and the paths of such pairs hardly cross, so the mean velocity of all is nearly that of each.

    Args:
        seeds: each is another network, other data and other noise.
        steps: of training, for each of the three.
        reports: of each training, on the way.

    Yields:
        what is known so far, and in the end all.

    Raises:
        WanError: there are no such data.
    """
    seeds = np.asarray(seeds)
    pairs = learning.deal(seeds, data=data, count=_PAIRS)
    truth, other = (learning.deal(seeds + offset, data=data, count=_POINTS) for offset in (1000, 2000))
    floor = np.array([measures.sliced_distance(a, b) for a, b in zip(truth.clean, other.clean)])
    known = Comparison(data, np.asarray(truth.clean), floor)
    for name, way, solvers in (
        (FLOW.name, FLOW, (EULER,)),
        (DIFFUSION.name, DIFFUSION, (DDIM, PROBABILITY_FLOW)),
        (STRAIGHTENED, FLOW, (EULER,)),
    ):
        learner = learning.begin(seeds, steps)
        if name == STRAIGHTENED:
            learner = learner.replace(params=known.learned[FLOW.name].params)
            pairs = _paired(learner.params, pairs.noise)
        begun = known
        for one in _learn(name, way, solvers[0], learner, pairs, truth.noise, steps, reports):
            done = (len(begun.learned) + one.losses.shape[1] / steps) / 3
            known = replace(begun, learned={**begun.learned, name: one}, done=done)
            yield known
        known = replace(known, learned={**known.learned, name: _measured(one, solvers, truth)})
    yield replace(known, done=1.0)


def _learn(
    name: str, way: Way, solver: Solver, learner: Learner, pairs: Pairs, noise: Float["s n 2"], steps: int, reports: int
) -> Iterator[Learned]:
    losses, total, stride = [], steps, -(-steps // reports)
    while steps > 0:
        learner, some = learning.train(learner, pairs, way=way, steps=min(stride, steps), total=total)
        losses.append(np.asarray(some))
        steps -= stride
        path = np.asarray(learning.ways(learner.params, noise[:, :_WAYS], solver=solver, steps=_FINE)[0])
        yield Learned(name, way, learner.params, np.concatenate(losses, axis=1), path)


def _paired(params: Params, noise: Float["s n 2"]) -> Pairs:
    return Pairs(learning.samples(params, noise, COUNTS[-1], solver=EULER), noise)


def _measured(one: Learned, solvers: Sequence[Solver], truth: Pairs) -> Learned:
    paths = np.asarray(learning.ways(one.params, truth.noise[:, :_WAYS], solver=solvers[0], steps=_FINE))
    return replace(
        one,
        straightness=np.array([measures.straightness(path) for path in paths]),
        bend=np.array([np.median(measures.bend(path)) for path in paths]),
        distances={solver.name: _distances(one.params, solver, truth) for solver in solvers},
    )


def _distances(params: Params, solver: Solver, truth: Pairs) -> Float["s k"]:
    made = (learning.samples(params, jnp.asarray(truth.noise), count, solver=solver) for count in COUNTS)
    return np.array([[measures.sliced_distance(a, b) for a, b in zip(each, truth.clean)] for each in made]).T
