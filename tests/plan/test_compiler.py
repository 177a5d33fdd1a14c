"""The cost model on what the real TPU compiler makes of small programs.  Needs libtpu, but no TPU."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.libtpu

MESH = """
from wan_jax.plan.topology import parse_topology
topology = parse_topology("v6e:2x4")
devices = topology.devices

import json
import jax, jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec as P
from wan_jax import sharding
from wan_jax.plan.cost import read_cost
from wan_jax.plan.links import Slice

mesh = sharding.make_mesh(data=2, context=4, devices=devices)
chips = Slice(topology.chip, tuple(tuple(d.coords) for d in mesh.devices.flat))

def array(shape, *spec):
    return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=NamedSharding(mesh, P(*spec)))

def cost(f, *args):
    with jax.set_mesh(mesh):
        return read_cost(jax.jit(f).lower(*args).compile().as_text(), chips, lambda name: None)
"""


def run(script: str) -> dict:
    """What a script prints as JSON; libtpu and its settings stay out of this process."""
    result = subprocess.run([sys.executable, "-c", MESH + script], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def test_a_scanned_product_costs_its_flops_times_its_trips():
    found = run("""
def f(x, w):
    return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w).astype(x.dtype), None), x, w)[0]
x, w = array((4096, 4096)), lambda layers: array((layers, 4096, 4096))
print(json.dumps([cost(f, x, w(layers)).cycles("matmul") for layers in (3, 30)]))
""")
    ideal = 2 * 4096**3 / 524288
    assert ideal <= found[0] / 3 < 1.15 * ideal
    assert found[1] == pytest.approx(10 * found[0], rel=0.01)


def test_bytes_of_collectives():
    found = run("""
def gather(x):
    return jax.shard_map(
        lambda x: jax.lax.all_gather(x, "context", tiled=True) * 2, in_specs=P("context"), out_specs=P(None),
        check_vma=False)(x)
def exchange(x):
    f = lambda x: jax.lax.all_to_all(jnp.sin(x), "context", 1, 0, tiled=True)
    return jax.shard_map(f, in_specs=P("context"), out_specs=P(None, "context"))(x)
def scatter(x):
    f = lambda x: jax.lax.psum_scatter(jnp.sin(x), "context", tiled=True)
    return jax.shard_map(f, in_specs=P(None, None), out_specs=P("context"), check_vma=False)(x)
def pass_on(x):
    f = lambda x: jax.lax.ppermute(jnp.sin(x), "data", [(0, 1), (1, 0)])
    return jax.shard_map(f, in_specs=P("data"), out_specs=P("data"))(x)
found = {}
for f, spec in ((gather, ("context",)), (exchange, ("context",)), (scatter, ()), (pass_on, ("data",))):
    c = cost(f, array((4096, 2048), *spec))
    found[f.__name__] = [[t.kind for t, _ in c.transfers], c.collective_bytes, c.collective_s]
print(json.dumps(found))
""")
    whole = 4096 * 2048 * 2
    speed = 100e9
    # JAX makes a square of the four chips of a context group; the two of a data group are two links apart, and the
    # link in the middle serves two pairs.
    assert found["gather"][:2] == [["all-gather"], whole * 3 / 4]
    assert found["gather"][2] == pytest.approx(whole * 2 / 4 / speed)
    assert found["exchange"][:2] == [["all-to-all"], whole / 4 * 3 / 4]
    assert found["scatter"][0][0] == "reduce-scatter"
    assert found["scatter"][1] == pytest.approx(whole * 3 / 4, rel=0.02)  # some rows are padding, and go to a neighbour
    assert found["pass_on"][:2] == [["collective-permute"], whole / 2]
    assert found["pass_on"][2] == pytest.approx(2 * whole / 2 / speed)


def test_plan_of_a_small_model():
    command = ["plan", "--model", "untrained", "--topology", "v6e:2x2", "--steps", "3", "--json"]
    result = subprocess.run([sys.executable, "-m", "wan_jax", *command], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report["mesh"] == "data=2,context=2"
    assert set(report["programs"]) == {"text_encoder", "denoise", "vae_decode"}
    for program in report["programs"].values():
        assert program["fits"]
        assert 0 < program["argument_gib"] <= program["peak_gib"] < 1
        cycles = program["gcycles"]
        parts = sum(cycles[key] for key in ("matmul", "attention", "copy", "other"))
        assert cycles["total"] == pytest.approx(parts, abs=2e-4)
        assert program["step_s"] > 0
    steps = {name: program["step_s"] for name, program in report["programs"].items()}
    expected = 2 * steps["text_encoder"] + 3 * steps["denoise"] + 9 / 8 * steps["vae_decode"]  # 8 latents at a time
    assert report["video_s"] == pytest.approx(expected, abs=0.01)


def test_what_conditions_are_made_by():
    """A small model that is shown pictures by CLIP and as channels, and one that is shown a first frame alone."""
    found = run("""
from dataclasses import replace
from wan_jax.config import CLIPConfig, get_config
from wan_jax.pipelines.request import Request
from wan_jax.plan.programs import Job

small = get_config("untrained")
clip = CLIPConfig(hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=2)
width = small.transformer.dim
seeing = replace(small.transformer, in_channels=36, image_dim=128, added_kv_proj_dim=width, pos_embed_seq_len=514)
own = dict.fromkeys(("height", "width", "num_frames", "num_inference_steps", "flow_shift"))
own |= dict.fromkeys(("guidance_scale", "guidance_scale_2")) | dict(seed=0, solver="unipc", sigma_grid="wan")
found = []
for config in (replace(small, transformer=seeing, image_encoder=clip), replace(small, expand_timesteps=True)):
    job = Job(config, Request.make(config, "", None, **own), mesh)
    programs = [name for name in job.runs if name not in ("text_encoder", "vae_decode")]
    found.append({name: job.compile(name).argument_bytes for name in programs})
print(json.dumps(found))
""")
    assert [list(programs) for programs in found] == [
        ["image_encoder", "vae_encode", "denoise"],
        ["vae_encode", "denoise"],
    ]
    seen, first = found
    assert seen["image_encoder"] > 2 * 224 * 224 * 3 * 4 / 8  # two pictures
    assert seen["vae_encode"] > first["vae_encode"]  # a chunk and its cache


def test_a_real_model_is_planned():
    """12 heads on 8 chips take Ulysses and a ring."""
    arguments = "--model wan21_t2v_1_3b --topology v6e:2x4 --mesh context=8 --size 832x480 --json"
    script = [sys.executable, "-m", "wan_jax", "plan", *arguments.split()]
    result = subprocess.run(script, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    denoise = report["programs"]["denoise"]
    assert report["fits"] and 0 < denoise["peak_gib"] < 2
    # 12 heads, 30 layers, two predictions of 32760 tokens on 8 chips, at 1.465 bundles for 1000 pairs and more.
    floor = 1.465e-3 * 12 * 30 * 2 * 32760**2 / 8 / 1e9
    assert floor < denoise["gcycles"]["attention"] < 1.2 * floor
    assert denoise["gcycles"]["total"] < 4 * floor
