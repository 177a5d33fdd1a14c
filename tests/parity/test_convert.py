"""Checkpoints that PyTorch wrote: Diffusers' own, and the same weights in the original release's files."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import diffusers
import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from convert.conversion import convert
from convert.export import export
from convert.sources import open_source
from tests.convert.hub import serve
from tests.convert.test_resume import killed_at, run
from tests.parity import reference
from wan_jax import checkpoint
from wan_jax.byte_tokenizer import write_byte_tokenizer
from wan_jax.errors import WanError

KEYS = Path(__file__).parents[1] / "goldens" / "keys"
DTYPES = ["float32", "bfloat16"]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("diffusers")
    write_byte_tokenizer(folder / "tokenizer")
    text_encoder = transformers.UMT5EncoderModel(
        transformers.UMT5Config(vocab_size=259, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    )
    vae = diffusers.AutoencoderKLWan(base_dim=4, num_res_blocks=2)  # the real numbering of the blocks
    pipe = diffusers.WanPipeline(
        tokenizer=transformers.AutoTokenizer.from_pretrained(folder / "tokenizer"),
        text_encoder=reference.randomize(text_encoder, 1),
        vae=reference.randomize(vae, 2),
        transformer=reference.dit(3),
        transformer_2=reference.dit(4),
        scheduler=reference.unipc(3.0),
        boundary_ratio=0.875,
    )
    pipe.save_pretrained(folder / "model", max_shard_size="60KB")
    return folder / "model"


@pytest.fixture(scope="module")
def original(source, tmp_path_factory):
    """The same weights under the names, and in the files, of the original release."""
    folder = tmp_path_factory.mktemp("original") / "model"
    pipe = diffusers.WanPipeline.from_pretrained(source)
    for name, module in (("high_noise_model", pipe.transformer), ("low_noise_model", pipe.transformer_2)):
        (folder / name).mkdir(parents=True)
        tensors = renamed(module, stacked_names("t2v_a14b"))
        half = len(tensors) // 2
        for n, part in enumerate((list(tensors.items())[:half], list(tensors.items())[half:]), start=1):
            save_file(dict(part), folder / name / f"diffusion_pytorch_model-{n:05}-of-00002.safetensors")
        (folder / name / "config.json").write_text(json.dumps(original_config(module, "t2v")))
    names = {theirs: ours for ours, theirs in json.loads((KEYS / "vae21_names.json").read_text()).items()}
    torch.save(renamed(pipe.vae, names), folder / "Wan2.1_VAE.pth")
    encoder = renamed(pipe.text_encoder, stacked_names("umt5_xxl"), drop={"encoder.embed_tokens.weight"})
    torch.save(encoder, folder / "models_t5_umt5-xxl-enc-bf16.pth")
    shutil.copytree(source / "tokenizer", folder / "google" / "umt5-xxl")
    return folder


def original_config(module: torch.nn.Module, kind: str) -> dict:
    c = module.config
    return {
        "_class_name": "WanModel",
        "_diffusers_version": "0.33.0",
        "dim": c.num_attention_heads * c.attention_head_dim,
        "eps": c.eps,
        "ffn_dim": c.ffn_dim,
        "freq_dim": c.freq_dim,
        "in_dim": c.in_channels,
        "model_type": kind,
        "num_heads": c.num_attention_heads,
        "num_layers": c.num_layers,
        "out_dim": c.out_channels,
        "text_len": 512,
    }


def stacked_names(name: str) -> dict[str, str]:
    """Diffusers → original, with {i} for the layer."""
    rows = json.loads((KEYS / f"{name}.json").read_text())["tensors"]
    return {row["diffusers"]: row["original"] for row in rows if "original" in row}


def renamed(module: torch.nn.Module, names: dict[str, str], drop=frozenset()) -> dict[str, torch.Tensor]:
    def name(theirs: str) -> str:
        layer = re.search(r"\bblocks?\.(\d+)\.", theirs)
        if theirs in names or not layer:
            return names[theirs]
        pattern = theirs[: layer.start(1)] + "{i}" + theirs[layer.end(1) :]
        return names[pattern].replace("{i}", layer.group(1))

    return {name(key): value.clone() for key, value in module.state_dict().items() if key not in drop}


@pytest.mark.parametrize("dtype", DTYPES)
def test_both_layouts_are_one_model(source, original, dtype, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for src, dst in zip((source, original), folders):
        convert(str(src), str(dst), dtype=dtype, quiet=True)
    a, b = (checkpoint.read_model(folder) for folder in folders)
    assert a == b
    assert checkpoint.fingerprint(folders[0]) == checkpoint.fingerprint(folders[1])  # equal digests: equal bits


def test_ti2v_in_both_layouts(tmp_path):
    pipe, folder = reference.pipeline(tmp_path, experts=1, kind="ti2v"), tmp_path / "original"
    folder.mkdir()
    save_file(renamed(pipe.transformer, stacked_names("ti2v_5b")), folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(original_config(pipe.transformer, "ti2v")))
    names = {theirs: ours for ours, theirs in json.loads((KEYS / "vae22_names.json").read_text()).items()}
    torch.save(renamed(pipe.vae, names), folder / "Wan2.2_VAE.pth")
    encoder = renamed(pipe.text_encoder, stacked_names("umt5_xxl"), drop={"encoder.embed_tokens.weight"})
    torch.save(encoder, folder / "models_t5_umt5-xxl-enc-bf16.pth")
    shutil.copytree(tmp_path / "model" / "tokenizer", folder / "google" / "umt5-xxl")
    for src, dst in ((tmp_path / "model", "a"), (folder, "b")):
        convert(str(src), str(tmp_path / dst), dtype="float32", quiet=True)
    a, b = (checkpoint.read_model(tmp_path / name) for name in "ab")
    assert a == b and a.vae.spatial_factor == 16 and a.expand_timesteps
    assert checkpoint.fingerprint(tmp_path / "a") == checkpoint.fingerprint(tmp_path / "b")


def test_first_and_last_frame_in_both_layouts(tmp_path):
    """With CLIP: its original file holds queries, keys and values in one tensor, and a text tower."""
    pipe, folder = reference.pipeline(tmp_path, experts=1, kind="flf2v"), tmp_path / "original"
    vae = reference.randomize(diffusers.AutoencoderKLWan(base_dim=4, num_res_blocks=2), 2)  # the real numbering
    vae.save_pretrained(tmp_path / "model" / "vae")
    folder.mkdir()
    save_file(renamed(pipe.transformer, stacked_names("flf2v21_14b")), folder / "diffusion_pytorch_model.safetensors")
    (folder / "config.json").write_text(json.dumps(original_config(pipe.transformer, "flf2v")))
    names = {theirs: ours for ours, theirs in json.loads((KEYS / "vae21_names.json").read_text()).items()}
    torch.save(renamed(vae, names), folder / "Wan2.1_VAE.pth")
    encoder = renamed(pipe.text_encoder, stacked_names("umt5_xxl"), drop={"encoder.embed_tokens.weight"})
    torch.save(encoder, folder / "models_t5_umt5-xxl-enc-bf16.pth")
    shutil.copytree(tmp_path / "model" / "tokenizer", folder / "google" / "umt5-xxl")
    torch.save(original_clip(reference.clip()), folder / "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth")
    for src, dst in ((tmp_path / "model", "a"), (folder, "b")):
        convert(str(src), str(tmp_path / dst), dtype="float32", quiet=True)
    a, b = (checkpoint.read_model(tmp_path / name) for name in "ab")
    heads = a.image_encoder.num_attention_heads  # which no shape tells
    assert a == dataclasses.replace(b, image_encoder=dataclasses.replace(b.image_encoder, num_attention_heads=heads))
    assert a.transformer.pos_embed_seq_len == 10 and a.sampling.flow_shift == 16
    assert checkpoint.fingerprint(tmp_path / "a") == checkpoint.fingerprint(tmp_path / "b")
    export(str(tmp_path / "a"), str(tmp_path / "back"))
    again = diffusers.WanImageToVideoPipeline.from_pretrained(tmp_path / "back")
    tower = reference.clip().vision_model.state_dict()
    assert all(torch.equal(tower[name], value) for name, value in again.image_encoder.state_dict().items())


def original_clip(model: transformers.CLIPVisionModelWithProjection) -> dict[str, torch.Tensor]:
    """As Wan2.1, wan/modules/clip.py, has it."""
    state = {name: value.clone() for name, value in model.state_dict().items()}
    names, out = stacked_names("clip_vit_h14"), {"log_scale": torch.ones(()), "textual.norm.weight": torch.ones(3)}
    for name, value in state.items():
        layer = re.search(r"layers\.(\d+)\.", name)
        pattern = name if layer is None else name.replace(layer[0], "layers.{i}.")
        if pattern not in names:
            continue
        if "q_proj" in name:
            value = torch.cat([state[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
        out[names[pattern].replace("{i}", layer[1] if layer else "")] = value
    out["visual.cls_embedding"], out["visual.pos_embedding"] = (
        out[f"visual.{name}_embedding"].reshape(1, -1, model.config.hidden_size) for name in ("cls", "pos")
    )
    return out


def test_parameters_are_those_of_the_modules(source):
    ours = open_source(str(source))
    pipe = diffusers.WanPipeline.from_pretrained(source)
    from convert.components import components

    for name in ("transformer", "transformer_2", "vae"):
        part = components(ours.config, np.float32)[name]
        want = reference.params_of(getattr(pipe, name), part.rules, part.shapes)
        jax.tree.map(np.testing.assert_array_equal, ours.read(name, np.float32), want)


@pytest.mark.parametrize("torch_dtype", [torch.bfloat16, torch.float16])
def test_other_precisions(source, tmp_path, torch_dtype):
    """Half the transformer's tensors stay in float32, as diffusers saves them."""
    pipe = diffusers.WanPipeline.from_pretrained(source)
    module = pipe.transformer.to(torch_dtype)
    shutil.copytree(source, tmp_path / "half")
    for file in (tmp_path / "half" / "transformer").glob("*safetensors*"):
        file.unlink()
    module.save_pretrained(tmp_path / "half" / "transformer")
    got = open_source(str(tmp_path / "half")).read("transformer", np.float32)
    kernel = module.blocks[1].ffn.net[2].weight.detach().float().numpy().T
    np.testing.assert_array_equal(got["blocks"]["ffn_out"]["kernel"][1], kernel)


