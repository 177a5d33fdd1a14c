"""Low-rank updates as files: ours, and those of Diffusers, PEFT, kohya's trainers, ComfyUI, LightX2V and DiffSynth.

A key is a prefix, the name of a layer in one of the two layouts that the converter knows, and what it holds of that
layer: one of the two matrices, their alpha, or a difference that is added whole.  The styles differ in prefixes and
suffixes alone, but for kohya's, whose names have underscores for points.  (LightX2V, lora_loader.py; Diffusers,
loaders/lora_conversion_utils.py.)
"""

import json
import os
import re
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from wan_jax.cluster import is_leader
from wan_jax.config import DiTConfig
from wan_jax.errors import WanError
from wan_jax.lora import BLOCK_KERNEL, LoraConfig
from wan_jax.models.dit import abstract_params
from wan_jax.sharding import to_host
from wan_jax.typing import Float, Params

_OWN_PREFIX = "diffusion_model."  # as ComfyUI and most trainers have it, before the original names
_PREFIX = re.compile(r"((base_model\.model|diffusion_model|model|unet|transformer|transformer_2|pipe\.dit)\.)*")
_KOHYA_PREFIX = "lora_unet_"
_PARTS = {
    "a": re.compile(r"(.+)(?:\.lora_|[._]lora\.)(?:A|down)(?:\.default)?\.weight"),
    "b": re.compile(r"(.+)(?:\.lora_|[._]lora\.)(?:B|up)(?:\.default)?\.weight"),
    "alpha": re.compile(r"(.+)\.alpha"),
    "weight": re.compile(r"(.+)\.diff"),
    "bias": re.compile(r"(.+)\.diff_b"),
    "modulation": re.compile(r"(.+)\.diff_m"),
}
_NAMED = 5  # keys in a message


class _Place(NamedTuple):
    """A tensor of PyTorch in our tree."""

    path: str
    layer: int  # of those that are stacked
    stacked: bool
    to_jax: object  # from PyTorch's axes to ours
    shape: tuple[int, ...]  # PyTorch's


def save(
    path: epath.PathLike,
    lora: Params,
    config: LoraConfig,
    transformer: DiTConfig,
    metadata: Mapping[str, str],
    dtype: Any = "float32",
):
    """Writes an update that is not scaled as safetensors that ComfyUI, Diffusers and `load` read, one file an expert.

    Every process calls this; process 0 writes.

    Args:
        metadata: what the header is to tell about the file.
        dtype: of the two matrices in the file.
    """
    from convert.dit import dit_rules  # above us in the tree, and only needed for files

    arrays = {name: to_host(x).astype(jnp.dtype(dtype)) for name, x in flatten_dict(lora, sep="/").items()}
    if not is_leader():
        return
    tensors = {}
    for rule in dit_rules(transformer):
        ours = rule.path.removesuffix("kernel")
        if BLOCK_KERNEL.fullmatch(rule.path) and f"{ours}lora_a" in arrays:
            a, b = arrays[f"{ours}lora_a"], arrays[f"{ours}lora_b"]
            for layer, name in enumerate(rule.names("original", len(a))):
                name = _OWN_PREFIX + name.removesuffix(".weight")
                tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(a[layer].T)
                tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(rule.transform.to_torch(b[layer]))
                tensors[f"{name}.alpha"] = np.array(config.alpha, np.float32)
    path = epath.Path(path)
    temporary = path.parent / f"{path.name}.tmp"
    temporary.write_bytes(safetensors.numpy.save(tensors, {"format": "pt", **metadata}))
    temporary.replace(path)


