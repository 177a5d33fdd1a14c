"""Converting, loading, exporting; and what is said of damaged files."""

import gc
import json
import struct
from dataclasses import replace

import jax
import ml_dtypes
import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import load_file, save_file

from convert import export
from convert.arrays import contiguous
from convert.components import components
from convert.conversion import convert
from convert.rules import check, flat, torch_shapes
from convert.sources import open_source
from convert.tensor_files import SafetensorsFile
from tests.convert.tiny import CONFIG, random_params, write_model
from tests.rearrange import to_jax
from wan_jax import checkpoint
from wan_jax.config import get_config
from wan_jax.errors import WanError
from wan_jax.models import abstract_params
from wan_jax.sharding import make_mesh, place

TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
WEIGHTS = [TRANSFORMER, "text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"]


@pytest.fixture
def source(tmp_path):
    return write_model(tmp_path / "source")


def rewrite(source, change):
    """Applies `change` to the tensors of the transformer."""
    tensors = load_file(source / TRANSFORMER)
    change(tensors)
    save_file(tensors, source / TRANSFORMER)


def convert_to(source, target, **kwargs):
    convert(str(source), str(target), quiet=True, **kwargs)
    return target


# ---- Rule tables ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["transformer", "vae", "text_encoder"])
@pytest.mark.parametrize("layout", ["diffusers", "original"])
def test_rules_invert(name, layout):
    part = components(CONFIG, np.float32)[name]
    rng = np.random.default_rng(0)
    shapes = torch_shapes(part.rules, layout, part.shapes)
    tensors = {tensor: rng.standard_normal(shape, np.float32) for tensor, shape in shapes.items()}
    for rule in part.rules:
        array = to_jax(rule, layout, part.shapes[rule.path].shape, np.float32, tensors.__getitem__)
        assert array.shape == part.shapes[rule.path].shape
        layers = array if rule.stacked else [array]
        for tensor, layer in zip(rule.names(layout, len(layers)), layers):
            np.testing.assert_array_equal(rule.transform.to_torch(layer), tensors.pop(tensor))
    assert tensors == {}


def test_check_lists_everything():
    part = components(CONFIG, np.float32)["transformer"]
    found = torch_shapes(part.rules, "diffusers", part.shapes)
    check(part.rules, "diffusers", part.shapes, found, "here")
    found["proj_out.bias"], found["strange"] = (1,), (2, 3)
    del found["blocks.1.attn1.to_q.weight"]
    with pytest.raises(WanError) as error:
        check(part.rules, "diffusers", part.shapes, found, "here")
    assert str(error.value).splitlines() == [
        "here: 3 tensors do not fit this model",
        "  missing blocks.1.attn1.to_q.weight [24, 24]",
        "  unexpected strange [2, 3]",
        "  misshapen proj_out.bias [1], expected [64]",
    ]


