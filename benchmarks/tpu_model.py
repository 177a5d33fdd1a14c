"""The modelled cost of a denoising step on TPU, beside MaxDiffusion's.  Needs libtpu, but no TPU.

    python -m benchmarks.tpu_model --top 20

T2V-A14B, bfloat16, guided pair, 81 frames, on v6e:2x4 with data 2 × context 4: compiled by the real TPU compiler and
added up by `wan_jax.plan.cost`.  `--top` lists the dearest operations that are neither products nor self-attention.
"""

import json
from typing import Annotated

import tyro

from wan_jax.plan.topology import libtpu_version, parse_topology, prepare

MODEL, TOPOLOGY, MESH = "wan22_t2v_a14b", "v6e:2x4", "data=2,context=4"
SIZES = ("832x480", "1280x720")

# MaxDiffusion, its own recipe (Ulysses, custom splash attention, q3328 kv2816), same compiler, libtpu 0.0.52; Gcyc, its
# bundles per pair of a tile before padding, and peak GiB with a bfloat16 residual stream.
MAXDIFFUSION = {
    "832x480": {"rest": 1.52, "matmul": 0.75, "copy": 0.36, "other": 0.41, "total": 2.44, "peak_gib": 7.54},
    "1280x720": {"rest": 3.77, "matmul": 1.61, "copy": 1.33, "other": 0.83, "total": 8.56, "peak_gib": 8.52},
}
MAXDIFFUSION_PER_PAIR = 2.06e-3

ROWS = {
    "rest": "all but self-attention, Gcyc",
    "matmul": "  products of matrices",
    "copy": "  copies and layout",
    "other": "  other",
    "unestimated": "  of these, priced by bytes or bundles",
    "attention": "self-attention kernel, Gcyc",
    "per_pair": "  its bundles per query-key pair",
    "total": "total, Gcyc",
    "compute_s": "  seconds",
    "collective_s": "collectives, s",
    "exposed_s": "  of these, not hidden",
    "peak_gib": "peak, GiB",
    "compile_s": "compilation, s",
}


def main(
    sizes: Annotated[tuple[str, ...], tyro.conf.arg(metavar="WxH …")] = SIZES,
    top: int = 0,
    as_json: Annotated[bool, tyro.conf.arg(name="json")] = False,
):
    prepare()
    results = {size: measure(size, top) for size in sizes}
    versions = {"libtpu": libtpu_version(), "topology": TOPOLOGY, "mesh": MESH}
    if as_json:
        print(json.dumps(versions | {"ours": results, "maxdiffusion": MAXDIFFUSION}))
        return
    print(", ".join(f"{name} {version}" for name, version in versions.items()))
    for size, result in results.items():
        theirs = MAXDIFFUSION.get(size, {}) | {"per_pair": MAXDIFFUSION_PER_PAIR}
        print(f"\n{size:40}{'wan_jax':>12}{'MaxDiffusion':>16}")
        for key, label in ROWS.items():
            print(f"{label:40}{_number(result[key]):>12}{_number(theirs.get(key)):>16}")
        print(*(f"note: {note}" for note in result["notes"]), *result["top"], sep="\n")


def measure(size: str, top: int) -> dict:
    """One step at one size; cycles in 10⁹, of each chip."""
    from wan_jax import sharding
    from wan_jax.config import get_config
    from wan_jax.pipelines.request import Request
    from wan_jax.plan.programs import Job
    from wan_jax.plan.report import cost_of

    topology, config = parse_topology(TOPOLOGY), get_config(MODEL)
    width, height = map(int, size.split("x"))
    own = dict.fromkeys(("num_inference_steps", "guidance_scale", "guidance_scale_2", "flow_shift"))
    video = {"height": height, "width": width, "num_frames": 81, "seed": 0, "solver": "unipc", "sigma_grid": "wan"}
    job = Job(config, Request.make(config, "", None, **video, **own), sharding.as_mesh(MESH, topology.devices))
    program = job.compile("denoise")
    if program.text is None:
        return {key: None for key in ROWS} | {"peak_gib": program.peak_bytes / 2**30, "notes": [], "top": []}
    cost = cost_of(program.text, job, topology)
    cycles = {name: cost.cycles(name) for name in ("matmul", "copy", "other", "attention")}
    return {
        **{name: count / 1e9 for name, count in cycles.items()},
        "rest": (cost.cycles() - cycles["attention"]) / 1e9,
        "unestimated": sum(i.total for i in cost.items if i.source != "compiler" and i.category != "attention") / 1e9,
        "per_pair": cycles["attention"] / job.attention_pairs(),
        "total": cost.cycles() / 1e9,
        "compute_s": cost.cycles() / cost.clock_hz,
        "collective_s": cost.collective_s,
        "exposed_s": cost.exposed_s,
        "peak_gib": program.peak_bytes / 2**30,
        "compile_s": program.compile_s,
        "notes": sorted(cost.notes),
        "top": [line(item) for item in dearest(cost)[:top]],
    }


def dearest(cost) -> list:
    """What is neither a product nor self-attention, by its cycles."""
    items = [item for item in cost.items if item.category in ("copy", "other")]
    return sorted(items, key=lambda item: -item.total)


def line(item) -> str:
    where = "/".join(item.op_name.split("/")[-4:])
    return (
        f"{item.total / 1e6:8.2f} Mcyc {item.runs:5}×  {item.category:6} {item.name:40.40} {item.shape:42.42} {where}"
    )


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.2e}" if 0 < value < 0.01 else f"{value:.3f}"


if __name__ == "__main__":
    tyro.cli(main, description=__doc__)
