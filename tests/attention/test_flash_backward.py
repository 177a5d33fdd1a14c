"""The TPU kernels' gradients: simulated on CPU against float64, and compiled for a TPU where its compiler is."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.attention.oracle import errors, float64, inputs, results
from wan_jax.attention.chunked import chunked_attention
from wan_jax.attention.flash import flash_attention
from wan_jax.attention.flash_backward import flash_backward

# queries, keys, valid keys
LENGTHS = [(1, 1, 1), (127, 129, 129), (128, 127, 0), (1000, 1000, 999), (129, 4095, 3000), (5000, 130, 100)]


def gradients(q, k, v, d_out, d_lse, heads: int, length: int):
    """From the results of another implementation.  What lies after the valid keys is not even a number."""

    @jax.jit
    def run(q, k, v, d_out, d_lse):
        out, lse = chunked_attention(q, k, v, heads, length)
        keys, values = (x.at[:, length:].set(jnp.nan) for x in (k, v))
        return flash_backward(q, keys, values, out, lse, d_out, d_lse, jnp.int32(length), interpret=True)

    return run(q, k, v, d_out, d_lse)


@pytest.mark.parametrize("n, s, length", LENGTHS)
def test_float32(n, s, length):
    x = inputs(n, s, 2, 16)
    assert max(errors(gradients(*x, 2, length), float64(*x, 2, length)[2:])) < 2e-6


@pytest.mark.parametrize("n, s, length", [(127, 129, 127), (1000, 1100, 1000)])
def test_bfloat16(n, s, length):
    """No further from float64 than XLA, or than cuDNN was on an H100 for the second case (JAX 0.11.2)."""
    x = inputs(n, s, 2, 64, jnp.bfloat16)
    x = *x[:4], np.zeros_like(x[4])
    theirs = float64(*x, 2, length)[2:]
    ours, xla = errors(gradients(*x, 2, length), theirs), errors(results(chunked_attention, *x, 2, length)[2:], theirs)
    cudnn = (2.59e-3, 2.47e-3, 2.33e-3)
    assert all(a <= 1.05 * max(b, c) for a, b, c in zip(ours, xla, cudnn)), (ours, xla)


@pytest.mark.parametrize("length", [None, 200])
def test_flash_attention(length):
    """Forward and backward as one, with gradients of the result and of the sums."""
    x = inputs(130, 257, 2, 16, batch=2)
    theirs = float64(*x, 2, length)
    traced = None if length is None else jnp.int32(length)
    assert max(errors(results(flash_attention, *x, 2, traced), theirs)) < 2e-6


COMPILE = """
import jax, jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec as P
from wan_jax import sharding
from wan_jax.attention import self_attention

chip = topologies.get_topology_desc(platform="tpu", topology_name="v6e:1x1", chips_per_host_bounds=[1, 1, 1])
mesh = sharding.make_mesh(devices=chip.devices)
with jax.set_mesh(mesh):
    for n, dtype in ((127, "float32"), (1000, "bfloat16"), (4095, "bfloat16")):
        x = jax.ShapeDtypeStruct((1, n, 256), dtype, sharding=NamedSharding(mesh, P()))
        loss = lambda q, k, v: self_attention(q, k, v, 2, n - 1).astype("float32").sum()
        text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(x, x, x).compile().as_text()
        assert text.count('custom_call_target="tpu_custom_call"') == 3
"""


@pytest.mark.libtpu
def test_compiles_for_tpu():
    """Compiled, not run: one kernel forward, two backward."""
    environment = {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": "v6e-8",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    subprocess.run([sys.executable, "-c", COMPILE], env=os.environ | environment, check=True)