def test_export_loads_in_diffusers(source, tmp_path):
    convert(str(source), str(tmp_path / "ours"), dtype="float32", quiet=True)
    export(str(tmp_path / "ours"), str(tmp_path / "back"))
    ours, theirs = (diffusers.WanPipeline.from_pretrained(f) for f in (tmp_path / "back", source))
    for name in ("transformer", "transformer_2", "vae", "text_encoder"):
        a, b = (getattr(pipe, name).state_dict() for pipe in (ours, theirs))
        assert a.keys() == b.keys()
        assert all(torch.equal(a[key], b[key]) for key in a)
    assert ours.config.boundary_ratio == 0.875
    assert ours.scheduler.config.flow_shift == 12.0
    assert ours.tokenizer("hello").input_ids == theirs.tokenizer("hello").input_ids


class Evil:
    def __reduce__(self):
        return print, ("this must not run",)


@pytest.mark.parametrize("damage", ["truncated", "pickled code", "another vae", "missing tensor"])
def test_broken_pth(original, tmp_path, damage, capsys):
    folder = tmp_path / "model"
    shutil.copytree(original, folder)
    path = folder / "Wan2.1_VAE.pth"
    state = torch.load(path, weights_only=True)
    match damage:
        case "truncated":
            path.write_bytes(path.read_bytes()[:-1000])
            words = "not a plain .pth state dict, or damaged"
        case "pickled code":
            torch.save({"conv1.weight": Evil()}, path)
            words = "not a plain .pth state dict, or damaged"
        case "another vae":
            state["encoder.downsamples.0.downsamples.0.residual.0.gamma"] = torch.zeros(3)
            torch.save(state, path)
            words = "residual.2.weight is missing; this is a checkpoint of another model, or incomplete"
        case "missing tensor":
            del state["decoder.conv1.bias"]
            torch.save(state, path)
            words = r"missing decoder\.conv1\.bias"
    with pytest.raises(WanError, match=words):
        convert(str(folder), str(tmp_path / "ours"), quiet=True)
    assert "must not run" not in capsys.readouterr().out


def test_original_layout_from_a_hub(original, tmp_path):
    """Killed once; a `.pth` that was converted and deleted is not fetched again."""
    convert(str(original), str(tmp_path / "local"), quiet=True)
    with serve(original) as (endpoint, requests):
        env = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path / "home")}
        command = ["--src", "owner/model", "--dst", tmp_path / "hub"]
        killed_at(395, *command, **env)  # in the last component, the text encoder
        assert run("-m", "convert", *command, **env) == 0
    assert checkpoint.fingerprint(tmp_path / "hub") == checkpoint.fingerprint(tmp_path / "local")
    assert sum(method == "GET" and path.endswith("Wan2.1_VAE.pth") for method, path, _ in requests) == 1


def test_without_torch(original, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(WanError, match="needs PyTorch; `pip install torch`"):
        convert(str(original), str(tmp_path / "ours"), quiet=True)
