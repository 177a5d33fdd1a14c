"""Sizes of the original Wan release: its configs omit some, and umT5 and the VAE have no config at all."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from convert.folders import Folder
from convert.tensor_files import TensorInfo
from wan_jax.config import CLIPConfig, DiTConfig, UMT5Config, VAEConfig, get_config
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
    vace = {}
    if "vace_patch_embedding.weight" in header:
        layers = raw.get("vace_layers") or range(0, raw["num_layers"], 2)  # VACE, vace/models/wan/modules/model.py
        channels = _shape(header, "vace_patch_embedding.weight", where)[1]
        vace = {"vace_layers": tuple(layers), "vace_in_channels": channels}
    image_dim = header["img_emb.proj.1.weight"].shape[1] if "img_emb.proj.1.weight" in header else None
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
        **vace,
        image_dim=image_dim,
        added_kv_proj_dim=None if image_dim is None else raw["dim"],
        pos_embed_seq_len=header["img_emb.emb_pos"].shape[1] if "img_emb.emb_pos" in header else None,
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


def clip_config(header: Header, where: str) -> CLIPConfig:
    """From the shapes of CLIP's file (Wan2.1, wan/modules/clip.py); no shape tells the heads, which are 80 wide."""
    hidden, _, patch, _ = _shape(header, "visual.patch_embedding.weight", where)
    side = math.isqrt(_shape(header, "visual.pos_embedding", where)[1] - 1)
    return CLIPConfig(
        hidden_size=hidden,
        intermediate_size=_shape(header, "visual.transformer.0.mlp.0.weight", where)[0],
        num_hidden_layers=len({name.split(".")[2] for name in header if name.startswith("visual.transformer.")}),
        num_attention_heads=max(hidden // 80, 1),
        image_size=side * patch,
        patch_size=patch,
    )


def vae_config(header: Header, where: str) -> VAEConfig:
    """From the shapes of `Wan2.1_VAE.pth` or `Wan2.2_VAE.pth` (Wan2.2, wan/modules/vae2_1.py and vae2_2.py)."""
    base, pixels = _shape(header, "encoder.conv1.weight", where)[:2]
    nested = _nested_levels(header)
    is_residual = bool(nested)
    levels = nested or _flat_levels(header)
    if not all(levels):
        raise WanError(f"{where}: the encoder of this VAE has a level without residual blocks")
    widths = [_shape(header, f"{level[0]}.residual.2.weight", where)[0] for level in levels]
    resamplers = [name for level in levels for name in level if f"{name}.resample.1.weight" in header]
    config = VAEConfig(
        base_dim=base,
        z_dim=_shape(header, "conv2.weight", where)[0],
        dim_mult=tuple(width // base for width in widths),
        num_res_blocks=sum(f"{name}.residual.2.weight" in header for name in levels[0]),
        temporal_downsample=tuple(f"{name}.time_conv.weight" in header for name in resamplers),
    )
    if not is_residual:
        return config
    released = get_config("wan22_ti2v_5b").vae  # no checkpoint has the latents' statistics
    return replace(
        config,
        is_residual=True,
        decoder_base_dim=_shape(header, "decoder.conv1.weight", where)[0] // config.dim_mult[-1],
        patch_size=math.isqrt(pixels // 3),
        in_channels=pixels,
        out_channels=pixels,
        latents_mean=released.latents_mean,
        latents_std=released.latents_std,
    )


def _flat_levels(header: Header) -> list[list[str]]:
    """The modules of each level: its residual blocks and then, but for the last, its downsampler, in one list."""
    levels = [[]]
    for n in range(len({name.split(".")[2] for name in header if name.startswith("encoder.downsamples.")})):
        levels[-1].append(f"encoder.downsamples.{n}")
        if f"encoder.downsamples.{n}.resample.1.weight" in header:
            levels.append([])
    return levels


def _nested_levels(header: Header) -> list[list[str]]:
    """The same where every level has a list of its own; none in 2.1."""
    matches = [re.match(r"encoder\.downsamples\.(\d+)\.downsamples\.(\d+)\.", name) for name in header]
    levels: dict[int, list[str]] = {}
    for level, module in sorted({(int(match[1]), int(match[2])) for match in matches if match}):
        levels.setdefault(level, []).append(f"encoder.downsamples.{level}.downsamples.{module}")
    return list(levels.values())


def _shape(header: Header, name: str, where: str) -> tuple[int, ...]:
    if name not in header:
        raise WanError(f"{where}: the tensor {name} is missing; this is a checkpoint of another model, or incomplete")
    return header[name].shape
