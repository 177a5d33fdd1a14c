"""Planning a training step: the real compiler on a small model, and what is concluded with it replaced by a table."""

import dataclasses
import json
import subprocess
import sys

import jax
import jax.extend
import jax.numpy as jnp
import pytest

from wan_jax import sharding
from wan_jax.attention import tiles
from wan_jax.config import DiTConfig, get_config
from wan_jax.models import abstract_params
from wan_jax.models.dit import DiT
from wan_jax.models.flops import forward_flops
from wan_jax.pipelines.request import Request
from wan_jax.plan import report, train_report
from wan_jax.plan.compiled import Program
from wan_jax.plan.cost import Cost, Item
from wan_jax.plan.table import format_report
from wan_jax.plan.topology import parse_topology
from wan_jax.plan.train_report import plan_training
from wan_jax.plan.training import TrainJob
from wan_jax.train.config import TrainConfig
from wan_jax.train.recipes import load_recipe

GIB = 2**30
CONFIG = TrainConfig(name="high", model=get_config("wan22_t2v_a14b"))
RECIPE = """
from wan_jax.config import DiTConfig, WanConfig
from wan_jax.train.config import TrainConfig

def get_config():
    small = DiTConfig(num_layers=100, num_attention_heads=2, ffn_dim=512, text_dim=64)
    return TrainConfig(name="small", model=WanConfig(name="small", hub_id=None, transformer=small), batch=2)
"""


def request(config, width, height, frames):
    own = dict.fromkeys(("num_inference_steps", "guidance_scale", "guidance_scale_2", "flow_shift"))
    size = {"width": width, "height": height, "num_frames": frames}
    return Request.make(config, "", None, **size, **own, seed=0, solver="unipc", sigma_grid="wan")


# ---- The compiler ---------------------------------------------------------------------------------------------------


