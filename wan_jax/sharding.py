"""Where arrays live on a mesh of devices.

A mesh has four axes, any of which may be 1:

    data     copies of the model; the guided and the unguided prediction, or several videos, side by side
    fsdp     weights in pieces, each gathered when its layer runs; more of the batch, or of the video
    context  the tokens of a video in pieces; weights in pieces as well
    tensor   attention heads and feed-forward features in pieces

Weights are placed by one table, `RULES`.  Activations follow from the mesh and the batch: an axis that the batch
cannot use works on the sequence (`split`), so no device idles and no size has to divide by another.

Model code reads the mesh from its surroundings (`with jax.set_mesh(mesh)`); without one, nothing here does anything.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from wan_jax import chips
from wan_jax.errors import WanError
from wan_jax.typing import Params

# Memory spaces: a device's own, and pages of the host's that it can copy from by itself.
DEVICE, HOST = "device", "pinned_host"

AXES = ("data", "fsdp", "context", "tensor")
_PIECES = ("fsdp", "context")

# Letters: l layers, c model width, m feed-forward width, t text width, i that of CLIP's tokens, k heads, v vocabulary,
# r rank.  Scales of quantised kernels, [l g m], lie as these do.
RULES = (
    (r"(vace/)?blocks/.*attn/[qkv]/kernel(_scale)?", P(None, _PIECES, "tensor")),  # [l c c]
    (r"(vace/)?blocks/.*attn/o/kernel(_scale)?", P(None, "tensor", _PIECES)),  # [l c c]
    (r"vace/blocks/after_proj/kernel(_scale)?", P(None, _PIECES, "tensor")),  # [l c c]
    (r"(vace/)?blocks/ffn_(in|gate)/kernel(_scale)?", P(None, _PIECES, "tensor")),  # [l c m]
    (r"(vace/)?blocks/ffn_out/kernel(_scale)?", P(None, "tensor", _PIECES)),  # [l m c]
    (r"(vace/)?blocks/.*attn/([qkv]/bias|norm_[qk]/scale)", P(None, "tensor")),  # [l c]
    (r"(vace/)?blocks/ffn_(in|gate)/bias", P(None, "tensor")),  # [l m]
    (r"(vace/)?blocks/.*/lora_a", P(None, _PIECES)),  # [l c r], [l m r]
    (r"(vace/)?blocks/.*/lora_b", P(None, None, _PIECES)),  # [l r c], [l r m]
    (r"(vace/)?blocks/.*attn/position_bias", P(None, None, "tensor")),  # [l buckets k]
    (r"(vace/)?blocks/.*", P()),  # [l c], [l 6 c]
    (r"(text_in|text_out|time_in|time_out|time_proj)/kernel", P(None, (*_PIECES, "tensor"))),  # [t c], [c c], [c 6c]
    (r"vace/before_proj/kernel", P(None, (*_PIECES, "tensor"))),  # [c c]
    (r"image_embedding/proj_(in|out)/kernel", P(None, (*_PIECES, "tensor"))),  # [i i], [i c]
    (r"token_embedding/embedding", P(None, (*_PIECES, "tensor"))),  # [v t]
    (r".*", P()),  # patch embedding, head, norms, biases, and the autoencoder, which is split over space
)


@dataclass(frozen=True)
class Split:
    """The mesh axes over which activations [b n c] are cut: the batch, and the sequence."""

    batch: tuple[str, ...]
    sequence: tuple[str, ...]


def make_mesh(
    data: int = 1, fsdp: int = 1, context: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """A mesh over `devices`, by default all there are.

    Raises:
        WanError: the axes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else list(devices)
    sizes = (data, fsdp, context, tensor)
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        text = ",".join(f"{axis}={size}" for axis, size in zip(AXES, sizes))
        raise WanError(f"mesh {text} needs {math.prod(sizes)} devices, there are {len(devices)}")
    # jax.make_mesh refuses to cut an axis of a slice in two, except on v5e.
    grid = mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def parse_mesh(text: str) -> dict[str, int]:
    """The axes of "data=2,context=4".

    Raises:
        WanError: it is not such a list.
    """
    sizes = {}
    for part in text.split(","):
        axis, _, size = part.strip().partition("=")
        if axis not in AXES or not size.isdecimal() or int(size) < 1 or axis in sizes:
            raise WanError(f"mesh {text!r} is not a list of {', '.join(AXES)} with sizes, such as data=2,context=4")
        sizes[axis] = int(size)
    return sizes


