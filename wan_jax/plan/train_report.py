"""The planner's answer for a training run."""

from collections.abc import Iterator
from typing import Any

from wan_jax import sharding
from wan_jax.pipelines.request import Request
from wan_jax.plan.meshes import mesh_text, train_candidates
from wan_jax.plan.report import assess, at_once, mesh_summary
from wan_jax.plan.topology import Topology, larger, libtpu_version
from wan_jax.plan.training import STEP, TrainJob
from wan_jax.train.config import TrainConfig

Tried = tuple[TrainJob, dict[str, Any]]  # and its report


def plan_training(
    config: TrainConfig,
    request: Request,
    topology: Topology,
    mesh: str | None,
    fills: bool = False,
    compare: bool = False,
) -> dict[str, Any]:
    """Compiles a training step and says what it needs and how long it should take.

    Without a mesh, those where the memory should suffice, by an estimate, are compiled one after the other, the one
    that should be fastest first, until the step fits.

    Args:
        config: the run.
        request: the size and frames of its clips.
        topology: the slice of chips.
        mesh: "data=2,context=4"; None looks for one.
        fills: the batch follows the mesh: a clip for every group of devices, data × fsdp, in each accumulated part.
        compare: compiles the step for the most promising mesh of every way to cut clips; `meshes` lists them, those
            that do most work in their time first.

    Returns:
        what `format_report` prints.

    Raises:
        WanError: the mesh does not fit the slice, or the run makes no sense.
    """
    config.check()
    everything = sharding.make_mesh(fsdp=len(topology.devices), devices=topology.devices)
    job = TrainJob.make(config, request.latent_shape(config.model)[1:], everything)
    likely = train_candidates(job, topology.devices, topology.chip, fills)
    given = []
    if mesh is not None or not likely:
        given = [job.fitted(sharding.as_mesh(mesh or everything, topology.devices), fills)]
    rounds = [[*_one_of_each_cut(likely), *given]] if compare else [[each] for each in given or likely]
    found: list[Tried] = []
    for jobs in rounds:
        found += zip(jobs, at_once(lambda each: _step(each, topology), jobs, "mesh"))
        if found[-1][1]["fits"]:
            break
    job, step = found[-1] if given else min(found, key=_rank)
    return {
        "model": config.model.name,
        "size": f"{request.width}x{request.height}",
        "frames": request.num_frames,
        "run": config.name,
        "component": config.component,
        "batch": job.config.batch,
        "accumulate": config.accumulate,
        "remat": config.remat,
        "topology": topology.name,
        "mesh": mesh_text(job.mesh),
        "libtpu": libtpu_version(),
        "hbm_gib": topology.chip.hbm_gib,
        "fits": step["fits"],
        "programs": {STEP: step},
        "alternative": None if step["fits"] else _alternative(job, topology, fills, found),
        "meshes": [
            mesh_summary(each.mesh, report) | {"batch": each.config.batch}
            for each, report in sorted(found, key=_rank)
            if compare
        ],
    }


def _step(job: TrainJob, topology: Topology) -> dict[str, Any]:
    return assess(job, topology, STEP, job.compile())


def _one_of_each_cut(jobs: list[TrainJob]) -> list[TrainJob]:
    """The first of those that cut clips into as many pieces."""
    first: dict[int, TrainJob] = {}
    for job in jobs:
        first.setdefault(job.mesh.shape["context"], job)
    return list(first.values())


def _rank(tried: Tried) -> tuple[bool, float]:
    """Batches differ, so the best is the one that does most work in its time."""
    _, step = tried
    return not step["fits"], -(step["mfu"] or 0)


def _alternative(job: TrainJob, topology: Topology, fills: bool, found: list[Tried]) -> dict[str, str] | None:
    """Where the step fits: on another mesh, in more parts, with less kept, or on the smallest larger slice."""
    unfit = {mesh_text(each.mesh) for each, report in found if not report["fits"]}
    for slice_, run, setting in _ways_out(job, topology, fills):
        for each in train_candidates(run, slice_.devices, slice_.chip, fills):
            is_new = setting or slice_ is not topology or mesh_text(each.mesh) not in unfit
            if is_new and _step(each, slice_)["fits"]:
                return {"topology": slice_.name, "mesh": mesh_text(each.mesh), "setting": setting}
    return None


def _ways_out(job: TrainJob, topology: Topology, fills: bool) -> Iterator[tuple[Topology, TrainJob, str]]:
    """Slices and runs, with what changes in the config; those that cost least come first."""
    config = job.config
    parts = 1 if fills else config.batch // config.accumulate
    yield topology, job, ""
    for accumulate in (config.accumulate * factor for factor in range(2, parts + 1) if parts % factor == 0):
        yield topology, job.on(job.mesh, accumulate=accumulate), f"accumulate={accumulate}"
    if config.remat != "nothing":
        yield topology, job.on(job.mesh, remat="nothing"), "remat=nothing"
    slice_ = larger(topology)
    while slice_ is not None:
        yield slice_, job, ""
        slice_ = larger(slice_)