@pytest.mark.libtpu
def test_a_small_model(tmp_path):
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE)
    arguments = ["--topology", "v6e:2x2", "--config", str(recipe), "--size", "512x512", "--frames", "5", "--json"]
    command = [sys.executable, "-m", "wan_jax", "plan", "--train", *arguments, "--mesh", "fsdp=2,context=2"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["mesh"], found["batch"], found["remat"], found["fits"]) == ("fsdp=2,context=2", 2, "attention", True)
    step = found["programs"]["train_step"]

    # Weights, two moments and the average in float32, matrices in four pieces; and half a batch's latents and texts.
    small = DiTConfig(num_layers=100, num_attention_heads=2, ffn_dim=512, text_dim=64)
    shapes = jax.tree_util.tree_leaves_with_path(abstract_params(small, jnp.float32))
    matrices = sum(x.size for path, x in shapes if path[-1].key == "kernel")
    others = sum(x.size for _, x in shapes) - matrices
    assert 16 * matrices / 4 < step["argument_gib"] * GIB < 16 * (matrices / 4 + others) + 2 * 2**20
    assert step["argument_gib"] <= step["peak_gib"] < 1

    # Each device has one head of a clip.  The forward kernel runs once, since its result is kept.
    n = 2 * 32 * 32
    block_q, block_kv = tiles.choose("v6e", n, n)
    forward = tiles.name(block_q, block_kv, n, -(-n // block_q) * -(-n // block_kv))
    gradient = [tiles.name(1024, 1024, n, 4, f"flash_backward_{kernel}") for kernel in ("queries", "keys")]
    expected = 100 * sum(tiles.bundles("v6e", name) for name in (forward, *gradient))
    assert step["gcycles"]["attention"] == pytest.approx(expected / 1e9, rel=0.02)
    assert 0 < step["mfu"] < 1 and step["step_s"] > 0
    assert not step["notes"]


# ---- Counting -------------------------------------------------------------------------------------------------------


def test_flops_of_a_step():
    mesh = jax.make_mesh((1, 8, 1, 1), ("data", "fsdp", "context", "tensor"))
    job = TrainJob.make(CONFIG, (21, 90, 160, 16), mesh)
    # 13,047 TFLOP a guided step at 720p, worked out elsewhere; and the keys and values of the text.
    forward = 13047e12 / 2 + 40 * 2 * 512 * 2 * 5120**2
    assert job.flops("train_step") == pytest.approx(3 * CONFIG.batch * forward / 8, rel=0.01)


def test_flops_of_the_blocks_are_those_of_their_products():
    config = DiTConfig(num_layers=3, num_attention_heads=4, attention_head_dim=32, ffn_dim=512, text_dim=8)
    shape = (2, 3, 16, 16, 16)

    def run(params, latents, timestep, text):
        return DiT(config, jnp.float32).apply({"params": params}, latents, timestep, text)

    arguments = jnp.zeros(shape), jnp.zeros((2, 1)), jnp.zeros((2, 512, 8))
    counted = _products(jax.make_jaxpr(run)(abstract_params(config, jnp.float32), *arguments).jaxpr)
    outside = 2 * 2 * (192 * 64 * 128 * 2 + 512 * 128 * 136 + 128 * (256 + 7 * 128))  # patches, text, time
    assert counted - outside == pytest.approx(forward_flops(config, shape), rel=0.01)


def _products(jaxpr) -> float:
    """Operations of all products of a program, the bodies of loops as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval
            depth = 1
            for axis in contracted:
                depth *= left.shape[axis]
            total += 2 * depth * equation.outvars[0].aval.size
        runs = equation.params.get("length", 1)
        total += runs * sum(_products(inner) for inner in jax.extend.core.jaxprs_in_params(equation.params))
    return total


def test_bundles_of_the_gradient():
    """One kernel has three products, the other four; a product takes half a cycle for 1000 pairs, or one, at least."""
    n, kernels = 37888, ("flash_backward_queries", "flash_backward_keys")
    for generation, cores, product in (("v6e", 1, 0.49e-3), ("v5e", 1, 0.98e-3), ("v5p", 2, 0.98e-3)):
        names = [tiles.name(1024, 1024, n, 5 * 37**2, kernel) for kernel in kernels]
        assert all(tiles.is_measured(generation, name) for name in names)
        queries, keys = (tiles.bundles(generation, name) * cores / (5 * n**2) for name in names)
        assert 3 * product < queries < 6 * product
        assert 1.25 * queries < keys < 1.45 * queries
        whole, rest = (tiles.bundles(generation, tiles.name(1024, 1024, s, 80, kernels[1])) for s in (2048, 2000))
        assert whole < rest < 1.2 * whole


def test_what_a_step_is_given():
    """The units of models that need them, and so 36 channels of one of image to video."""
    small = dict(num_layers=1, num_attention_heads=2, attention_head_dim=32, ffn_dim=64, text_dim=8)
    mesh = sharding.as_mesh("fsdp=2", jax.devices()[:2])
    for name, mask_bytes in (("train_wan22_i2v", 1), ("train_wan21_vace", 8)):
        run = load_recipe(name)[0]
        layers = {"vace_layers": (0,)} if run.model.takes_context else {}
        network = dataclasses.replace(run.model.transformer, **small, **layers)
        run = dataclasses.replace(run, model=dataclasses.replace(run.model, transformer=network), batch=2)
        lowered = TrainJob.make(run, (3, 4, 4, 16), mesh).lower()
        clips = lowered.in_avals[0][2]
        assert clips.unit.mask.shape == (2, 3, 4, 4, mask_bytes)


# ---- Conclusions ----------------------------------------------------------------------------------------------------


@pytest.fixture
def slice_of_8(monkeypatch):
    """v5p:2x2x2 made of CPU devices; a step takes a second a clip, and as much memory as the table says."""

    def compile(job: TrainJob) -> Program:
        compiled.append(job)
        return Program(60.0, memory(job) * GIB, 8 * GIB, 2 * GIB, "text")

    def cost_of(text, job, topology):
        return Cost(1.75e9, (Item("matmul", "compiler", "dot", "", "", 1.75e9 * job.config.batch),))

    compiled, memory = [], lambda job: job.estimated_bytes() / GIB
    monkeypatch.setattr(TrainJob, "compile", compile)
    monkeypatch.setattr(report, "cost_of", cost_of)
    monkeypatch.setattr(train_report, "libtpu_version", lambda: "0")
    topology = parse_topology("v5p:2x2x2")
    topology.__dict__["devices"] = jax.devices()[:8]

    def plan(config=CONFIG, size=(832, 480), **options):
        compiled.clear()
        found = plan_training(config, request(config.model, *size, 81), topology, options.pop("mesh", None), **options)
        return found, compiled

    return plan


def test_a_mesh_is_found_with_one_compilation(slice_of_8):
    found, compiled = slice_of_8(fills=True)
    assert found["fits"] and len(compiled) == 1
    assert found["mesh"] == "fsdp=4,context=2" and found["batch"] == 4
    assert "4 clips a step for transformer, remat=attention" in format_report(found)


def test_the_batch_of_a_recipe_stays(slice_of_8):
    found, _ = slice_of_8(dataclasses.replace(CONFIG, batch=2))
    assert found["fits"] and found["batch"] == 2
    assert found["mesh"] == "data=2,context=4"  # 63 GiB for weights and their gradients, 15 for a quarter of a clip


def test_what_does_not_fit_names_what_does(slice_of_8):
    found, compiled = slice_of_8(dataclasses.replace(CONFIG, batch=32))
    assert not found["fits"] and found["batch"] == 32
    assert found["alternative"]["topology"] == "v5p:2x2x2" and found["alternative"]["setting"] == "accumulate=8"
    assert "It does not fit.  This does: --topology v5p:2x2x2 --mesh" in format_report(found)
    assert len(compiled) == 2
