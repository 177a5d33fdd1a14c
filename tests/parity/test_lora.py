"""Updates written here load into Diffusers, and those written by Diffusers and PEFT load here, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
import torch
from diffusers.training_utils import _collate_lora_metadata
from flax.traverse_util import flatten_dict, unflatten_dict
from peft import LoraConfig as PeftConfig
from peft import get_peft_model_state_dict

from convert.dit import dit_rules
from convert.rules import flat
from tests.compare import relative_error
from tests.parity import reference
from tests.rearrange import to_torch
from wan_jax import lora, lora_files
from wan_jax.config import DiTConfig
from wan_jax.models.dit import DiT, abstract_params

LORA = lora.LoraConfig(rank=4, alpha=6.0)
TARGETS = ["to_q", "to_k", "to_v", "to_out.0", "ffn.net.0.proj", "ffn.net.2"]


@pytest.fixture
def pipe(tmp_path):
    return reference.pipeline(tmp_path)


@pytest.fixture(scope="module")
def config():
    return DiTConfig.from_json(dict(reference.dit().config), "transformer/config.json")


def random_update(config):
    rng = np.random.default_rng(0)
    shapes = lora.init(LORA, abstract_params(config), jax.random.key(0))
    return jax.tree.map(lambda x: jnp.asarray(0.2 * rng.standard_normal(x.shape), jnp.float32), shapes)


def inputs(config):
    rng = np.random.default_rng(1)
    latents = rng.standard_normal((2, 3, 4, 6, 16), np.float32)
    return latents, np.array([[999.0], [437.0]], np.float32), rng.standard_normal((2, 7, config.text_dim), np.float32)


def theirs(module, config):
    latents, timestep, text = map(torch.from_numpy, inputs(config))
    with torch.no_grad():
        velocity = module(latents.permute(0, 4, 1, 2, 3), timestep[:, 0], text, return_dict=False)[0]
    return velocity.permute(0, 2, 3, 4, 1)


def ours(params, config):
    return DiT(config, jnp.float32).apply({"params": params}, *inputs(config))


@pytest.mark.parametrize("component", ["transformer", "transformer_2"])
def test_our_file_in_diffusers(tmp_path, pipe, config, component):
    module = getattr(pipe, component)
    params = reference.params_of(module, dit_rules(config), abstract_params(config))
    update = random_update(config)
    lora_files.save(tmp_path / "lora.safetensors", update, LORA, config, {"run": "test"})
    pipe.load_lora_weights(tmp_path / "lora.safetensors", load_into_transformer_2=component == "transformer_2")

    loaded = {name: p for name, p in module.named_parameters() if "lora_" in name}
    assert len(loaded) == 2 * 10 * config.num_layers  # every layer of every block has its two matrices, and no more
    scaled = flat(lora.scaled(LORA, update))
    for rule in dit_rules(config):
        if (path := rule.path.removesuffix("kernel")) + "lora_a" in scaled:
            difference = np.asarray(scaled[f"{path}lora_a"] @ scaled[f"{path}lora_b"])
            for name, added in to_torch(rule, "diffusers", difference):
                layer = module.get_submodule(name.removesuffix(".weight"))
                assert relative_error(layer.get_delta_weight("default_0").detach(), added) <= 1e-6, name

    expected = theirs(module, config)
    assert relative_error(ours(params, config), expected) > 0.1
    joined = unflatten_dict(flatten_dict(params) | flatten_dict(lora.scaled(LORA, update)))
    assert relative_error(ours(joined, config), expected) <= 1e-5
    fused = lora.fuse(params, lora_files.load(tmp_path / "lora.safetensors", config))
    assert relative_error(ours(fused, config), expected) <= 1e-5


def test_file_of_diffusers_here(tmp_path, pipe, config):
    """With alpha in the header, where Diffusers' own training scripts leave it."""
    module = pipe.transformer
    params = reference.params_of(module, dit_rules(config), abstract_params(config))
    module.add_adapter(PeftConfig(r=4, lora_alpha=6, target_modules=TARGETS, init_lora_weights=False))
    expected = theirs(module, config)
    layers = get_peft_model_state_dict(module)
    metadata = _collate_lora_metadata({"transformer": module})
    pipe.save_lora_weights(tmp_path, transformer_lora_layers=layers, **metadata)
    update = lora_files.load(tmp_path / "pytorch_lora_weights.safetensors", config)
    assert relative_error(ours(params, config), expected) > 1e-3
    assert relative_error(ours(lora.fuse(params, update), config), expected) <= 1e-5


@pytest.mark.parametrize("style", ["kohya", "LightX2V"])
def test_files_that_diffusers_can_read(tmp_path, pipe, config, style):
    """kohya's with alpha for every layer, LightX2V's with differences of biases."""
    rng = np.random.default_rng(0)
    rules = {rule.path: rule for rule in dit_rules(config)}
    params = reference.params_of(pipe.transformer, dit_rules(config), abstract_params(config))
    file = {}
    for path, kernel in flat(params).items():
        if not lora.BLOCK_KERNEL.fullmatch(path):
            continue
        for name in rules[path].names("original", config.num_layers):
            name, (inputs, outputs) = name.removesuffix(".weight"), kernel.shape[1:]
            key = f"lora_unet_{name.replace('.', '_')}" if style == "kohya" else f"diffusion_model.{name}"
            file[f"{key}.lora_down.weight"] = 0.2 * rng.standard_normal((4, inputs))
            file[f"{key}.lora_up.weight"] = 0.2 * rng.standard_normal((outputs, 4))
            if style == "kohya":
                file[f"{key}.alpha"] = np.array(2.0)
            else:
                file[f"{key}.diff_b"] = 0.2 * rng.standard_normal(outputs)
    safetensors.numpy.save_file({key: x.astype(np.float32) for key, x in file.items()}, tmp_path / "lora.safetensors")
    pipe.load_lora_weights(tmp_path / "lora.safetensors")
    expected = theirs(pipe.transformer, config)
    fused = lora.fuse(params, lora_files.load(tmp_path / "lora.safetensors", config))
    assert relative_error(ours(params, config), expected) > 0.1
    assert relative_error(ours(fused, config), expected) <= 1e-5
