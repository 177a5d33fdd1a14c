"""The two ways, against Gaussian data, whose flow is known exactly; and what training really brings."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from wan_jax.errors import WanError
from wan_jax.explain import learning, measures, plane
from wan_jax.explain.comparison import CLOSE, COUNTS, STRAIGHTENED, Comparison, Learned, compare
from wan_jax.explain.finding import finding, steps_to_quality
from wan_jax.explain.plane import DDIM, DIFFUSION, EULER, FLOW, PROBABILITY_FLOW

STEPS = 500  # of training
SPREAD = 0.3  # of the Gaussian data, which are centred
NOISE = np.random.default_rng(0).standard_normal((50, 2)).astype(np.float32)


def flow_velocity(x, t):
    """E[ε − x0 | x] where x = (1 − t)·x0 + t·ε."""
    return x * (t - (1 - t) * SPREAD**2) / ((1 - t) ** 2 * SPREAD**2 + t**2)


def diffusion_noise(x, t):
    """E[ε | x] where x = α·x0 + σ·ε."""
    alpha, sigma = plane.diffusion_path(t)
    return x * sigma / (alpha**2 * SPREAD**2 + sigma**2)


@pytest.mark.parametrize(
    "solver, predict", [(EULER, flow_velocity), (DDIM, diffusion_noise), (PROBABILITY_FLOW, diffusion_noise)]
)
def test_exact_flow_of_a_gaussian(solver, predict):
    """Noise x ends at SPREAD·x, by every way and solver; ten times as many steps are off by a tenth."""
    off = []
    for steps in (100, 1000):
        path = np.asarray(jax.jit(lambda n, steps=steps: learning.follow(predict, solver, n, steps))(NOISE))
        assert path.shape == (steps + 1, 50, 2)
        off.append(np.abs(path[-1] - SPREAD * NOISE).max())
    assert off[0] < 0.12
    assert off[1] < 0.2 * off[0]


def test_variance_of_diffusion_is_kept():
    alpha, sigma = plane.diffusion_path(jnp.linspace(0, 1, 11))
    np.testing.assert_allclose(alpha**2 + sigma**2, 1, atol=1e-6)
    assert alpha[0] == 1 and sigma[0] == 0
    assert alpha[-1] == pytest.approx(np.exp(-5.025), rel=1e-4)  # the integral of β over 4: (0.1 + 20)/4


@pytest.mark.parametrize("data", plane.DATA)
def test_data_are_of_one_scale(data):
    points = np.asarray(plane.draw(data, jax.random.key(0), 50_000))
    np.testing.assert_allclose(points.mean(0), 0, atol=0.02)
    assert points.var(0).mean() == pytest.approx(1, abs=0.02)


def test_unknown_data():
    with pytest.raises(WanError, match="data='moon' is unknown; use one of eight Gaussians, two moons, spiral"):
        plane.draw("moon", jax.random.key(0), 10)


@pytest.fixture(scope="module")
def measured() -> Comparison:
    *_, last = compare("eight Gaussians", seeds=(0, 1), steps=STEPS, reports=1)
    return last


def test_training_brings_quality(measured):
    """More steps come closer to the data, and straightening makes one step nearly as good as fifty."""
    flow = measured.learned[FLOW.name].distances["Euler"]
    straight = measured.learned[STRAIGHTENED].distances["Euler"]
    assert flow.shape == (2, len(COUNTS))
    assert (flow[:, -1] < 0.25 * flow[:, 0]).all()
    assert (straight[:, 0] < 0.25 * flow[:, 0]).all()
    assert (measured.learned[STRAIGHTENED].straightness < 0.05 * measured.learned[FLOW.name].straightness).all()
    needed = steps_to_quality(measured)
    assert needed[STRAIGHTENED, "Euler"] < needed[FLOW.name, "Euler"]


def test_training_lowers_the_steps_to_quality(measured):
    """As close as the trained networks come in fifty steps, times CLOSE, they are in sixteen; untrained ones never."""
    curve = measured.learned[FLOW.name].distances["Euler"].mean(0)
    aim = CLOSE * curve[-1]
    assert curve[COUNTS.index(16)] <= aim
    untrained = learning.begin(np.arange(2), STEPS).params
    noise = np.random.default_rng(0).standard_normal(measured.truth.shape).astype(np.float32)
    for count in COUNTS:
        made = learning.samples(untrained, noise, count, solver=EULER)
        assert min(map(measures.sliced_distance, made, measured.truth)) > aim


def made_up(flow: list, ddim: list, euler: list, straight: list) -> Comparison:
    """A comparison with these distances, seed by seed, at all counts but the last, where all are at 0.1."""

    def curve(values: list) -> np.ndarray:
        return np.array([[v] * (len(COUNTS) - 1) + [0.1] for v in values])

    def learned(name: str, way: plane.Way, bend: float, **distances) -> Learned:
        nothing = np.zeros((2, 1))
        return Learned(name, way, {}, nothing, nothing[None], np.full(2, bend), np.full(2, 1 + bend), distances)

    entries = (
        learned(FLOW.name, FLOW, 0.4, Euler=curve(flow)),
        learned(DIFFUSION.name, DIFFUSION, 0.2, DDIM=curve(ddim), Euler=curve(euler)),
        learned(STRAIGHTENED, FLOW, 0.01, Euler=curve(straight)),
    )
    return Comparison("spiral", np.zeros((2, 1, 2)), np.zeros(2), {one.name: one for one in entries})


def test_finding_follows_the_numbers():
    few, quality, straight, again = finding(made_up([0.5, 0.6], [0.7, 0.8], [0.2, 0.3], [0.12, 0.12]))
    assert "Flow matching is ahead of diffusion by DDIM." in few
    assert "Diffusion by Euler is ahead of flow matching." in few
    assert "flow matching needs 50; diffusion by DDIM needs 50" in quality and "straightened needs 1." in quality
    assert "Diffusion has a steadier velocity than flow matching." in straight
    assert "One straightened step is closer to the data than 4 steps of the first flow." in again


def test_finding_says_where_seeds_do_not_decide():
    few, *_, again = finding(made_up([0.5, 0.8], [0.7, 0.9], [0.5, 0.8], [0.9, 0.9]))
    assert "Between flow matching and diffusion by DDIM the seeds do not decide." in few
    assert "4 steps of the first flow is closer to the data than one straightened step." in again
