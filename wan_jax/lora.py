"""Low-rank updates of a transformer's weights: W + alpha / rank · a·b (LoRA, arXiv:2106.09685).

An update is a sparse tree of parameters, {"lora_a": [l c r], "lora_b": [l r m]} at the layers that it concerns.  Joined
with the weights it is computed beside them (`wan_jax.models.layers.dense`), as in training; fused, it costs nothing.
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from wan_jax.cluster import is_leader
from wan_jax.config import DiTConfig
from wan_jax.errors import WanError
from wan_jax.models.dit import abstract_params
from wan_jax.sharding import to_host
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


_KERNEL = re.compile("(vace/)?blocks/.*/kernel")


def init(config: LoraConfig, abstract: Params, key: jax.Array) -> Params:
    """An update that changes nothing yet: `lora_b` is zero, `lora_a` as PEFT draws it (`kaiming_uniform_`, a = √5).

    Args:
        abstract: the transformer's parameters, or their shapes.

    Raises:
        WanError: the targets match no layer.
    """
    kernels = {path: x.shape for path, x in flatten_dict(abstract, sep="/").items() if _KERNEL.fullmatch(path)}
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


def fuse(params: Params, lora: Params) -> Params:
    """The weights with a scaled update added, in float32; they keep their dtype."""
    if "lora_a" in lora:
        return params | {"kernel": _add(params["kernel"], lora["lora_a"], lora["lora_b"])}
    return params | {name: fuse(params[name], update) for name, update in lora.items()}


def fuse_in_place(params: Params, lora: Params) -> Params:
    """`fuse`, in the memory of `params`, which are gone afterwards."""
    where = jax.tree.map(lambda x: x.sharding, params)
    return jax.jit(fuse, donate_argnums=0, out_shardings=where)(params, lora)


@typechecked
def _add(kernel: Float["l c m"], a: Float["l c r"], b: Float["l r m"]) -> Float["l c m"]:
    def one_layer(layer):  # all at once would take the memory of another, float32, kernel
        kernel, a, b = layer
        update = jnp.dot(a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
        return (kernel.astype(jnp.float32) + update).astype(kernel.dtype)

    return jax.lax.map(one_layer, (kernel, a, b))


# ---- Files ----------------------------------------------------------------------------------------------------------

# Before the layers' original Wan names, as ComfyUI and most trainers have them, and before those of Diffusers.
_PREFIXES = {"original": "diffusion_model.", "diffusers": "transformer."}
_ABSENT = np.zeros(0)


def save(path: epath.PathLike, lora: Params, config: LoraConfig, transformer: DiTConfig, metadata: Mapping[str, str]):
    """Writes an update that is not scaled as safetensors that ComfyUI, Diffusers and `load` read, one file an expert.

    Every process calls this; process 0 writes.

    Args:
        metadata: what the header is to tell about the file.
    """
    arrays = {name: to_host(x) for name, x in flatten_dict(lora, sep="/").items()}
    if not is_leader():
        return
    tensors = {}
    for name, (rule, layer) in _file_names(transformer, "original").items():
        ours = rule.path.removesuffix("kernel")
        if f"{ours}lora_a" in arrays:
            a, b = arrays[f"{ours}lora_a"][layer].T, rule.transform.to_torch(arrays[f"{ours}lora_b"][layer])
            tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(a)
            tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(b)
            tensors[f"{name}.alpha"] = np.array(config.alpha, np.float32)
    path = epath.Path(path)
    temporary = path.parent / f"{path.name}.tmp"
    temporary.write_bytes(safetensors.numpy.save(tensors, {"format": "pt", **metadata}))
    temporary.replace(path)


def load(path: epath.PathLike, transformer: DiTConfig, strength: float = 1.0) -> Params:
    """Reads an update, scaled by `strength` · alpha / rank, float32, on the host.

    Blocks that the file passes over get zeros.  Without alpha, alpha is the rank.

    Raises:
        WanError: there is no such file, or it lists the tensors that do not belong to this transformer's blocks.
    """
    tensors, metadata = _read(epath.Path(path))
    default_alpha = json.loads(metadata.get("lora_adapter_metadata", "{}")).get("transformer.lora_alpha")  # of PEFT
    shapes = flatten_dict(abstract_params(transformer), sep="/")
    widest = max((len(x) for name, x in tensors.items() if name.endswith(".lora_A.weight")), default=0)
    lora, used = {}, set()
    for name, (rule, layer) in (_file_names(transformer, "original") | _file_names(transformer, "diffusers")).items():
        layers, inputs, outputs = shapes[rule.path].shape
        a, b = (tensors.get(f"{name}.lora_{side}.weight", _ABSENT) for side in "AB")
        rank = len(a)
        if (a.shape, b.shape) != ((rank, inputs), (outputs, rank)):
            continue
        used |= {f"{name}.lora_A.weight", f"{name}.lora_B.weight", f"{name}.alpha"}
        scale = strength * tensors.get(f"{name}.alpha", default_alpha or rank) / rank
        a_path, b_path = (rule.path.replace("/kernel", f"/lora_{side}") for side in "ab")
        lora.setdefault(a_path, np.zeros((layers, inputs, widest), np.float32))[layer, :, :rank] = a.T
        lora.setdefault(b_path, np.zeros((layers, widest, outputs), np.float32))[layer, :rank] = (
            scale * rule.transform.to_jax(b)
        )
    if strange := [f"  {name} {list(x.shape)}" for name, x in tensors.items() if name not in used]:
        raise WanError(f"{path}: {len(strange)} tensors do not fit the blocks of this model\n" + "\n".join(strange))
    return unflatten_dict(lora, sep="/")


def _file_names(transformer: DiTConfig, layout: Literal["original", "diffusers"]) -> dict[str, tuple[Any, int]]:
    """The layers by their names in files: of each the converter's rule for its kernel, and the number of its block."""
    from convert.dit import dit_rules  # above us in the tree, and only needed for files

    rules = [rule for rule in dit_rules(transformer) if _KERNEL.fullmatch(rule.path)]
    counts = {"blocks": transformer.num_layers, "vace": len(transformer.vace_layers)}
    return {
        _PREFIXES[layout] + name.removesuffix(".weight"): (rule, layer)
        for rule in rules
        for layer, name in enumerate(rule.names(layout, counts[rule.path.split("/")[0]]))
    }


def _read(path: epath.Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The tensors of a safetensors file, float32, and the metadata of its header."""
    from convert.tensor_files import tensor_info

    try:
        data = path.read_bytes()
        tensors = safetensors.deserialize(data)
    except (OSError, safetensors.SafetensorError) as error:
        raise WanError(f"{path}: no safetensors file that can be read ({error})") from None
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    arrays = {}
    for name, tensor in tensors:
        dtype = tensor_info(name, tensor["shape"], tensor["dtype"], str(path)).dtype
        arrays[name] = np.frombuffer(tensor["data"], dtype).reshape(tensor["shape"]).astype(np.float32)
    return arrays, header.get("__metadata__", {})
