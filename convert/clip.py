"""Rule table of CLIP's vision tower, and what else lies in its files."""

import numpy as np

from convert.rules import LINEAR, VECTOR, Rule, Transform, squeeze
from wan_jax.config import CLIPConfig

# [c, 3, p, p] → [p·p·3, c], the order in which the tower lays out a square of pixels.
_PATCH = Transform(
    lambda x: np.moveaxis(x, 1, -1).reshape(x.shape[0], -1).T,
    lambda x: np.moveaxis(x.T.reshape(x.shape[1], *[round((x.shape[0] // 3) ** 0.5)] * 2, 3), -1, 1),
)
_LEADING = Transform(lambda x: x[0], lambda x: x[None])

# The original file holds queries, keys and values in one tensor, and the text tower; the projections into the space
# that both towers share are not used either.
CLIP_FUSED = {".to_qkv.": (".to_q.", ".to_k.", ".to_v.")}
CLIP_IGNORED = r"textual\..*|log_scale|visual\.head|visual_projection\.weight"


def _both(path: str, diffusers: str, original: str, kernel: Transform | None) -> list[Rule]:
    """Weight and bias of a linear layer, or without `kernel` of a norm."""
    return [
        Rule(
            f"{path}/{'kernel' if kernel else 'scale'}", f"{diffusers}.weight", f"{original}.weight", kernel or VECTOR
        ),
        Rule(f"{path}/bias", f"{diffusers}.bias", f"{original}.bias", VECTOR),
    ]


def clip_rules(config: CLIPConfig) -> list[Rule]:
    """Original names: Wan2.1, wan/modules/clip.py.  No rule depends on the size of the model."""
    theirs, original = "vision_model", "visual"
    layer, block = f"{theirs}.encoder.layers.{{i}}", f"{original}.transformer.{{i}}"
    embeddings = f"{theirs}.embeddings"
    rules = [
        Rule("patch_embedding/kernel", f"{embeddings}.patch_embedding.weight", "visual.patch_embedding.weight", _PATCH),
        Rule(
            "class_embedding",
            f"{embeddings}.class_embedding",
            f"{original}.cls_embedding",
            VECTOR,
            original_transform=squeeze(1, 1, -1),
        ),
        Rule(
            "position",
            f"{embeddings}.position_embedding.weight",
            f"{original}.pos_embedding",
            VECTOR,
            original_transform=_LEADING,
        ),
        *_both("norm_in", f"{theirs}.pre_layrnorm", f"{original}.pre_norm", None),  # spelt so in transformers
        *_both("norm_out", f"{theirs}.post_layernorm", f"{original}.post_norm", None),
        *_both("blocks/norm_attn", f"{layer}.layer_norm1", f"{block}.norm1", None),
        *_both("blocks/norm_ffn", f"{layer}.layer_norm2", f"{block}.norm2", None),
        *_both("blocks/attn/o", f"{layer}.self_attn.out_proj", f"{block}.attn.proj", LINEAR),
        *_both("blocks/ffn_in", f"{layer}.mlp.fc1", f"{block}.mlp.0", LINEAR),
        *_both("blocks/ffn_out", f"{layer}.mlp.fc2", f"{block}.mlp.2", LINEAR),
    ]
    for name in "qkv":
        rules += _both(f"blocks/attn/{name}", f"{layer}.self_attn.{name}_proj", f"{block}.attn.to_{name}", LINEAR)
    return rules


def clip_aliases(config: CLIPConfig) -> dict[str, str]:
    """Names without their first part, as transformers 5 writes the tower alone."""
    names = (name for rule in clip_rules(config) for name in rule.names("diffusers", config.num_hidden_layers))
    return {name.removeprefix("vision_model."): name for name in names}
