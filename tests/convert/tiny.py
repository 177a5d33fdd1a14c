"""A toy model in the Diffusers layout, and the comparison of two converted ones."""

from functools import cache
from pathlib import Path

import numpy as np

from convert import export
from wan_jax import checkpoint, placeholder
from wan_jax.byte_tokenizer import write_byte_tokenizer
from wan_jax.config import DiTConfig, UMT5Config, VAEConfig, WanConfig, get_config

CONFIG = WanConfig(
    name="custom",
    hub_id=None,
    transformer=DiTConfig(num_layers=3, num_attention_heads=2, attention_head_dim=12, ffn_dim=40, text_dim=32),
    vae=VAEConfig(base_dim=4, num_res_blocks=1),
    text_encoder=UMT5Config(vocab_size=259, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4),
    boundary_ratio=0.875,
    sampling=get_config("wan22_t2v_a14b").sampling,
)


random_params = cache(placeholder.random_params)


def write_model(folder: Path, dtype: str = "float32", config: WanConfig = CONFIG) -> Path:
    """The weights are random, and the same in every call."""
    write_byte_tokenizer(folder.parent / "byte_tokenizer")
    export.export_model(config, random_params(config), folder.parent / "byte_tokenizer", folder, dtype)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a converted model, but for Orbax's notes of when and where it saved."""
    notes = ("_CHECKPOINT_METADATA", "commit_success.txt")
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in notes
    }


def assert_same_model(a: Path, b: Path):
    """File by file and byte by byte; then the arrays, as they load."""
    ours, theirs = contents(a), contents(b)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    for name in checkpoint.components(checkpoint.read_model(a)):
        for path in checkpoint.read_manifest(a / name):
            x, y = (checkpoint.read_array(folder / name, path) for folder in (a, b))
            np.testing.assert_array_equal(x, y)
