"""Matrices in eight bits against scales and products worked out in NumPy; what is stored, loaded and updated."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from convert.conversion import convert
from convert.export import export
from tests.compare import relative_error
from tests.test_lora import CONFIG, LORA, MODEL, network_inputs, random_update
from wan_jax import WanPipeline, checkpoint, lora, lora_files, placeholder, quantization, sharding
from wan_jax.config import QUANTIZATIONS
from wan_jax.errors import WanError
from wan_jax.models import abstract_params
from wan_jax.models.dit import DiT

SMALL = dict(height=32, width=32, num_frames=5, num_inference_steps=4, output_type="latent")


def by_hand(kernel, dtype, group):
    """Values and scales: the largest number of each group becomes the largest of the dtype (AQT: the edge of 127)."""
    largest = 127.5 if dtype == np.int8 else float(ml_dtypes.finfo(dtype).max)
    scale = np.abs(kernel.reshape(-1, group, kernel.shape[-1])).max(1) / np.float32(largest)
    values = kernel / np.repeat(scale, group, 0)
    return (np.clip(np.round(values), -127, 127) if dtype == np.int8 else values).astype(dtype), scale


def quantized(params, kind):
    """A transformer's random parameters with `kind`, and its config."""
    config = replace(CONFIG, quantization=kind)
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    placed = jax.tree.map(jnp.asarray, params)
    return quantization.quantize_params(
        jax.device_put(placed, jax.sharding.NamedSharding(mesh, jax.P())),
        sharding.place(abstract_params(config, np.float32), mesh),
        kind,
    ), config


@pytest.fixture(scope="module")
def params():
    return placeholder.random_params(MODEL)["transformer"]


@pytest.fixture(scope="module")
def velocity():
    inputs = network_inputs()

    def run(params, config, dtype=jnp.float32):
        return jax.jit(DiT(config, dtype).apply)({"params": params}, *inputs)

    return run


@pytest.mark.parametrize("kind", QUANTIZATIONS)
def test_products(kind):
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 5, 128), np.float32), rng.standard_normal((128, 32), np.float32)
    values, scale = quantization.quantize(kernel, kind)
    group = 64 if kind == "int8" else 128
    expected, expected_scale = by_hand(kernel, values.dtype, group)
    np.testing.assert_allclose(scale, expected_scale, rtol=1e-6)
    assert (np.asarray(values) != expected).mean() < 0.005  # ties may round either way
    weights = np.asarray(values, np.float64) * np.repeat(np.asarray(scale, np.float64), group, 0)
    np.testing.assert_allclose(quantization.dequantize(values, scale), weights, rtol=1e-6)
    inputs = x.astype(np.float64)
    if kind == "int8_w8a8":
        values_x, scale_x = by_hand(x.reshape(10, 128).T, values.dtype, 128)
        inputs = (values_x.astype(np.float64) * scale_x).T.reshape(x.shape)
    elif kind == "fp8_w8a8":
        inputs = x.astype(values.dtype).astype(np.float64)
    y = quantization.dot(jnp.asarray(x), values, scale, kind, jax.lax.Precision.HIGHEST)
    assert relative_error(y, inputs @ weights) < (2e-3 if kind.endswith("w8a8") else 1e-6)


@pytest.mark.parametrize("kind, near", [("int8", 0.03), ("fp8", 0.1), ("int8_w8a8", 0.06), ("fp8_w8a8", 0.2)])
def test_the_transformer(params, velocity, kind, near):
    """Only the blocks' matrices are in eight bits; the result is that of the plain network with those weights."""
    found, config = quantized(params, kind)
    flat = flatten_dict(found, sep="/")
    small = {path for path, x in flat.items() if x.dtype.itemsize == 1}
    assert small == {path for path in flat if path.startswith("blocks/") and path.endswith("/kernel")}
    result = velocity(found, config)
    assert 1e-4 < relative_error(result, velocity(params, CONFIG)) < near
    if not kind.endswith("w8a8"):
        plain = {path: x for path, x in flat.items() if "_scale" not in path}
        for path in small:
            plain[path] = np.asarray(quantization.dequantize(flat[path], flat[f"{path}_scale"]))
        nested = unflatten_dict(plain, sep="/")
        assert relative_error(result, velocity(nested, CONFIG)) < 1e-5


