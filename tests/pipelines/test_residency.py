"""Weights that wait in host memory: the same latents to the bit, and no more on the device than what works."""

import gc

import jax
import numpy as np
import pytest

from tests.test_lora import CONFIG, LORA, random_update
from wan_jax import WanPipeline, lora_files, sharding
from wan_jax.errors import WanError

SMALL = dict(height=32, width=32, num_frames=5, num_inference_steps=6)
MATRICES = sum(CONFIG.num_layers * n for n in (8 * CONFIG.dim**2, 2 * CONFIG.dim * CONFIG.ffn_dim)) * 4  # bytes


def load(**options):
    pipe = WanPipeline.from_pretrained("untrained", dtype="float32", **options)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def frames(pipe, **options):
    return pipe("a cat", **SMALL, **options).frames


def device_bytes() -> int:
    return sum(x.nbytes for x in jax.live_arrays() if x.sharding.memory_kind == sharding.DEVICE)


@pytest.mark.parametrize("quantization", [None, "int8"])
@pytest.mark.parametrize("mesh", [None, "data=2,tensor=2"])
def test_equal_to_the_bit(mesh, quantization):
    mesh = mesh and sharding.make_mesh(**sharding.parse_mesh(mesh), devices=jax.devices()[:4])
    resident = frames(load(mesh=mesh, quantization=quantization))
    for offload in ("model", "blocks"):
        made = frames(load(mesh=mesh, quantization=quantization, offload=offload))
        np.testing.assert_array_equal(made, resident, err_msg=offload)


def test_what_is_on_the_device():
    """While an expert works, the other components wait; of "blocks", its matrices do too."""
    gc.collect()
    others = device_bytes()  # of other tests
    pipe, peaks = load(), {}

    def look(pipe, step, timestep, tensors):
        peaks.setdefault(name, []).append(device_bytes() - others)

    sizes = {part: sum(x.nbytes for x in jax.tree.leaves(params)) for part, params in pipe.weights.items()}
    small = 1.2e6  # keys and values of two texts, latents
    for name, switch in (("all", None), ("model", pipe.enable_model_cpu_offload), ("blocks", None)):
        if name == "blocks":
            switch = pipe.enable_sequential_cpu_offload
        if switch:
            switch()
        frames(pipe, callback_on_step_end=look, output_type="latent")
    assert sizes["transformer"] == sizes["transformer_2"]
    assert min(peaks["all"]) >= sum(sizes.values())
    assert sizes["transformer"] <= max(peaks["model"]) < sizes["transformer"] + small
    assert max(peaks["blocks"]) < sizes["transformer"] - MATRICES + small
    assert len(peaks["model"]) == SMALL["num_inference_steps"]
    assert device_bytes() - others < small  # the last to work was the second expert, whose matrices stream
    assert pipe.fingerprint and device_bytes() - others < small


@pytest.mark.parametrize("offload", ["model", "blocks"])
def test_updates(tmp_path, offload):
    """Low-rank updates of weights in host memory leave them there, with and without quantisation, and go again."""
    lora_files.save(tmp_path / "lora.safetensors", random_update(), LORA, CONFIG, {})
    for quantization in (None, "int8"):
        made = []
        for how in (None, offload):
            pipe = load(offload=how, quantization=quantization)
            plain = frames(pipe)
            pipe.load_lora_weights(tmp_path / "lora.safetensors", strength=0.5)
            made.append(frames(pipe))
            pipe.unload_lora_weights()
            np.testing.assert_array_equal(frames(pipe), plain)
        np.testing.assert_array_equal(*made)
        assert np.abs(made[0] - plain).max() > 0.01


def test_bad_input():
    with pytest.raises(WanError, match="offload='disk' is unknown; use 'model', 'blocks' or None"):
        load(offload="disk")
