"""The umT5 encoder against transformers' UMT5EncoderModel."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from convert.rules import torch_shapes
from convert.umt5 import UMT5_ALIASES, umt5_rules
from tests.compare import relative_error
from tests.parity import reference
from wan_jax.config import UMT5Config
from wan_jax.models.umt5 import UMT5Encoder, abstract_params, relative_buckets

TINY = {"vocab_size": 128, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 3, "num_heads": 4}


def torch_umt5(seed: int = 0) -> transformers.UMT5EncoderModel:
    config = transformers.UMT5Config(**TINY, feed_forward_proj="gated-gelu")
    return reference.randomize(transformers.UMT5EncoderModel(config), seed)


def params_of(module):
    config = UMT5Config.from_json(module.config.to_dict(), "text_encoder/config.json")
    tensors = {name: tensor for name, tensor in module.state_dict().items() if name not in UMT5_ALIASES}
    stored = SimpleNamespace(state_dict=lambda: tensors)
    return config, {"params": reference.params_of(stored, umt5_rules(config), abstract_params(config))}


def prompts(lengths, length):
    ids = np.random.default_rng(0).integers(3, TINY["vocab_size"], (len(lengths), length))
    mask = np.arange(length) < np.array(lengths)[:, None]
    return np.where(mask, ids, 0), mask


def states(module, ids, mask):
    """What Wan's transformer gets: rows cut at the true length, zeros behind it."""
    with torch.no_grad():
        out = module(input_ids=torch.from_numpy(ids), attention_mask=torch.from_numpy(mask).long()).last_hidden_state
    return np.where(mask[:, :, None], out.float().numpy(), 0)


@pytest.mark.parametrize(
    "lengths, length",
    [([20, 7, 1], 20), ([512], 512), ([512, 126, 1], 512)],  # 512: every bucket
    ids=["short", "full", "padded"],
)
def test_states(lengths, length):
    module = torch_umt5()
    config, params = params_of(module)
    ids, mask = prompts(lengths, length)
    ours = UMT5Encoder(config, jnp.float32).apply(params, ids, mask)
    assert relative_error(ours, states(module, ids, mask)) <= 1e-5


def test_bfloat16_is_no_worse():
    """Our bfloat16 is as close to float32 as that of transformers."""
    module = torch_umt5()
    config, params = params_of(module)
    ids, mask = prompts([64, 20], 64)
    exact = states(module, ids, mask)
    theirs = relative_error(states(module.to(torch.bfloat16), ids, mask), exact)
    ours = relative_error(UMT5Encoder(config, jnp.bfloat16).apply(params, ids, mask), exact)
    assert ours <= theirs


def test_buckets():
    attention = torch_umt5().encoder.block[0].layer[0].SelfAttention
    position = torch.arange(600)
    theirs = attention._relative_position_bucket(position[None, :] - position[:, None])
    np.testing.assert_array_equal(relative_buckets(600, 32, 128), theirs.numpy())


def test_names_are_those_that_transformers_saves(tmp_path):
    module = torch_umt5()
    module.save_pretrained(tmp_path)
    config = UMT5Config.from_json(module.config.to_dict(), "text_encoder/config.json")
    saved = {name: array.shape for name, array in load_file(tmp_path / "model.safetensors").items()}
    assert torch_shapes(umt5_rules(config), "diffusers", abstract_params(config)) == saved