def as_mesh(mesh: Mesh | str | None, devices: Sequence[jax.Device] | None = None, weight_bytes: int = 0) -> Mesh:
    """A mesh, or the one that "data=2,context=4" describes, or the default one.

    Raises:
        WanError: the axes are unknown or do not multiply to the number of devices.
    """
    if isinstance(mesh, Mesh):
        return mesh
    return default_mesh(devices, weight_bytes) if mesh is None else make_mesh(**parse_mesh(mesh), devices=devices)


def default_mesh(devices: Sequence[jax.Device] | None = None, weight_bytes: int = 0) -> Mesh:
    """All accelerators, or one CPU: guidance on two halves where there are two, and the video split in each.

    Each half holds all of the weights; where these would fill more than two thirds of its memory, there is one half.
    """
    devices = jax.devices() if devices is None else list(devices)
    if devices[0].platform == "cpu":
        devices = devices[:1]
    halves = len(devices) % 2 == 0 and weight_bytes <= len(devices) / 2 * memory_bytes(devices[0]) * 2 / 3
    data = 2 if halves else 1
    return make_mesh(data=data, context=len(devices) // data, devices=devices)


def memory_bytes(device: jax.Device) -> float:
    """What programs may use of a device; infinite where it does not tell."""
    chip = chips.by_kind(device.device_kind)
    if chip is not None:
        return chip.hbm_gib * 2**30
    stats = device.memory_stats()
    return stats["bytes_limit"] if stats else math.inf


def ambient_mesh() -> AbstractMesh | None:
    """The mesh around the code that is being traced; None where there is none, or a single device.

    Code that every device runs for itself, under a `shard_map` over all axes, is on a single one.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 or set(mesh.axis_types) == {AxisType.Manual} else mesh


def device_kind() -> str:
    """What the code that is being traced will run on: "TPU v6 lite", "cpu", …"""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.devices()[0].device_kind if device is None else device.device_kind


def is_tpu() -> bool:
    return device_kind().startswith("TPU")


def is_nvidia() -> bool:
    return device_kind().startswith("NVIDIA")


def split(batch: int) -> Split:
    """How activations of this batch size are cut on the ambient mesh."""
    mesh = ambient_mesh()
    if mesh is None:
        return Split((), ())
    batch_axes: tuple[str, ...] = ()
    for axis in ("data", "fsdp"):
        parts = math.prod(mesh.shape[a] for a in (*batch_axes, axis))
        if mesh.shape[axis] > 1 and batch % parts == 0:
            batch_axes += (axis,)
    others = [axis for axis in ("data", "fsdp", "context") if axis not in batch_axes]
    return Split(batch_axes, tuple(axis for axis in others if mesh.shape[axis] > 1))


def sequence_multiple(batch: int) -> int:
    """What the number of tokens has to be a multiple of: the pieces of the sequence, on TPU in whole bfloat16 tiles.

    Where pieces end inside a tile of 16 rows, a TPU copies the whole sequence to put them together.
    """
    mesh = ambient_mesh()
    pieces = 1 if mesh is None else math.prod(mesh.shape[axis] for axis in split(batch).sequence)
    return pieces * (16 if pieces > 1 and is_tpu() else 1)


def constrain(x: jax.Array, *spec) -> jax.Array:
    """Asks for a sharding on the ambient mesh; sizes need not divide."""
    return x if ambient_mesh() is None else jax.lax.with_sharding_constraint(x, P(*spec))


def dividing(axis: str, size: int) -> str | None:
    """`axis`, if it cuts `size` evenly."""
    mesh = ambient_mesh()
    return axis if mesh is not None and size % mesh.shape[axis] == 0 else None


def shard_map(f: Callable, in_specs: tuple[P, ...], out_specs: P | tuple[P, ...]) -> Callable:
    """`jax.shard_map` over the ambient mesh; `f` itself where there is none."""
    if ambient_mesh() is None:
        return f
    return jax.shard_map(f, in_specs=in_specs, out_specs=out_specs, check_vma=False)


def latent_spec(shape: tuple[int, ...]) -> P:
    """How latents [b f h w c] lie between steps: the batch cut as `split` says, the rest over rows and columns."""
    mesh = ambient_mesh()
    if mesh is None:
        return P()
    cut = split(shape[0])
    rows = fitting(P(None, None, cut.sequence), shape, mesh)[2] or ()
    columns = tuple(axis for axis in cut.sequence if axis not in rows)
    return fitting(P(cut.batch, None, rows, columns), shape, mesh)


def token_spec(shape: tuple[int, ...]) -> P:
    """How tokens [b n c] lie in a kernel: cut as `split` says, where that makes equal pieces."""
    mesh, cut = ambient_mesh(), split(shape[0])
    spec = P(cut.batch, cut.sequence)
    return spec if mesh is None else fitting(spec, shape, mesh)


def text_spec(shape: tuple[int, ...]) -> P:
    """How projected texts [l b s c] lie between steps.

    A block gathers its own rows; all of them would take 0.8 GB of every chip for a guided 14B model.
    """
    mesh = ambient_mesh()
    if mesh is None:
        return P()
    cut = split(shape[1])
    return fitting(P(None, cut.batch, cut.sequence, "tensor"), shape, mesh)


def constrain_latents(x: jax.Array) -> jax.Array:
    return constrain(x, *latent_spec(x.shape))


def to_host(x: jax.Array) -> np.ndarray:
    """All of an array, in every process."""
    return np.asarray(x) if x.is_fully_addressable else multihost_utils.process_allgather(x, tiled=True)


def param_specs(abstract: Params, mesh: Mesh) -> dict:
    """The table applied to a tree of shapes: a tree of PartitionSpec."""

    def spec(path, x) -> P:
        name = "/".join(key.key for key in path)
        rule = next(spec for pattern, spec in RULES if re.fullmatch(pattern, name))
        return fitting(rule, x.shape, mesh)

    return jax.tree_util.tree_map_with_path(spec, abstract)


def fitting(spec: P, shape: tuple[int, ...], mesh: Mesh | AbstractMesh) -> P:
    """`spec` without the mesh axes that do not divide their array axis; those pieces stay whole."""
    if len(spec) > len(shape):
        raise ValueError(f"{spec} has more axes than an array of shape {shape}")
    fitted = []
    for axes, size in zip(spec, shape):
        kept: tuple[str, ...] = ()
        for axis in (axes,) if isinstance(axes, str) else axes or ():
            if size % math.prod(mesh.shape[a] for a in (*kept, axis)) == 0:
                kept += (axis,)
        fitted.append(kept or None)
    return P(*fitted)


def place(abstract: Params, mesh: Mesh, memory: str = DEVICE) -> Params:
    """The same shapes with the sharding that the table gives each; `checkpoint.restore` reads straight into it."""
    return jax.tree.map(
        lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec, memory_kind=memory)),
        abstract,
        param_specs(abstract, mesh),
    )


def to_memory(tree: Params, memory: str) -> Params:
    """The same arrays, or shapes, in another memory space of their devices; arrays on their way at return."""

    def move(x: jax.Array | jax.ShapeDtypeStruct) -> jax.Array | jax.ShapeDtypeStruct:
        there = x.sharding.with_memory_kind(memory)
        if isinstance(x, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=there)
        return jax.device_put(x, there)

    return jax.tree.map(move, tree)


def bytes_of_each(tree: Params) -> int:
    """What arrays, or placed shapes, take of each device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def is_in_host_memory(x: jax.Array) -> bool:
    """Whether an array, or a tracer of one, waits in host memory."""
    return jax.typeof(x).memory_space == jax.memory.Space.Host


def fetch(params: Params) -> Params:
    """In code that is being traced: what waits in host memory as copies on the device."""
    return jax.tree.map(lambda x: jax.device_put(x, jax.memory.Space.Device) if is_in_host_memory(x) else x, params)
