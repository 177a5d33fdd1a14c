"""Ulysses, rings and both, on virtual devices, equal to attention on one."""

import functools

import jax
import numpy as np
import pytest

from tests.attention.oracle import errors, float64, inputs
from wan_jax import sharding
from wan_jax.attention import cross_attention, ring, self_attention

D = 4


def padded(x, multiple: int):
    """Zero-free padding at the end of the sequence: what is there must not matter."""
    extra = -x.shape[1] % multiple
    return np.pad(np.asarray(x), ((0, 0), (0, extra), (0, 0)), constant_values=7.0)


def on_mesh(mesh: dict, attend, *arrays):
    """The result and the gradients of `attend` for a cotangent, the last of the arrays."""
    devices = jax.devices()[: int(np.prod(list(mesh.values())))]
    with jax.set_mesh(sharding.make_mesh(**mesh, devices=devices)):

        @jax.jit
        def run(q, k, v, d_out):
            out, pull = jax.vjp(attend, q, k, v)
            return out, *pull(d_out)

        return run(*arrays)


@pytest.mark.parametrize(
    "mesh, heads, batch, n",
    [
        ({"context": 2}, 12, 1, 37),  # Ulysses
        ({"context": 5}, 40, 1, 6),  # Ulysses; two devices hold padding only
        ({"context": 5}, 12, 1, 6),  # a ring, likewise
        ({"context": 6}, 24, 1, 37),
        ({"context": 7}, 40, 1, 37),  # a ring
        ({"context": 8}, 12, 1, 37),  # 4 heads apart × ring of 2
        ({"context": 8}, 12, 1, 40),  # without padding
        ({"context": 16}, 40, 1, 37),  # 8 × 2
        ({"context": 16}, 24, 1, 37),  # 8 × 2
        ({"data": 2, "context": 4}, 12, 2, 37),
        ({"data": 2, "context": 3}, 40, 1, 37),  # data works on the sequence
        ({"data": 2, "fsdp": 2, "context": 2}, 12, 2, 37),
        ({"tensor": 2, "context": 4}, 12, 1, 37),  # 6 heads on 4: 2 × 2
        ({"tensor": 2, "context": 2}, 3, 1, 37),  # tensor cannot be used
    ],
    ids=str,
)
def test_self_attention(mesh, heads, batch, n):
    q, k, v, d_out, d_lse = inputs(n, n, heads, D, batch=batch)
    parts = int(np.prod(list(mesh.values()))) // mesh.get("tensor", 1)
    arrays = [padded(x, parts) for x in (q, k, v, d_out)]
    arrays[-1][:, n:] = 0
    length = n if arrays[0].shape[1] > n else None
    ours = on_mesh(mesh, functools.partial(self_attention, heads=heads, length=length), *arrays)
    out, _, *grads = float64(q, k, v, d_out, 0 * d_lse, heads)
    assert max(errors([x[:, :n] for x in ours], [out, *grads])) < 2e-6
    assert not any(np.any(x[:, n:]) for x in ours[1:]), "padding has gradients"


@pytest.mark.parametrize("mesh, heads", [({"data": 2, "context": 4}, 12), ({"context": 2, "tensor": 2}, 3)], ids=str)
def test_cross_attention(mesh, heads):
    q, k, v, d_out, d_lse = inputs(40, 9, heads, D, batch=2)
    ours = on_mesh(mesh, functools.partial(cross_attention, heads=heads), q, k, v, d_out)
    out, _, *grads = float64(q, k, v, d_out, 0 * d_lse, heads)
    assert max(errors(ours, [out, *grads])) < 2e-6


def test_merge_of_nothing():
    """Two empty sets of keys make an empty one, with gradients that are numbers."""
    empty = (np.zeros((1, 3, 4), np.float32), np.full((1, 2, 3), -np.inf, np.float32))
    (out, lse), pull = jax.vjp(ring.merge, empty, empty)
    assert not np.any(out) and np.all(np.isneginf(lse))
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(pull((np.ones_like(out), np.ones_like(lse)))))
