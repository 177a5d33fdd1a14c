"""Matrices of the transformer's blocks in eight bits, by qwix: half the memory, and where wanted faster products.

    int8, fp8             eight-bit weights; products in the dtype of the others
    int8_w8a8, fp8_w8a8   the inputs in eight bits as well, for matrix units that multiply these faster

A kernel [*l c m] comes with scales [*l g m]: of int8, one for 64 inputs of an output, since a shared one has to suit
the largest of thousands; of the others g is 1, as floating point needs no more, and as whole products are scaled
afterwards.  Inputs in int8 get a scale for each token; fp8 spans what comes out of norms and activations without any.
What is small or delicate stays as it is: norms, modulation, time path, embeddings, head, biases.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from wan_jax import sharding
from wan_jax.typing import Float, Num, Params, typechecked

SCALE = "kernel_scale"  # the name of a parameter, beside "kernel"
_GROUP = 64  # inputs that share a scale


def values_dtype(kind: str) -> jnp.dtype:
    """The dtype of the stored weights of one of `config.QUANTIZATIONS`."""
    return jnp.dtype(jnp.int8 if kind.startswith("int8") else jnp.float8_e4m3fn)


def scales(kind: str, inputs: int) -> int:
    """How many scales an output has, g."""
    return inputs // math.gcd(_GROUP, inputs) if kind == "int8" else 1


@typechecked
def quantize(kernel: Float["*l c m"], kind: str) -> tuple[Num["*l c m"], Float["*l g m"]]:
    """Values and scales, whose product is the kernel but for rounding."""
    import qwix  # takes a second, for which nobody else should wait

    axis = kernel.ndim - 2
    groups = {axis: kernel.shape[axis] // scales(kind, kernel.shape[axis])}
    others = [other for other in range(kernel.ndim) if other != axis]
    found = qwix.quantize(
        jnp.asarray(kernel, jnp.float32), values_dtype(kind), channelwise_axes=others, tiled_axes=groups
    )
    return found.qvalue, found.scale


def dequantize(values: Num["*l c m"], scale: Float["*l g m"]) -> Float["*l c m"]:
    """The kernel, in float32."""
    import qwix

    return qwix.dequantize(qwix.QArray(values, scale.astype(jnp.float32)))


def dot(x: Float["*b c"], values: Num["c m"], scale: Float["g m"], kind: str, precision=None) -> Float["*b m"]:
    """The product of `x` and a quantised kernel, in the dtype of `x`."""
    import qwix

    axes = ((x.ndim - 1,), (0,)), ((), ())
    inputs, kernel = x, qwix.QArray(values, scale.astype(x.dtype))
    if kind == "int8_w8a8":
        tokens = tuple(range(x.ndim - 1))
        inputs = qwix.quantize(x.astype(jnp.float32), values.dtype, channelwise_axes=tokens)
    elif kind == "fp8_w8a8":
        largest = float(jnp.finfo(values.dtype).max)
        inputs = jnp.clip(x, -largest, largest).astype(values.dtype)
    return qwix.dot_general(inputs, kernel, axes, precision=precision, preferred_element_type=x.dtype)


def quantize_params(params: Params, wanted: Params, kind: str) -> Params:
    """A transformer's parameters with those matrices in eight bits that `wanted` has so: shapes, dtypes and shardings.

    Each matrix is quantised on the device layer by layer, wherever it comes from and goes to.
    """
    flat, places = flatten_dict(params, sep="/"), flatten_dict(wanted, sep="/")
    found = {}
    for path in list(flat):
        scale = path.removesuffix("kernel") + SCALE
        if path.endswith("/kernel") and scale in places:
            parts = _by_layer(sharding.to_memory(flat.pop(path), sharding.DEVICE), kind=kind)
            for name, x in zip((path, scale), parts):
                found[name] = jax.device_put(x.astype(places[name].dtype), places[name].sharding)
            jax.block_until_ready(found[path])  # or the next one would come beside this one
        else:
            found[path] = jax.device_put(flat.pop(path), places[path].sharding)
    return unflatten_dict(found, sep="/")


@partial(jax.jit, static_argnames="kind")
def _by_layer(kernel: Float["l c m"], kind: str) -> tuple[Num["l c m"], Float["l g m"]]:
    return jax.lax.map(lambda layer: quantize(layer, kind), kernel)
