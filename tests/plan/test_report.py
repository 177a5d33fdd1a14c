"""What the planner concludes, with the compiler replaced by a table."""

import jax
import pytest

from wan_jax import sharding
from wan_jax.config import get_config
from wan_jax.errors import WanError
from wan_jax.pipelines.request import Request
from wan_jax.plan import report
from wan_jax.plan.cost import Cost, Item
from wan_jax.plan.programs import Job, Program
from wan_jax.plan.table import format_report
from wan_jax.plan.topology import parse_topology

CONFIG = get_config("wan22_t2v_a14b")
OWN = dict.fromkeys(("height", "width", "num_frames", "num_inference_steps"))
OWN |= dict.fromkeys(("guidance_scale", "guidance_scale_2", "flow_shift"))
OWN |= {"seed": 0, "solver": "unipc", "sigma_grid": "wan"}
REQUEST = Request.make(CONFIG, "", None, **OWN)
GIB = 2**30


@pytest.fixture
def slice_of_8(monkeypatch):
    """v6e:2x4 made of CPU devices; a step takes 1 s, and on several of them 25 GiB unless context is 8."""

    def compile(job: Job, name: str) -> Program:
        peak = 25 if name == "denoise" and job.mesh.size > 1 and job.mesh.shape["context"] != 8 else 10
        return Program(60.0, peak * GIB, 8 * GIB, 2 * GIB, "text")

    cost = Cost(1.75e9, (Item("matmul", "compiler", "dot", "", "", 1.75e9),))
    monkeypatch.setattr(Job, "compile", compile)
    monkeypatch.setattr(report, "cost_of", lambda *_: cost)
    monkeypatch.setattr(report, "libtpu_version", lambda: "0")
    topology = parse_topology("v6e:2x4")
    topology.__dict__["devices"] = jax.devices()[:8]
    return topology


def test_all_weights_stay_on_the_chips(slice_of_8):
    result = report.plan(CONFIG, REQUEST, slice_of_8, "data=2,context=4")
    expert, text, vae = 27.05 / 4, 10.6 / 4, 0.24  # 14.29 and 5.68 thousand million parameters, bfloat16
    resident = {name: program["resident_gib"] for name, program in result["programs"].items()}
    assert resident["denoise"] == pytest.approx(expert + text + vae, rel=0.02)
    assert resident["text_encoder"] == pytest.approx(2 * expert + vae, rel=0.02)
    assert resident["vae_decode"] == pytest.approx(2 * expert + text, rel=0.02)


def test_a_preset_arranges_the_weights(slice_of_8):
    """On one v5e chip, both experts in int8 and umT5 wait in host memory: by hand, with a bfloat16 scale for 64."""
    chip = parse_topology("v5e:1x1")
    chip.__dict__["devices"] = slice_of_8.devices[:1]
    result = report.plan(CONFIG, REQUEST, chip, None, preset="colab-v5e")
    assert (result["preset"], result["quantization"], result["offload"]) == ("colab-v5e", "int8", "blocks")
    matrices = 40 * (8 * 5120**2 + 2 * 5120 * 13824)  # of 14.29 thousand million parameters
    expert = (matrices * (1 + 2 / 64) + (14.29e9 - matrices) * 3.5) / GIB  # of the others, most are float32
    assert result["host_gib"] == pytest.approx(2 * expert + 10.6 + 0.24, rel=0.02) and result["host_gib"] <= 40
    assert result["programs"]["denoise"]["resident_gib"] == 0
    assert result["programs"]["vae_decode"]["resident_gib"] == pytest.approx(0.12, abs=0.05)  # the encoder
    assert "Preset colab-v5e: blocks are on the device while they work, matrices in int8" in format_report(result)


def test_a_job_that_does_not_fit_names_a_mesh_that_does(slice_of_8):
    result = report.plan(CONFIG, REQUEST, slice_of_8, "data=2,context=4")
    assert not result["fits"]  # 25 GiB beside 9.6 GiB, of 31.24
    assert result["alternative"] == {"topology": "v6e:2x4", "mesh": "context=8"}
    assert "--topology v6e:2x4 --mesh context=8" in format_report(result)


def test_comparing_meshes_picks_one_that_fits(slice_of_8):
    result = report.plan(CONFIG, REQUEST, slice_of_8, None, compare=True)
    assert result["fits"]
    assert result["mesh"] == result["meshes"][0]["mesh"] == "context=8"
    assert {"data=2,context=4", "data=2,context=2,tensor=2", "data=2,tensor=4"} < {m["mesh"] for m in result["meshes"]}
    assert "It fits" in format_report(result)


def test_seconds_and_utilisation(slice_of_8):
    result = report.plan(CONFIG, REQUEST, slice_of_8, "context=8")
    assert result["video_s"] == 2 + 40 + 21  # texts, steps, latent frames
    # 13,047 TFLOP a guided step at 720p, worked out elsewhere, with the text's keys and values that are made once.
    assert result["programs"]["denoise"]["mfu"] == pytest.approx(13047e12 / 8 / 918e12, rel=0.01)


@pytest.mark.parametrize(
    "model, runs",
    [
        ("wan22_t2v_a14b", {"text_encoder": 2, "denoise": 40, "vae_decode": 21}),
        ("wan22_ti2v_5b", {"text_encoder": 2, "vae_encode": 1, "denoise": 50, "vae_decode": 31}),
        ("wan22_i2v_a14b", {"text_encoder": 2, "vae_encode": 21, "denoise": 40, "vae_decode": 21}),
        (
            "wan21_flf2v_14b",
            {"text_encoder": 2, "image_encoder": 1, "vae_encode": 21, "denoise": 50, "vae_decode": 21},
        ),
        ("wan21_vace_14b", {"text_encoder": 2, "vae_encode": 42, "denoise": 50, "vae_decode": 21}),
    ],
)
def test_what_a_model_is_shown_is_counted(slice_of_8, model, runs):
    """Every program takes a second here."""
    config = get_config(model)
    request = Request.make(config, "", None, **OWN)
    result = report.plan(config, request, slice_of_8, "context=8")
    assert list(result["programs"]) == list(runs)
    assert result["video_s"] == sum(runs.values())
    assert Job(config, request, sharding.as_mesh("context=8", slice_of_8.devices)).runs == runs


def test_conditions_of_a_step():
    """Those that the pipeline makes, as its own tests on real pictures have them."""
    mesh = sharding.as_mesh("context=8", jax.devices()[:8])

    def shapes(model: str):
        config = get_config(model)
        return jax.tree.map(lambda x: x.shape, Job(config, Request.make(config, "", None, **OWN), mesh)._conditions())

    assert shapes("wan22_t2v_a14b") == {}
    assert shapes("wan22_ti2v_5b") == {"clean": (1, 1, 44, 80, 48)}
    assert shapes("wan22_i2v_a14b") == {"channels": (1, 21, 90, 160, 20)}
    assert shapes("wan21_vace_1_3b")["context"].frames == (1, 21, 60, 104, 96)


def test_a_mesh_of_another_size(slice_of_8):
    with pytest.raises(WanError, match="16 devices, there are 8"):
        report.plan(CONFIG, REQUEST, slice_of_8, "data=4,context=4")
