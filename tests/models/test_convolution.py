"""Every device's form of a convolution against XLA's own over three axes; the GPU's runs on CPU as well."""

from functools import partial

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from tests.compare import relative_error
from wan_jax import sharding
from wan_jax.models.convolution import convolve


def plain(x, kernel, strides, margin):
    names = ("NDHWC", "DHWIO", "NDHWC")
    padding = [(0, 0), margin, margin]
    return lax.conv_general_dilated(x, kernel, strides, padding, dimension_numbers=names, precision="highest")


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize(
    ("window", "features", "strides", "margin"),
    [
        ((3, 3, 3), 6, (1, 1, 1), (1, 1)),
        ((3, 3, 3), 3, (1, 1, 1), (1, 1)),  # few results
        ((3, 1, 1), 16, (2, 1, 1), (0, 0)),
        ((1, 3, 3), 9, (1, 2, 2), (0, 1)),
    ],
)
def test_forms_agree(monkeypatch, gpu, window, features, strides, margin):
    monkeypatch.setattr(sharding, "is_nvidia", lambda: gpu)
    x = jax.random.normal(jax.random.key(0), (2, 7, 8, 10, 9))
    kernel = jax.random.normal(jax.random.key(1), (*window, 9, features))

    def value(form, x, kernel):
        y = form(x, kernel, strides, margin)
        return jnp.sin(y).sum(), y

    ours, theirs = (
        jax.value_and_grad(partial(value, form), argnums=(0, 1), has_aux=True)(x, kernel) for form in (convolve, plain)
    )
    (_, y), gradients = ours
    assert relative_error(y, theirs[0][1]) <= 1e-6
    assert all(relative_error(a, b) <= 1e-5 for a, b in zip(gradients, theirs[1]))


def test_no_frame_is_no_result(monkeypatch):
    """The time convolutions of a clip's first frame."""
    monkeypatch.setattr(sharding, "is_nvidia", lambda: True)
    for strides in (1, 1, 1), (2, 1, 1):
        assert convolve(jnp.ones((1, 2, 4, 4, 8)), jnp.ones((3, 1, 1, 8, 8)), strides).shape == (1, 0, 4, 4, 8)
