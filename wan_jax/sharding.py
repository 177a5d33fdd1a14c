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
from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from wan_jax.errors import WanError
from wan_jax.typing import Params

AXES = ("data", "fsdp", "context", "tensor")
_PIECES = ("fsdp", "context")

# Letters: l layers, c model width, m feed-forward width, t text width, k heads, v vocabulary.
RULES = (
    (r"blocks/.*attn/[qkv]/kernel", P(None, _PIECES, "tensor")),  # [l c c]
    (r"blocks/.*attn/o/kernel", P(None, "tensor", _PIECES)),  # [l c c]
    (r"blocks/ffn_(in|gate)/kernel", P(None, _PIECES, "tensor")),  # [l c m]
    (r"blocks/ffn_out/kernel", P(None, "tensor", _PIECES)),  # [l m c]
    (r"blocks/.*attn/([qkv]/bias|norm_[qk]/scale)", P(None, "tensor")),  # [l c]
    (r"blocks/ffn_(in|gate)/bias", P(None, "tensor")),  # [l m]
    (r"blocks/.*attn/position_bias", P(None, None, "tensor")),  # [l buckets k]
    (r"blocks/.*", P()),  # [l c], [l 6 c]
    (r"(text_in|text_out|time_in|time_out|time_proj)/kernel", P(None, (*_PIECES, "tensor"))),  # [t c], [c c], [c 6c]
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
    return jax.make_mesh(sizes, AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


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


def default_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All accelerators, or one CPU: guidance on two halves where there are two, and the video split in each."""
    devices = jax.devices() if devices is None else list(devices)
    if devices[0].platform == "cpu":
        devices = devices[:1]
    data = 2 if len(devices) % 2 == 0 else 1
    return make_mesh(data=data, context=len(devices) // data, devices=devices)


def ambient_mesh() -> AbstractMesh | None:
    """The mesh around the code that is being traced; None where there is none, or a single device."""
    mesh = jax.sharding.get_abstract_mesh()
    return None if mesh.empty or mesh.size == 1 else mesh


def device_kind() -> str:
    """What the code that is being traced will run on: "TPU v6 lite", "cpu", …"""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.devices()[0].device_kind if device is None else device.device_kind


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


def parts(axes: tuple[str, ...]) -> int:
    """Into how many pieces `axes` of the ambient mesh cut an array."""
    mesh = ambient_mesh()
    return 1 if mesh is None else math.prod(mesh.shape[axis] for axis in axes)


def constrain(x: jax.Array, *spec) -> jax.Array:
    """Asks for a sharding on the ambient mesh; sizes need not divide."""
    return x if ambient_mesh() is None else jax.lax.with_sharding_constraint(x, P(*spec))


def param_specs(abstract: Params, mesh: Mesh) -> dict:
    """The table applied to a tree of shapes: a tree of PartitionSpec."""

    def spec(path, x) -> P:
        name = "/".join(key.key for key in path)
        rule = next(spec for pattern, spec in RULES if re.fullmatch(pattern, name))
        return fitting(rule, x.shape, mesh)

    return jax.tree_util.tree_map_with_path(spec, abstract)


def fitting(spec: P, shape: tuple[int, ...], mesh: Mesh) -> P:
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


def place(abstract: Params, mesh: Mesh) -> Params:
    """The same shapes with the sharding that the table gives each; `checkpoint.restore` reads straight into it."""
    return jax.tree.map(
        lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)),
        abstract,
        param_specs(abstract, mesh),
    )
