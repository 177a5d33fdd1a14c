"""The planner's answer: what each program needs and costs, as a dictionary in JSON types and as text."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jax.sharding import Mesh
from tqdm import tqdm

from wan_jax import sharding
from wan_jax.attention import tiles
from wan_jax.config import WanConfig
from wan_jax.kernels import costs
from wan_jax.pipelines.loading import component_bytes
from wan_jax.pipelines.presets import Arrangement, arrange, find
from wan_jax.pipelines.request import Request
from wan_jax.pipelines.residency import quantized
from wan_jax.plan.compiled import Program
from wan_jax.plan.cost import CATEGORIES, Cost, read_cost
from wan_jax.plan.links import Slice
from wan_jax.plan.meshes import candidates, holds_weights, mesh_text
from wan_jax.plan.programs import DTYPE, Job
from wan_jax.plan.topology import Topology, larger, libtpu_version
from wan_jax.plan.training import TrainJob

GIB = 2**30


def plan(
    config: WanConfig,
    request: Request,
    topology: Topology,
    mesh: str | None,
    compare: bool = False,
    preset: str | None = None,
) -> dict:
    """Compiles the programs of a video and says what they need and how long they should take.

    Args:
        config: the model.
        request: the video.
        topology: the slice of chips.
        mesh: "data=2,context=4"; None leaves it to `sharding.default_mesh`, or to the comparison.
        preset: arranges the weights for its chip, or for the slice; see `wan_jax.pipelines.presets`.
        compare: also compiles the denoising step for other meshes of the slice; `meshes` lists them, the fastest first.

    Returns:
        what `format_report` prints.  GiB and Gcyc (10⁹ cycles) are of one device.

    Raises:
        WanError: the mesh does not fit the slice, or a size cannot be cut that way.
    """
    devices, arrangement = topology.devices, Arrangement()
    if preset is not None:
        memory = topology.chip.hbm_gib * GIB * len(devices)
        arrangement = arrange(find(preset), config, DTYPE, DTYPE, memory)
        config = quantized(config, arrangement.quantization)
    weights = sum(component_bytes(config, DTYPE, DTYPE).values())
    job = Job(config, request, sharding.as_mesh(mesh, devices, weights), arrangement.offload)
    others = candidates(job, devices) if compare else []
    tried = at_once(lambda other: _denoise_on(job, other, topology), others, "mesh")
    meshes = sorted(
        map(mesh_summary, others, tried), key=lambda entry: (not entry["fits"], entry["step_s"] or math.inf)
    )
    if meshes and mesh is None:
        job = dataclasses.replace(job, mesh=sharding.as_mesh(meshes[0]["mesh"], devices))

    known = {mesh_text(other): report for other, report in zip(others, tried) if report is not None}
    denoise = {"denoise": known[mesh_text(job.mesh)]} if mesh_text(job.mesh) in known else {}
    missing = [name for name in job.runs if name not in denoise]
    compiled = at_once(lambda name: assess(job, topology, name, job.compile(name)), missing, "program")
    found = dict(zip(missing, compiled)) | denoise
    programs = {name: found[name] for name in job.runs}
    fits = all(program["fits"] for program in programs.values())
    return {
        "model": config.name,
        "size": f"{request.width}x{request.height}",
        "frames": request.num_frames,
        "steps": request.num_inference_steps,
        "topology": topology.name,
        "mesh": mesh_text(job.mesh),
        "libtpu": libtpu_version(),
        "preset": preset,
        "quantization": config.transformer.quantization,
        "offload": arrangement.offload,
        "host_gib": _round(job.host_bytes, GIB),
        "hbm_gib": topology.chip.hbm_gib,
        "fits": fits,
        "programs": programs,
        "video_s": _video_seconds(job, programs),
        "alternative": None if fits else _alternative(job, topology, meshes),
        "meshes": meshes,
    }


def assess(job: Job | TrainJob, topology: Topology, name: str, program: Program) -> dict[str, Any]:
    """The report of one program of `job`."""
    peak, resident = program.peak_bytes / GIB, job.resident_bytes(name) / GIB
    report: dict[str, Any] = {
        "fits": program.text is not None and peak + resident <= topology.chip.hbm_gib,
        "peak_gib": _round(peak),
        "argument_gib": _round(program.argument_bytes, GIB),
        "temp_gib": _round(program.temp_bytes, GIB),
        "resident_gib": _round(resident),
        "host_gib": _round(program.host_temp_bytes, GIB),
        "compile_s": round(program.compile_s, 1),
        "gcycles": dict.fromkeys(("total", *CATEGORIES)),
        "collective_gb": None,
        "collective_s": None,
        "exposed_s": None,
        "step_s": None,
        "mfu": None,
        "notes": [],
    }
    if program.text is not None:
        report |= _costs(job, topology, name, cost_of(program.text, job, topology))
    return report


def cost_of(text: str, job: Job | TrainJob, topology: Topology) -> Cost:
    """The cost of a program that was compiled for `job`."""
    chips = Slice(topology.chip, tuple(tuple(device.coords) for device in job.mesh.devices.flat))
    name = topology.chip.name
    return read_cost(text, chips, lambda kernel: tiles.bundles(name, kernel) or costs.bundles(name, kernel))


def _costs(job: Job | TrainJob, topology: Topology, name: str, cost: Cost) -> dict[str, Any]:
    useful = job.flops(name)
    return {
        "gcycles": {"total": _round(cost.cycles(), 1e9)} | {c: _round(cost.cycles(c), 1e9) for c in CATEGORIES},
        "collective_gb": _round(cost.collective_bytes, 1e9),
        "collective_s": _round(cost.collective_s),
        "exposed_s": _round(cost.exposed_s),
        "step_s": _round(cost.seconds),
        "mfu": None if useful is None else _round(useful / topology.chip.peak_flops / cost.seconds),
        "notes": sorted(cost.notes),
    }


def _video_seconds(job: Job, programs: dict[str, dict]) -> float | None:
    """All programs, as often as they run."""
    if any(program["step_s"] is None for program in programs.values()):
        return None
    return round(sum(programs[name]["step_s"] * count for name, count in job.runs.items()), 2)


def _denoise_on(job: Job, mesh: Mesh, topology: Topology) -> dict[str, Any] | None:
    """The report of the denoising step on another mesh; None, without compiling, if the weights alone are too much."""
    job = dataclasses.replace(job, mesh=mesh)
    return assess(job, topology, "denoise", job.compile("denoise")) if holds_weights(job, topology.chip) else None


def mesh_summary(mesh: Mesh, step: dict[str, Any] | None) -> dict[str, Any]:
    """What is compared of a step on a mesh, from its report."""
    keys = ("fits", "step_s", "peak_gib", "mfu")
    values = {"fits": False} if step is None else step
    return {"mesh": mesh_text(mesh)} | {key: values.get(key) for key in keys}


def _alternative(job: Job, topology: Topology, meshes: list[dict]) -> dict[str, str] | None:
    """Where the denoising step fits: another mesh of this slice, or the smallest larger slice that has one."""
    unfit = {entry["mesh"] for entry in meshes if not entry["fits"]} | {mesh_text(job.mesh)}
    while topology is not None:
        for mesh in candidates(job, topology.devices):
            if mesh_text(mesh) not in unfit and mesh_summary(mesh, _denoise_on(job, mesh, topology))["fits"]:
                return {"topology": topology.name, "mesh": mesh_text(mesh)}
        topology, unfit = larger(topology), set()
    return None


def at_once(f: Callable, arguments: Sequence, unit: str) -> list:
    """f of each argument, two at a time: the compiler does not hold the interpreter's lock."""
    with ThreadPoolExecutor(2) as pool:
        return list(tqdm(pool.map(f, arguments), "compile", len(arguments), unit=unit, disable=not arguments))


def _round(value: float | None, unit: float = 1.0) -> float | None:
    return None if value is None else round(value / unit, 4)