@pytest.mark.parametrize("source_dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_contiguous(source_dtype, dtype):
    x = np.random.default_rng(0).standard_normal((70, 3, 130)).astype(source_dtype)
    for view in (x, x.T, x[:, 1], x[:, 1].T):
        out = contiguous(view, dtype)
        assert out.flags.c_contiguous and out.dtype == dtype
        np.testing.assert_array_equal(out, view.astype(dtype))


# ---- There and back -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_loads_what_was_written(source, tmp_path, dtype):
    ours = convert_to(source, tmp_path / "ours", dtype=dtype)
    assert checkpoint.read_model(ours) == CONFIG
    original, memory = random_params(CONFIG), open_source(str(source))
    for name, config in checkpoint.components(CONFIG).items():
        abstract = abstract_params(config, np.float32 if name == "vae" else dtype)
        loaded = checkpoint.restore(ours / name, abstract)
        want = jax.tree.map(lambda x, a: x.astype(a.dtype), original[name], abstract)
        for params in (loaded, memory.read(name, dtype)):
            jax.tree.map(np.testing.assert_array_equal, params, want)
            assert jax.tree.map(lambda x: x.dtype, params) == jax.tree.map(lambda x: x.dtype, want)
    assert {p.name for p in (ours / "tokenizer").iterdir()} == {p.name for p in (source / "tokenizer").iterdir()}


def test_restore_shards_and_casts(source, tmp_path):
    ours = convert_to(source, tmp_path / "ours", dtype="float32")
    mesh = make_mesh(fsdp=2, tensor=2, devices=jax.devices("cpu")[:4])
    abstract = place(abstract_params(CONFIG.transformer, np.float32), mesh)
    restored = checkpoint.restore(ours / "transformer", abstract)
    whole = random_params(CONFIG)["transformer"]
    assert jax.tree.map(lambda x: (x.sharding, x.dtype), restored) == jax.tree.map(
        lambda x: (x.sharding, x.dtype), abstract
    )
    jax.tree.map(np.testing.assert_array_equal, restored, whole)


@pytest.mark.parametrize(
    "stored, dtype", [("float32", "float32"), ("bfloat16", "bfloat16"), ("bfloat16", "float32"), ("plain", "bfloat16")]
)
def test_export_is_bit_exact(tmp_path, stored, dtype):
    """Also where everything is bfloat16, norms included ("plain"), which we keep in float32."""
    source = write_model(tmp_path / "source", "float32" if stored == "plain" else stored)
    if stored == "plain":
        for file in WEIGHTS[:2]:
            save_file({k: v.astype(ml_dtypes.bfloat16) for k, v in load_file(source / file).items()}, source / file)
    export.export(str(convert_to(source, tmp_path / "ours", dtype=dtype)), str(tmp_path / "back"))
    for file in WEIGHTS:
        ours, theirs = load_file(tmp_path / "back" / file), load_file(source / file)
        assert ours.keys() == theirs.keys()
        for name in ours:
            assert ours[name].dtype == theirs[name].dtype, name
            np.testing.assert_array_equal(ours[name], theirs[name])
    assert {p.relative_to(source) for p in source.rglob("*")} == {
        p.relative_to(tmp_path / "back") for p in (tmp_path / "back").rglob("*")
    }


def test_shards_and_their_index(source, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "SHARD_BYTES", 30_000)
    sharded = write_model(tmp_path / "sharded")
    index = json.loads((sharded / f"{TRANSFORMER}.index.json").read_text())
    assert len(set(index["weight_map"].values())) > 2
    ours, theirs = (flatten_dict(open_source(str(f)).read("transformer", np.float32)) for f in (source, sharded))
    for path in theirs:
        np.testing.assert_array_equal(ours[path], theirs[path])


def test_second_name_of_the_embedding(source, tmp_path):
    """transformers 4 wrote the tied embedding under either name, or under both."""
    want = open_source(str(source)).read("text_encoder", np.float32)
    tensors = load_file(source / WEIGHTS[1])
    for change in ({"encoder.embed_tokens.weight": tensors["shared.weight"]}, {"shared.weight": None}):
        tensors = {name: value for name, value in (tensors | change).items() if value is not None}
        save_file(tensors, source / WEIGHTS[1])
        got = open_source(str(source)).read("text_encoder", np.float32)
        jax.tree.map(np.testing.assert_array_equal, got, want)


def test_fingerprint_follows_the_weights(source, tmp_path):
    first = checkpoint.fingerprint(convert_to(source, tmp_path / "first"))
    assert len(first) == 12
    assert checkpoint.fingerprint(convert_to(source, tmp_path / "again")) == first
    rewrite(source, lambda tensors: tensors["proj_out.bias"].__setitem__(0, 7))
    assert checkpoint.fingerprint(convert_to(source, tmp_path / "other")) != first


def test_released_models_are_recognised():
    source = get_config("wan22_t2v_a14b")
    from convert.sources import model_of

    for name in ("wan22_t2v_a14b", "wan21_t2v_14b", "wan21_t2v_1_3b"):
        config = get_config(name)
        parts = [config.transformer] * len(config.transformers)
        assert model_of(parts, config.vae, config.text_encoder, "here") == config
    custom = model_of([CONFIG.transformer], CONFIG.vae, CONFIG.text_encoder, "here")
    assert (custom.name, custom.boundary_ratio, custom.sampling.flow_shift) == ("custom", None, 5.0)
    with pytest.raises(WanError, match="different sizes"):
        model_of([source.transformer, CONFIG.transformer], source.vae, source.text_encoder, "here")


# ---- Damage ---------------------------------------------------------------------------------------------------------


def drop(tensors):
    del tensors["blocks.2.ffn.net.2.weight"]


def add(tensors):
    tensors["lora_a"] = np.zeros((2, 3), np.float32)


def reshape(tensors):
    tensors["proj_out.weight"] = tensors["proj_out.weight"].reshape(-1)


def integers(tensors):
    tensors["proj_out.bias"] = tensors["proj_out.bias"].astype(np.int32)


@pytest.mark.parametrize(
    "change, words",
    [
        (drop, "missing blocks.2.ffn.net.2.weight"),
        (add, "unexpected lora_a"),
        (reshape, "misshapen proj_out.weight"),
        (integers, "proj_out.bias has dtype I32"),
    ],
)
def test_tensors_that_do_not_fit(source, tmp_path, change, words):
    rewrite(source, change)
    with pytest.raises(WanError, match=words):
        convert_to(source, tmp_path / "ours")
    assert not list(tmp_path.glob("ours*"))  # refused before anything is written


def test_truncated_source(source, tmp_path):
    path = source / TRANSFORMER
    last = list(SafetensorsFile(path).header)[-1]
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WanError, match=rf"model.safetensors: truncated at .* lost {last}"):
        convert_to(source, tmp_path / "ours")


