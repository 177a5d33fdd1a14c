"""Which meshes of a slice are worth a compilation, and in which order."""

import jax
from jax.sharding import Mesh

from wan_jax import sharding
from wan_jax.checkpoint import components
from wan_jax.chips import Chip
from wan_jax.plan.programs import Job
from wan_jax.plan.training import TrainJob

_MOST_MEMORY = 0.95  # of a device, by an estimate
_MOST_TENSOR = 4  # two reductions of all activations a block: never the fastest, but it needs no weights gathered


def mesh_text(mesh: Mesh) -> str:
    """As `--mesh` takes it: the axes of more than one device."""
    return ",".join(f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1) or "data=1"


def candidates(job: Job, devices: list[jax.Device]) -> list[Mesh]:
    """The sensible meshes of `devices`, the one that should be fastest first.

    The two predictions of a guided step side by side or not; the rest of the chips on the tokens, or a few of them on
    the heads.  (Weights are cut over context as over fsdp, so the planner leaves fsdp out.)
    """
    heads, count = job.config.transformer.num_attention_heads, len(devices)
    return [
        sharding.make_mesh(data=data, context=count // data // tensor, tensor=tensor, devices=devices)
        for tensor in (1, 2, _MOST_TENSOR)
        for data in ((2, 1) if job.predictions == 2 else (1,))
        if count % (data * tensor) == 0 and heads % tensor == 0
    ]


def holds_weights(job: Job, chip: Chip) -> bool:
    """Whether all components of the model together leave any room on a chip."""
    return sum(map(job.weight_bytes, components(job.config))) < chip.hbm_gib * 2**30


def train_candidates(job: TrainJob, devices: list[jax.Device], chip: Chip, fills: bool) -> list[TrainJob]:
    """`job` on the meshes of `devices` where its memory should suffice, the one that should be fastest first.

    A clip is cut into as few pieces as possible, and then the weights: what is cut has to be sent.  Every group of
    devices, data × fsdp, has the same number of clips.

    Args:
        fills: the batch follows the mesh, one clip for each group (in each accumulated part).
    """
    count = len(devices)
    sizes = [size for size in range(1, count + 1) if count % size == 0]
    found = []
    for context, fsdp in ((context, fsdp) for context in sizes for fsdp in sizes if count % (context * fsdp) == 0):
        data = count // context // fsdp
        fitted = job.fitted(sharding.make_mesh(data=data, fsdp=fsdp, context=context, devices=devices), fills)
        if fitted.config.batch // fitted.config.accumulate % (data * fsdp) == 0:
            found.append(fitted)
    return [job for job in found if job.estimated_bytes() <= _MOST_MEMORY * chip.hbm_gib * 2**30]
