"""The discriminator: sizes, independence of clips, and that all of it learns."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.compare import relative_error
from wan_jax.errors import WanError
from wan_jax.models.discriminator import Discriminator
from wan_jax.train.vae_losses import discriminator_loss, r1_penalty

TINY = Discriminator(channels=8, layers=2)


def clips(*shape):
    return np.random.default_rng(0).uniform(-1, 1, (*shape, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def params():
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(TINY.init, jax.random.key(0), clips(1, 1, 32, 32))["params"]
    around = lambda path: float(path[-1].key == "scale")  # noqa: E731
    return jax.tree_util.tree_map_with_path(
        lambda path, x: jnp.asarray(around(path) + 0.2 * rng.standard_normal(x.shape), jnp.float32), shapes
    )


@partial(jax.jit, static_argnums=0)
def logits(model, params, video):
    return model.apply({"params": params}, video)


@pytest.mark.parametrize(
    "clip, grid",
    [((1, 32, 32), (1, 2, 2)), ((5, 32, 40), (3, 2, 3)), ((17, 720, 1280), (9, 45, 80)), ((4, 33, 47), (2, 3, 3))],
)
def test_sizes(clip, grid):
    """A logit for every 16×16 pixels and two frames, of images and of sizes that do not divide."""
    video = jax.ShapeDtypeStruct((2, *clip, 3), jnp.float32)
    found, _ = jax.eval_shape(Discriminator().init_with_output, jax.random.key(0), video)
    assert found.shape == (2, *grid) and found.dtype == jnp.float32


def test_each_clip_is_judged_by_itself(params):
    """So that it does not matter which device has which clip."""
    video = clips(3, 5, 32, 40)
    together = logits(TINY, params, video)
    assert together.shape == (3, 3, 8, 10) and np.std(together) > 0.1
    assert relative_error(logits(TINY, params, video[[2, 0, 1]]), together[jnp.array([2, 0, 1])]) <= 1e-6
    assert relative_error(logits(TINY, params, video[1:2]), together[1:2]) <= 1e-6


def test_norm_is_of_each_clip_and_group(params):
    """The first norm, undone: mean 0 and variance 1 over frames, rows, columns and 16 channels."""
    _, state = TINY.apply({"params": params}, clips(2, 5, 32, 32), capture_intermediates=True)
    first = {k: np.asarray(params["norm_2"][k], np.float64) for k in ("scale", "bias")}
    y = np.asarray(state["intermediates"]["norm_2"]["__call__"][0], np.float64)
    plain = ((y - first["bias"]) / first["scale"]).reshape(2, -1, 2, 16)
    x = np.asarray(state["intermediates"]["conv_2"]["__call__"][0], np.float64).reshape(2, -1, 2, 16)
    expected = (x - x.mean((1, 3), keepdims=True)) / np.sqrt(x.var((1, 3), keepdims=True) + 1e-5)
    assert relative_error(plain, expected) <= 1e-4


def test_every_weight_learns(params):
    """From the hinge loss; and every kernel from the gradient penalty, which differentiates twice."""
    video = clips(2, 5, 32, 32)

    @jax.jit
    def gradients(params, video):
        judge = lambda p: lambda x: TINY.apply({"params": p}, x)  # noqa: E731
        hinge = lambda p: discriminator_loss(judge(p)(video), judge(p)(-video[::-1]))  # noqa: E731
        return jax.grad(hinge)(params), jax.grad(lambda p: r1_penalty(judge(p), video))(params)

    hinge, penalty = gradients(params, video)
    for path, x in jax.tree_util.tree_leaves_with_path(hinge):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(x).all() and np.count_nonzero(x) >= 0.99 * x.size, name
    for path, x in jax.tree_util.tree_leaves_with_path(penalty):
        name = jax.tree_util.keystr(path)
        # The slopes of LeakyReLU do not depend on the last biases.
        assert np.isfinite(x).all() and (np.count_nonzero(x) >= 0.99 * x.size or "bias" in name), name


def test_bfloat16(params):
    video, coarse = clips(2, 5, 32, 32), Discriminator(channels=8, layers=2, dtype=jnp.bfloat16)
    exact = logits(TINY, params, video)
    rough, pull = jax.vjp(lambda p: logits(coarse, p, video), params)
    assert rough.dtype == jnp.float32
    assert 0 < relative_error(rough, exact) <= 0.05
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(pull(jnp.ones_like(rough))))


def test_initialisation():
    """N(0, 0.02), whatever the width."""
    kernel = jax.jit(TINY.init)(jax.random.key(0), clips(1, 1, 32, 32))["params"]["conv_2"]["kernel"]
    assert abs(np.std(kernel) - 0.02) < 0.001


def test_channels_must_divide_into_groups():
    with pytest.raises(WanError, match="channels=12"):
        jax.eval_shape(Discriminator(channels=12).init, jax.random.key(0), clips(1, 1, 32, 32))
