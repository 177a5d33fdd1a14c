"""Sizes of the original Wan release: its configs omit some, and umT5 and the VAE have no config at all."""

import re
from collections.abc import Mapping
from typing import Any

from convert.folders import Folder
from convert.tensor_files import TensorInfo
from wan_jax.config import DiTConfig, UMT5Config, VAEConfig
from wan_jax.errors import WanError

Header = Mapping[str, TensorInfo]


def expert_folders(folder: Folder) -> tuple[str, ...]:
    """The prefixes under which the transformers lie, from high to low noise; none if this is another layout."""
    for prefixes in (("high_noise_model/", "low_noise_model/"), ("",)):
        if all(f"{prefix}config.json" in folder.sizes for prefix in prefixes):
            return prefixes
    return ()


def dit_config(raw: Mapping[str, Any], header: Header, where: str) -> DiTConfig:
    """From the `config.json` of a WanModel, which leaves out text_dim (Wan2.2, wan/modules/model.py)."""
    wanted = ("dim", "ffn_dim", "freq_dim", "in_dim", "out_dim", "num_heads", "num_layers", "eps")
    if missing := [key for key in wanted if key not in raw]:
        raise WanError(f"{where}: not the config of a Wan transformer; it lacks {', '.join(missing)}")
    return DiTConfig(
        in_channels=raw["in_dim"],
        out_channels=raw["out_dim"],
        num_layers=raw["num_layers"],
        num_attention_heads=raw["num_heads"],
        attention_head_dim=raw["dim"] // raw["num_heads"],
        ffn_dim=raw["ffn_dim"],
        text_dim=_shape(header, "text_embedding.0.weight", where)[1],
        freq_dim=raw["freq_dim"],
        eps=raw["eps"],
    )


def umt5_config(header: Header, where: str) -> UMT5Config:
    """From the shapes of `models_t5_umt5-xxl-enc-bf16.pth` (Wan2.2, wan/modules/t5.py)."""
    vocab_size, d_model = _shape(header, "token_embedding.weight", where)
    buckets, heads = _shape(header, "blocks.0.pos_embedding.embedding.weight", where)
    return UMT5Config(
        vocab_size=vocab_size,
        d_model=d_model,
        d_kv=_shape(header, "blocks.0.attn.q.weight", where)[0] // heads,
        d_ff=_shape(header, "blocks.0.ffn.fc1.weight", where)[0],
        num_layers=len({name.split(".")[1] for name in header if name.startswith("blocks.")}),
        num_heads=heads,
        relative_attention_num_buckets=buckets,
    )


def vae_config(header: Header, where: str) -> VAEConfig:
    """From the shapes of `Wan2.1_VAE.pth` (Wan2.2, wan/modules/vae2_1.py).

    The encoder is a flat list: for every level its residual blocks and then, but for the last, its downsampler.
    """
    base = _shape(header, "encoder.conv1.weight", where)[0]
    z_dim = _shape(header, "conv2.weight", where)[0]
    if z_dim == 48 or any(re.match(r"encoder\.downsamples\.\d+\.downsamples\.", name) for name in header):
        raise WanError(f"{where}: this is the VAE of Wan2.2-TI2V-5B; only Wan2.1_VAE.pth is supported")
    levels, temporal = [[]], []
    for n in range(len({name.split(".")[2] for name in header if name.startswith("encoder.downsamples.")})):
        if f"encoder.downsamples.{n}.resample.1.weight" in header:
            temporal.append(f"encoder.downsamples.{n}.time_conv.weight" in header)
            levels.append([])
        else:
            levels[-1].append(_shape(header, f"encoder.downsamples.{n}.residual.2.weight", where)[0])
    if not all(levels):
        raise WanError(f"{where}: the encoder of this VAE has a level without residual blocks")
    return VAEConfig(
        base_dim=base,
        z_dim=z_dim,
        dim_mult=tuple(level[0] // base for level in levels),
        num_res_blocks=len(levels[0]),
        temporal_downsample=tuple(temporal),
    )


def _shape(header: Header, name: str, where: str) -> tuple[int, ...]:
    if name not in header:
        raise WanError(f"{where}: the tensor {name} is missing; this is a checkpoint of another model, or incomplete")
    return header[name].shape
