"""Who does what, against numbers worked out by hand, and a run that is watched."""

import dataclasses
import json
import math
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from wan_jax import WanPipeline, make_mesh
from wan_jax.errors import WanError
from wan_jax.explain import experts
from wan_jax.explain.trace import moved_boundary, swapped, trace
from wan_jax.pipelines.loading import read_config

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name, high, low", [("wan22_t2v_a14b", 26, 14), ("wan22_i2v_a14b", 15, 25)])
def test_plan_of_the_large_models(name, high, low):
    """The counts of the official sampler (Wan2.2, wan/configs)."""
    assert [step.expert for step in experts.plan(read_config(name))] == [0] * high + [1] * low


def test_noise_and_signal():
    """At σ = 0.875 the signal is 1/49 of the noise; four Euler steps at shift 5 are those of the distilled models."""
    assert experts.Step(0.875, 875, 0).snr == pytest.approx(1 / 49)
    assert experts.Step(0.5, 500, 1).snr_db == pytest.approx(0)
    assert experts.Step(0.875, 875, 0).snr_db == pytest.approx(-16.902, abs=1e-3)
    assert experts.Step(1.0, 1000, 0).snr_db == -math.inf
    steps = experts.plan(read_config("wan22_t2v_a14b"), 4, flow_shift=5.0, solver="euler")
    assert [step.sigma for step in steps] == pytest.approx([1.0, 0.9375, 0.8333, 0.625], abs=1e-4)
    assert [step.timestep for step in steps] == [1000, 937, 833, 625]
    assert [step.expert for step in steps] == [0, 0, 1, 1]


def test_boundary():
    config = read_config("wan_mini")
    assert {step.expert for step in experts.plan(experts.with_boundary(config, 0))} == {0}
    assert {step.expert for step in experts.plan(experts.with_boundary(config, 1.0))} == {1}
    with pytest.raises(WanError, match="has one expert"):
        experts.with_boundary(read_config("wan22_ti2v_5b"), 0.5)
    with pytest.raises(WanError, match="boundary=-1"):
        experts.with_boundary(config, -1)


@pytest.mark.parametrize(
    "name, active, each",
    [
        ("wan22_t2v_a14b", 14_288_491_584, 2),
        ("wan22_i2v_a14b", 14_288_901_184, 2),
        ("wan22_ti2v_5b", 4_999_787_712, 1),
        ("wan21_t2v_1_3b", 1_418_996_800, 1),
    ],
)
def test_parameter_counts(name, active, each):
    """Those of the released checkpoints."""
    assert experts.parameters(read_config(name)) == experts.Parameters(each * active, active)


def test_parameter_count_of_the_keys():
    """The released checkpoint lists its tensors; those of a block are there once for each layer."""
    keys = json.loads((ROOT / "tests/goldens/keys/t2v_a14b.json").read_text())
    times = {True: keys["layers"], False: 1}
    count = sum(times["{i}" in tensor["diffusers"]] * math.prod(tensor["shape"]) for tensor in keys["tensors"])
    assert experts.parameters(read_config("wan22_t2v_a14b")).active == count


def test_measured_facts_are_those_of_the_card():
    """Every number that is called measured stands in the card of the model."""
    for fact in experts.FACTS:
        if not fact.reported:
            card = (ROOT / fact.source).read_text()
            numbers = re.findall(r"\d+\.?\d*", fact.what + fact.high + fact.low)
            assert len(numbers) >= 2
            assert [n for n in numbers if not re.search(rf"(?<![\d.]){n}(?![\d.])", card)] == []


SMALL = {"num_inference_steps": 4, "height": 32, "width": 48, "num_frames": 5, "guidance_scale": 2.0}


@pytest.fixture(scope="module")
def pipe() -> WanPipeline:
    """Two experts with random weights: who is at work shows in every number."""
    pipe = WanPipeline.from_pretrained("untrained", dtype="float32", mesh=make_mesh(devices=jax.devices()[:1]))
    pipe.set_progress_bar_config(disable=True)
    return pipe


def latents(pipe: WanPipeline, **options) -> np.ndarray:
    return pipe("a red ball", output_type="latent", **SMALL, **options).frames


def test_trace(pipe):
    """The latents begin with the run's own noise and end where the run does; the boundary moves back."""
    own, seen, options = pipe.config, [], {"solver": "euler", "seed": 3}
    colours = np.zeros((own.vae.z_dim + 1, 3), np.float32)
    made = trace(
        pipe,
        "a red ball",
        colours=colours,
        watch=lambda number, step, preview: seen.append((number, step.expert)),
        **options,
        **SMALL,
    )
    assert made.path.shape == (5, 2, 4, 6, 16) and made.previews.shape == (4, 2, 4, 6, 3)
    assert seen == list(enumerate(step.expert for step in made.steps))
    assert 0 < made.switch < 4
    last = np.moveaxis(made.path[-1], -1, 0)
    np.testing.assert_array_equal(latents(pipe, **options)[0], last)
    noise = np.moveaxis(made.path[:1], -1, 1)
    np.testing.assert_array_equal(latents(pipe, solver="euler", latents=noise)[0], last)
    moved = trace(pipe, "a red ball", boundary=1.1, colours=colours, **options, **SMALL)
    assert moved.switch == 0 and moved.boundary == 1.1 and pipe.config is own
    assert not np.allclose(moved.path[-1], made.path[-1])


def test_swapped_and_back(pipe):
    """Swapped, the low-noise expert's steps are done by the other one; afterwards all is as before."""
    with moved_boundary(pipe, 0):
        high = latents(pipe)
    with moved_boundary(pipe, 1.0):
        low = latents(pipe)
        with swapped(pipe):
            np.testing.assert_array_equal(latents(pipe), high)
        np.testing.assert_array_equal(latents(pipe), low)
    assert not np.allclose(high, low)


def test_swapping_takes_two_experts(pipe):
    own = pipe.config
    pipe.config = dataclasses.replace(own, boundary_ratio=None)
    try:
        with pytest.raises(WanError, match="has one expert"), swapped(pipe):
            pass
    finally:
        pipe.config = own