def load(path: epath.PathLike, transformer: DiTConfig, strength: float = 1.0) -> Params:
    """Reads an update, float32, on the host, for `wan_jax.lora.fuse`.

    It is scaled by `strength`, low-rank ones also by alpha / rank; without alpha, alpha is the rank.  Blocks that the
    file passes over get zeros.  Of tensors for layers that the model does not have, such as those for pictures in a
    text-to-video model, a warning tells.

    Args:
        path: a file, here or in a bucket; or, where there is none, one of a repository of the hub, as
            owner/name/path.safetensors.
        transformer: the model's.
        strength: factor of the update.

    Raises:
        WanError: there is no such file, none of it is for this model, or a tensor is for one of another size.
    """
    tensors, metadata = _read(_fetched(path))
    default_alpha = json.loads(metadata.get("lora_adapter_metadata", "{}")).get("transformer.lora_alpha")  # of PEFT
    known = _places(transformer)
    layers, unused = _by_layer(tensors, known)
    shapes = flatten_dict(abstract_params(transformer), sep="/")
    update: dict[str, np.ndarray] = {}

    def add(place: _Place, leaf: str, value: Float["*n"], shape: tuple[int, ...]):
        """Sets `value` where the parameter's path ends in `leaf` instead; there `shape` has room for it."""
        name = f"{place.path.rpartition('/')[0]}/{leaf}".lstrip("/")
        if name not in update:
            layers = shapes[place.path].shape[:1] if place.stacked else ()
            update[name] = np.zeros((*layers, *shape), np.float32)
        whole = update[name][place.layer] if place.stacked else update[name]
        whole[tuple(map(slice, value.shape))] += value

    widest = max((len(parts["a"]) for parts in layers.values() if "a" in parts), default=0)
    for layer, parts in layers.items():
        for part in ("weight", "bias", "modulation"):
            if part in parts:
                place, value = known[f"{layer}.{part}"], parts[part]
                _check(path, f"{layer}'s difference", value.shape, place.shape)
                value = strength * place.to_jax(value)
                add(place, place.path.rpartition("/")[2], value, value.shape)
        if "a" in parts:
            place, (a, b) = known[f"{layer}.weight"], (parts["a"], parts["b"])
            rank = len(a)
            _check(path, f"{layer}'s first matrix", a.shape, (rank, *place.shape[1:]))
            _check(path, f"{layer}'s second matrix", b.shape[:2], (place.shape[0], rank))
            b = b.reshape(b.shape[:2]) * (strength * float(parts.get("alpha", default_alpha or rank)) / rank)
            if a.ndim == 2:
                add(place, "lora_a", a.T, (a.shape[1], widest))
                add(place, "lora_b", place.to_jax(b), (widest, b.shape[0]))
            else:  # of a convolution
                value = place.to_jax(np.tensordot(b, a, 1))
                add(place, "kernel", value, value.shape)
    if not update:
        raise WanError(f"{path}: none of its {len(tensors)} tensors is an update for this model: {_some(tensors)}")
    if unused:
        warnings.warn(
            f"{path}: {len(unused)} of {len(tensors)} tensors are not used, as this model has no such layers: "
            f"{_some(unused)}",
            stacklevel=3,
        )
    return unflatten_dict(update, sep="/")


def _by_layer(
    tensors: Mapping[str, np.ndarray], known: Mapping[str, _Place]
) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """What a file holds, as {layer: {part: tensor}}, and the keys that are none of this model's.

    Raises:
        WanError: one of two matrices is missing.
    """
    dashed = {name.rpartition(".")[0].replace(".", "_"): name.rpartition(".")[0] for name in known}
    layers: dict[str, dict[str, np.ndarray]] = {}
    keys: dict[tuple[str, str], str] = {}
    unused = []
    for key, tensor in tensors.items():
        layer, part = _parse(key, dashed)
        if part is None or f"{layer}.{'weight' if part in ('a', 'b', 'alpha') else part}" not in known:
            unused.append(key)
        else:
            layers.setdefault(layer, {})[part] = tensor
            keys[layer, part] = key
    for layer, parts in layers.items():
        if ("a" in parts) != ("b" in parts):
            there = keys[layer, "a" if "a" in parts else "b"]
            raise WanError(f"{there} stands without the other matrix of its layer; the file is incomplete")
    return layers, unused


def _parse(key: str, dashed: Mapping[str, str]) -> tuple[str, str | None]:
    """Layer and part that a key names; `dashed` has the layers by their names with underscores."""
    for part, pattern in _PARTS.items():
        if found := pattern.fullmatch(key):
            layer = found[1]
            if layer.startswith(_KOHYA_PREFIX):
                return dashed.get(layer.removeprefix(_KOHYA_PREFIX), layer), part
            return _PREFIX.sub("", layer, count=1), part
    return key, None


def _places(transformer: DiTConfig) -> dict[str, _Place]:
    """Where the tensors of PyTorch lie, by their names in both layouts."""
    from convert.dit import dit_rules

    counts = {"blocks": transformer.num_layers, "vace": len(transformer.vace_layers)}
    shapes = flatten_dict(abstract_params(transformer), sep="/")
    places = {}
    for rule in dit_rules(transformer):
        ours = shapes[rule.path].shape[1:] if rule.stacked else shapes[rule.path].shape
        shape = rule.transform.to_torch(np.broadcast_to(np.int8(0), ours)).shape
        for layout in ("original", "diffusers"):
            names = rule.names(layout, counts.get(rule.path.split("/")[0], 0))
            places |= {
                name: _Place(rule.path, i, rule.stacked, rule.transform_of(layout).to_jax, shape)
                for i, name in enumerate(names)
            }
    return places


def _check(path: epath.PathLike, what: str, found: tuple[int, ...], expected: tuple[int, ...]):
    if found != expected:
        raise WanError(f"{path}: {what} is {list(found)} and has to be {list(expected)}; it is for another model")


def _some(keys) -> str:
    named = list(keys)[:_NAMED]
    return ", ".join(named) + (", …" if len(keys) > _NAMED else "")


def _fetched(path: epath.PathLike) -> epath.Path:
    """The file itself, or the copy of one on the hub."""
    from convert.folders import HubFolder

    found, text = epath.Path(path), os.fspath(path)
    on_hub = re.fullmatch(r"([\w-][\w.-]*/[\w.-]+)/(.+\.safetensors)", text)
    if found.exists() or on_hub is None:
        return found
    return epath.Path(HubFolder(on_hub[1]).fetch(on_hub[2]))


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
