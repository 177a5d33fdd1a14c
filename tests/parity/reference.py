"""Small PyTorch models with random weights, and the bridge from them to our parameters."""

import re

import diffusers
import jax
import numpy as np
import torch
import transformers
from flax.traverse_util import unflatten_dict

from convert.rules import Rule, check, flat
from tests.rearrange import to_jax
from wan_jax.byte_tokenizer import VOCAB_SIZE, write_byte_tokenizer
from wan_jax.config import get_config

TINY_DIT = dict(
    num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=32, ffn_dim=40, num_layers=3
)


def randomize(module: torch.nn.Module, seed: int, std: float = 0.2) -> torch.nn.Module:
    """Weights large enough for every path to matter: with the usual initialisation wrong code passes."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            scale = ("norm" in name and name.endswith("weight")) or name.endswith("gamma")
            p.copy_(torch.randn(p.shape, generator=generator) * std + float(scale))
    return module.eval()


def dit(seed: int = 0, std: float = 0.2, **config) -> diffusers.WanTransformer3DModel:
    return randomize(diffusers.WanTransformer3DModel(**TINY_DIT | config), seed, std)


def vace_dit(seed: int = 0, std: float = 0.2, **config) -> diffusers.WanVACETransformer3DModel:
    given = TINY_DIT | dict(vace_layers=[0, 2], vace_in_channels=96) | config
    return randomize(diffusers.WanVACETransformer3DModel(**given), seed, std)


TINY_CLIP = dict(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=3,
    num_attention_heads=2,
    image_size=32,  # of a tiny video, so that no rule of fitting pictures matters
    patch_size=16,
    hidden_act="gelu",
    projection_dim=16,
)


def clip(seed: int = 5, std: float = 0.2, **config) -> transformers.CLIPVisionModelWithProjection:
    return randomize(
        transformers.CLIPVisionModelWithProjection(transformers.CLIPVisionConfig(**TINY_CLIP | config)), seed, std
    )


def unipc(shift: float) -> diffusers.UniPCMultistepScheduler:
    return diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, num_train_timesteps=1000, flow_shift=shift
    )


def params_of(module: torch.nn.Module, rules: list[Rule], abstract: dict, ignored: str = "") -> dict:
    """The module's weights as a tree of ours, through the converter's rule table; all but those of `ignored` names."""
    state = module.state_dict().items()
    tensors = {name: t.numpy(force=True) for name, t in state if not re.fullmatch(ignored, name)}
    check(rules, "diffusers", abstract, {name: t.shape for name, t in tensors.items()}, "module")
    shapes = flat(abstract)
    values = {r.path: to_jax(r, "diffusers", shapes[r.path].shape, np.float32, tensors.__getitem__) for r in rules}
    return jax.tree.map(jax.numpy.asarray, unflatten_dict(values, sep="/"))


TINY_UMT5 = dict(
    vocab_size=VOCAB_SIZE,
    d_model=32,
    d_kv=8,
    d_ff=64,
    num_layers=2,
    num_heads=4,
    feed_forward_proj="gated-gelu",
    dropout_rate=0.0,
)
TINY_VAE = dict(base_dim=8, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1, temperal_downsample=[False, True, True])


# As of TI2V-5B: another autoencoder, and a timestep for every token.
TINY_VAE_22 = TINY_VAE | dict(
    z_dim=48,
    num_res_blocks=2,  # as released, on which the original names depend
    decoder_base_dim=12,
    is_residual=True,
    patch_size=2,
    in_channels=12,
    out_channels=12,
    scale_factor_spatial=16,
    scale_factor_temporal=4,
    latents_mean=list(get_config("wan22_ti2v_5b").vae.latents_mean),
    latents_std=list(get_config("wan22_ti2v_5b").vae.latents_std),
)


_SEEING = dict(in_channels=36, image_dim=TINY_CLIP["hidden_size"], added_kv_proj_dim=24)
KINDS = {  # the transformer's channels, and the class
    "t2v": ({}, diffusers.WanPipeline),
    "v2v": ({}, diffusers.WanVideoToVideoPipeline),
    "ti2v": (dict(in_channels=48, out_channels=48), diffusers.WanPipeline),
    "ti2v, image": (dict(in_channels=48, out_channels=48), diffusers.WanImageToVideoPipeline),
    "i2v": (dict(in_channels=36), diffusers.WanImageToVideoPipeline),
    "vace": ({}, diffusers.WanVACEPipeline),
    "i2v, clip": (_SEEING, diffusers.WanImageToVideoPipeline),
    "flf2v": (_SEEING | dict(pos_embed_seq_len=2 * 5), diffusers.WanImageToVideoPipeline),
}


def pipeline(folder, experts: int = 2, shift: float = 12.0, kind: str = "t2v") -> diffusers.DiffusionPipeline:
    """A whole tiny model, saved to `folder` in the Diffusers layout and loaded back."""
    write_byte_tokenizer(folder / "bytes")
    (channels, cls), ti2v = KINDS[kind], kind.startswith("ti2v")
    denoiser = vace_dit if kind == "vace" else dit
    parts = dict(
        tokenizer=transformers.AutoTokenizer.from_pretrained(folder / "bytes"),
        text_encoder=randomize(transformers.UMT5EncoderModel(transformers.UMT5Config(**TINY_UMT5)), seed=1),
        vae=randomize(diffusers.AutoencoderKLWan(**(TINY_VAE_22 if ti2v else TINY_VAE)), seed=2, std=0.1),
        scheduler=unipc(shift),
        transformer=denoiser(seed=3, **channels),
    )
    if cls is not diffusers.WanVideoToVideoPipeline:  # which has one expert
        parts |= dict(
            transformer_2=denoiser(seed=4, **channels) if experts == 2 else None,
            boundary_ratio=0.875 if experts == 2 else None,
        )
    if cls in (diffusers.WanPipeline, diffusers.WanImageToVideoPipeline):
        parts |= dict(expand_timesteps=ti2v)
    if cls is diffusers.WanImageToVideoPipeline:
        seeing = "image_dim" in channels
        size = {"height": TINY_CLIP["image_size"], "width": TINY_CLIP["image_size"]}
        processor = transformers.CLIPImageProcessor(size={"shortest_edge": TINY_CLIP["image_size"]}, crop_size=size)
        parts |= dict(image_encoder=clip() if seeing else None, image_processor=processor if seeing else None)
    cls(**parts).save_pretrained(folder / "model")
    pipe = cls.from_pretrained(folder / "model")
    pipe.set_progress_bar_config(disable=True)
    return pipe