def test_converted_and_loaded_are_the_same(tmp_path):
    """`convert --quantize`, and the same done while loading: to the bit, on one device and on a mesh."""
    source = placeholder.folder()
    convert(str(source), str(tmp_path / "int8"), dtype="float32", quantize="int8", quiet=True)
    checkpoint.verify(tmp_path / "int8")
    manifest = checkpoint.read_manifest(tmp_path / "int8/transformer_2")
    assert manifest["blocks/ffn_in/kernel"]["dtype"] == "int8"
    assert manifest["blocks/ffn_in/kernel_scale"] | {"sha256": None} == {
        "shape": [CONFIG.num_layers, CONFIG.dim // 64, CONFIG.ffn_dim],
        "dtype": "float32",
        "source_dtype": "float32",
        "sha256": None,
    }

    def generate(model, **options):
        pipe = WanPipeline.from_pretrained(str(model), dtype="float32", **options)
        pipe.set_progress_bar_config(disable=True)
        return pipe("a cat", **SMALL)

    stored = generate(tmp_path / "int8")
    np.testing.assert_array_equal(generate("untrained", quantization="int8").frames, stored.frames)
    assert stored.settings[0]["quantization"] == "int8"
    split = generate(tmp_path / "int8", mesh=sharding.make_mesh(tensor=2, context=2, devices=jax.devices()[:4]))
    assert relative_error(split.frames, stored.frames) < 1e-4
    assert relative_error(generate("untrained").frames, stored.frames) > 1e-3
    with pytest.raises(WanError, match="quantization='fp8': untrained is stored as int8; convert the original again"):
        generate(tmp_path / "int8", quantization="fp8")
    with pytest.raises(WanError, match="quantization='int4' is unknown; use one of int8, fp8"):
        generate("untrained", quantization="int4")
    with pytest.raises(WanError, match="kept in eight bits"):
        export(str(tmp_path / "int8"), str(tmp_path / "exported"))


def test_low_rank_updates_stay_beside_quantised_weights(tmp_path, params, velocity):
    """Two of them, with strengths, as W + s·α/r·BA by hand, where W are the weights in eight bits; and taken away."""
    found, config = quantized(params, "int8")
    lora_files.save(tmp_path / "lora.safetensors", random_update(), LORA, CONFIG, {})
    updates = [lora_files.load(tmp_path / "lora.safetensors", config, strength) for strength in (0.5, -0.2)]
    before = jax.tree.map(np.array, found)
    fused = found
    for update in updates:
        fused = lora.fuse_in_place(fused, update, "int8")
    plain = {
        path: np.asarray(quantization.dequantize(x, flatten_dict(before, sep="/")[f"{path}_scale"]))
        if x.dtype == np.int8
        else x
        for path, x in flatten_dict(before, sep="/").items()
        if not path.endswith("_scale")
    }
    for path, x in flatten_dict(random_update(), sep="/").items():
        if path.endswith("lora_a"):
            b = np.asarray(flatten_dict(random_update(), sep="/")[path[:-1] + "b"], np.float64)
            change = np.einsum("lcr,lrm->lcm", np.asarray(x, np.float64), b) * 0.3 * LORA.alpha / LORA.rank
            name = path.replace("lora_a", "kernel")
            plain[name] = (plain[name] + change).astype(np.float32)
    expected = velocity(unflatten_dict(plain, sep="/"), CONFIG)
    assert relative_error(velocity(fused, config), expected) < 1e-5
    assert relative_error(velocity(before, config), expected) > 0.01


def test_a_quantised_model_is_not_trained():
    from wan_jax.train.config import TrainConfig

    model = replace(MODEL, transformer=replace(CONFIG, quantization="int8"))
    with pytest.raises(WanError, match="quantization='int8' is for generating"):
        TrainConfig(name="t", model=model).check()
