"""Low-rank updates of a transformer's weights: W + alpha / rank · a·b (LoRA, arXiv:2106.09685).

An update is a sparse tree of parameters, {"lora_a": [l c r], "lora_b": [l r m]} at the layers that it concerns.  Joined
with the weights it is computed beside them (`wan_jax.models.layers.dense`), as in training; fused, it costs nothing.
Those of others may also hold whole differences, under the names of the parameters that they are added to; see
`wan_jax.lora_files`.
"""

import math
import re
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from wan_jax import sharding
from wan_jax.errors import WanError
from wan_jax.quantization import SCALE, dequantize, quantize
from wan_jax.typing import Float, Params, typechecked


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which weights are updated, and how richly.

    Attributes:
        rank: of every update.
        alpha: updates are scaled by alpha / rank.
        targets: regular expression over paths of layers in the transformer's blocks.

    Raises:
        WanError: rank or alpha is not positive, or targets is no regular expression.
    """

    rank: int = 32
    alpha: float = 32.0
    targets: str = r"blocks/(self_attn|cross_attn)/[qkvo]|blocks/ffn_(in|out)"

    def __post_init__(self):
        if self.rank < 1 or self.alpha <= 0:
            raise WanError(f"lora.rank={self.rank} and lora.alpha={self.alpha} must be positive")
        try:
            re.compile(self.targets)
        except re.error as error:
            raise WanError(f"lora.targets={self.targets!r} is not a regular expression ({error})") from None


BLOCK_KERNEL = re.compile("(vace/)?blocks/.*/kernel")


def init(config: LoraConfig, abstract: Params, key: jax.Array) -> Params:
    """An update that changes nothing yet: `lora_b` is zero, `lora_a` as PEFT draws it (`kaiming_uniform_`, a = √5).

    Args:
        abstract: the transformer's parameters, or their shapes.

    Raises:
        WanError: the targets match no layer.
    """
    kernels = {path: x.shape for path, x in flatten_dict(abstract, sep="/").items() if BLOCK_KERNEL.fullmatch(path)}
    layers = {path.removesuffix("/kernel"): shape for path, shape in kernels.items()}
    chosen = [path for path in layers if re.fullmatch(config.targets, path)]
    if not chosen:
        raise WanError(f"lora.targets={config.targets!r} matches none of {', '.join(layers)}")
    lora = {}
    for i, path in enumerate(chosen):
        count, inputs, outputs = layers[path]
        end = 1 / math.sqrt(inputs)
        shape = (count, inputs, config.rank)
        lora[f"{path}/lora_a"] = jax.random.uniform(jax.random.fold_in(key, i), shape, minval=-end, maxval=end)
        lora[f"{path}/lora_b"] = jnp.zeros((count, config.rank, outputs))
    return unflatten_dict(lora, sep="/")


def scaled(config: LoraConfig, lora: Params) -> Params:
    """The update times alpha / rank, as the layers add it."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x * (config.alpha / config.rank) if path[-1].key == "lora_b" else x, lora
    )


def fuse(params: Params, update: Params, kind: str | None = None) -> Params:
    """The weights with a scaled update added, in float32; they keep their dtype.

    Beside a quantised matrix a low-rank update stays by itself, or rounding would swallow much of it; later ones join
    it.  Whole differences are added, and the sum is quantised anew.

    Args:
        params: a transformer's.
        update: of it.
        kind: how its matrices are quantised.
    """
    fused = dict(params)
    for name, value in update.items():
        if isinstance(value, dict):
            fused[name] = fuse(params[name], value, kind)
        elif name == "kernel" and SCALE in params:
            whole = dequantize(params[name], params[SCALE]) + value
            fused[name], scale = quantize(whole, kind)
            fused[SCALE] = scale.astype(params[SCALE].dtype)
        elif name not in ("lora_a", "lora_b"):
            fused[name] = _sum(params[name], value)
    if "lora_a" in update and SCALE in params:
        for name, rank_axis in (("lora_a", -1), ("lora_b", -2)):
            parts = [params[name]] if name in params else []
            fused[name] = jnp.concatenate([*parts, update[name].astype(params["bias"].dtype)], rank_axis)
    elif "lora_a" in update:
        fused["kernel"] = _add(fused["kernel"], update["lora_a"], update["lora_b"])
    return fused


def fuse_in_place(params: Params, update: Params, kind: str | None = None) -> Params:
    """`fuse` on the device, where at most one layer is there twice; the weights stay where they were, on a mesh.

    Those of `params` that change are gone afterwards.
    """
    fused, changes = flatten_dict(params, sep="/"), flatten_dict(update, sep="/")
    for layer in dict.fromkeys(path.rpartition("/")[0] for path in changes):
        old, change = (
            unflatten_dict({path: x for path, x in flat.items() if path.rpartition("/")[0] == layer}, sep="/")
            for flat in (fused, changes)
        )
        kept = jax.tree.leaves(old)[0].sharding
        old = sharding.to_memory(old, sharding.DEVICE)
        run = partial(fuse, kind=kind)
        places = sharding.place(jax.eval_shape(run, old, change), kept.mesh)
        where = jax.tree.map(lambda x: x.sharding, places)
        donated = 0 if kind is None else ()  # of quantised ones, updates grow and have no use for old memory
        new = jax.jit(run, donate_argnums=donated, out_shardings=where)(old, change)
        fused |= flatten_dict(sharding.to_memory(new, kept.memory_kind), sep="/")
    return unflatten_dict(fused, sep="/")


@typechecked
def _add(kernel: Float["*l c m"], a: Float["*l c r"], b: Float["*l r m"]) -> Float["*l c m"]:
    def one_layer(layer):  # all at once would take the memory of another, float32, kernel
        kernel, a, b = layer
        return _sum(kernel, jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32))

    return jax.lax.map(one_layer, (kernel, a, b)) if kernel.ndim == 3 else one_layer((kernel, a, b))


@typechecked
def _sum(weight: Float["*n"], difference: Float["*n"]) -> Float["*n"]:
    return (weight.astype(jnp.float32) + difference.astype(jnp.float32)).astype(weight.dtype)