@pytest.mark.parametrize("content", [b"", b"abc", struct.pack("<Q", 1 << 60) + b"{", struct.pack("<Q", 2) + b"[]"])
def test_source_that_is_not_safetensors(source, tmp_path, content):
    (source / TRANSFORMER).write_bytes(content)
    with pytest.raises(WanError, match="not a safetensors file, or its header is damaged"):
        convert_to(source, tmp_path / "ours")


def test_missing_shard(source, tmp_path, monkeypatch):
    monkeypatch.setattr(export, "SHARD_BYTES", 30_000)
    sharded = write_model(tmp_path / "sharded")
    shard = sorted((sharded / "transformer").glob("*.safetensors"))[1]
    lost = next(iter(SafetensorsFile(shard).header))
    shard.unlink()
    with pytest.raises(WanError, match=f"{shard.name} is missing, with .*{lost}"):
        convert_to(sharded, tmp_path / "ours")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax drops its other reads
@pytest.mark.parametrize("damage", ["flip", "truncate", "delete"])
def test_damaged_array(source, tmp_path, damage):
    """Every read notices, not only one that verifies: chunks carry a checksum."""
    ours = convert_to(source, tmp_path / "ours")
    chunk = ours / "transformer/state/blocks.ffn_in.kernel/c/1/0/0"
    data = bytearray(chunk.read_bytes())
    data[5] ^= 8
    {
        "flip": lambda: chunk.write_bytes(data),
        "truncate": lambda: chunk.write_bytes(data[:100]),
        "delete": chunk.unlink,
    }[damage]()
    abstract = abstract_params(CONFIG.transformer, "bfloat16")
    with pytest.raises(WanError, match="blocks/ffn_in/kernel is damaged"):
        checkpoint.restore(ours / "transformer", abstract)
    gc.collect()
    with pytest.raises(WanError, match="blocks/ffn_in/kernel is damaged"):
        checkpoint.verify(ours)


def test_altered_array(source, tmp_path):
    """Other numbers with a valid checksum: only the SHA-256 tells."""
    ours = convert_to(source, tmp_path / "ours")
    value = np.array(checkpoint.read_array(ours / "transformer", "blocks/ffn_in/bias", 2))
    value[0] += 1
    checkpoint.ArrayWriter(ours / "transformer").write("blocks/ffn_in/bias", 2, value)
    abstract = abstract_params(CONFIG.transformer, "bfloat16")
    checkpoint.restore(ours / "transformer", abstract)
    with pytest.raises(WanError, match="blocks/ffn_in/bias, layer 2 differs from its SHA-256"):
        checkpoint.verify(ours)


def test_restore_of_another_tree(source, tmp_path):
    ours = convert_to(source, tmp_path / "ours")
    other = abstract_params(replace(CONFIG.transformer, num_layers=2), "bfloat16")
    del other["patch_embedding"]
    other["extra"] = jax.ShapeDtypeStruct((3,), np.float32)
    with pytest.raises(WanError) as error:
        checkpoint.restore(ours / "transformer", other)
    for words in ("missing extra [3]", "unexpected patch_embedding/kernel", "misshapen blocks/ffn_in/bias [3, 40]"):
        assert words in str(error.value)


def test_paths_of_parameters_survive_the_names_of_folders():
    """A parameter's name with a dot in it would be taken for another one in error messages."""
    for part in components(CONFIG, np.float32).values():
        assert not [path for path in flat(part.shapes) if "." in path]
