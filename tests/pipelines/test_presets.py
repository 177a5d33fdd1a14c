"""What presets choose for released models and real devices, and that lightning is what its parts are by hand."""

import warnings

import jax
import numpy as np
import pytest

from wan_jax import WanPipeline, weights
from wan_jax.chips import CHIPS
from wan_jax.config import get_config
from wan_jax.errors import WanError
from wan_jax.pipelines import presets
from wan_jax.pipelines.presets import Arrangement

# Bytes by hand: umT5 11.4 GB; transformers 2.8, 10.1 and 2 × 28.6 GB, halved in int8; a v5e has 16.9 GB, a v6e 33.5.
CHOICES = [
    ("wan21_t2v_1_3b", "auto", "v5e", 1, Arrangement(offload="model")),
    ("wan21_t2v_1_3b", "auto", "v6e", 1, Arrangement()),
    ("wan22_ti2v_5b", "colab-v5e", "v5e", 1, Arrangement(offload="model")),
    ("wan22_ti2v_5b", "colab-v6e", "v6e", 1, Arrangement()),
    ("wan22_t2v_a14b", "colab-v6e", "v6e", 1, Arrangement(quantization="int8", offload="model")),
    ("wan22_t2v_a14b", "colab-v5e", "v5e", 1, Arrangement(quantization="int8", offload="blocks")),
    ("wan22_t2v_a14b", "quality", "v6e", 1, Arrangement(offload="blocks")),
    ("wan22_t2v_a14b", "auto", "v6e", 8, Arrangement()),
]


@pytest.mark.parametrize("model, name, chip, count, expected", CHOICES)
def test_weights_fit(model, name, chip, count, expected):
    preset, memory = presets.find(name), count * CHIPS[chip].hbm_gib * 2**30
    assert presets.arrange(preset, get_config(model), "bfloat16", "bfloat16", memory) == expected
    if preset.chip:
        assert presets.memory_bytes(preset) == memory


def test_a_cpu_keeps_everything():
    preset = presets.find("auto")
    config = get_config("wan22_t2v_a14b")
    assert jax.devices()[0].platform == "cpu"
    assert presets.arrange(preset, config, "bfloat16", "float32", presets.memory_bytes(preset)) == Arrangement()


def test_lightning():
    """Four Euler steps at shift 5 without guidance, two with each expert, with the updates that come with wan_mini."""
    small = {"height": 32, "width": 32, "num_frames": 5, "output_type": "latent"}
    pipe = WanPipeline.from_pretrained("wan_mini", dtype="float32", preset="lightning")
    seen = []
    made = pipe(
        "a red ball",
        **small,
        callback_on_step_end=lambda pipe, step, timestep, tensors: seen.append(timestep),
    )
    assert seen == [1000, 937, 833, 625] or seen == [999, 937, 832, 624]
    other = WanPipeline.from_pretrained("wan_mini", dtype="float32")
    other.set_progress_bar_config(disable=True)
    for component in other.config.transformers:
        path = weights.folder("wan_mini") / "lightning" / f"{component}.safetensors"
        other.load_lora_weights(path, component)
    chosen = {"num_inference_steps": 4, "solver": "euler", "flow_shift": 5.0, "guidance_scale": 1.0}
    by_hand = other("a red ball", **small, **chosen)
    np.testing.assert_allclose(made.frames, by_hand.frames, atol=1e-5)
    assert made.settings[0]["preset"] == "lightning" and made.settings[0]["num_inference_steps"] == 4
    assert made.settings[0]["checkpoint"] == by_hand.settings[0]["checkpoint"]
    plain = WanPipeline.from_pretrained("wan_mini", dtype="float32")("a red ball", **small, **chosen)
    assert np.abs(plain.frames - made.frames).max() > 0.05


def test_models_without_known_updates_are_sampled_so_all_the_same():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        pipe = WanPipeline.from_pretrained("untrained", dtype="float32", preset="lightning")
    assert pipe.config.sampling.num_inference_steps == 4 and pipe.config.sampling.solver == "euler"
    assert "no updates for four steps are known for untrained" in str([warning.message for warning in caught])
    with pytest.raises(WanError, match="preset='fast' is unknown; use one of auto, colab-v5e"):
        WanPipeline.from_pretrained("untrained", preset="fast")
