"""Rule table of the diffusion transformer."""

import numpy as np

from convert.rules import LINEAR, VECTOR, Rule, Transform
from wan_jax.config import DiTConfig


def _paired(heads: int) -> Transform:
    """Rotary pairs from interleaved (0, 1), (2, 3), … to first half and second half of each head.

    Queries and keys are permuted alike, so attention does not change, and the rotation needs no strided access
    (wan_jax/models/rope.py).
    """
    return Transform(
        lambda x: x.reshape(heads, -1, 2, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape),
        lambda x: x.reshape(heads, 2, -1, *x.shape[1:]).swapaxes(1, 2).reshape(x.shape),
    )


def _then(first: Transform, second: Transform) -> Transform:
    return Transform(
        lambda x: second.to_jax(first.to_jax(x)),
        lambda x: first.to_torch(second.to_torch(x)),
    )


# [d, c, 1, 2, 2] → [2·2·c, d], the order in which `patchify` lays out a patch.
_PATCH_IN = Transform(
    lambda x: np.moveaxis(x[:, :, 0], 1, -1).reshape(x.shape[0], -1).T,
    lambda x: np.moveaxis(x.T.reshape(x.shape[1], 1, 2, 2, -1), -1, 1),
)
_TABLE = Transform(lambda x: x[0], lambda x: x[None])


def _linear(path: str, diffusers: str, original: str, transform: Transform = LINEAR, bias: Transform = VECTOR):
    return [
        Rule(f"{path}/kernel", f"{diffusers}.weight", f"{original}.weight", transform),
        Rule(f"{path}/bias", f"{diffusers}.bias", f"{original}.bias", bias),
    ]


def _norm(path: str, diffusers: str, original: str) -> list[Rule]:
    return [
        Rule(f"{path}/scale", f"{diffusers}.weight", f"{original}.weight", VECTOR),
        Rule(f"{path}/bias", f"{diffusers}.bias", f"{original}.bias", VECTOR),
    ]


def _attention(ours: str, diffusers: str, original: str, pairs: Transform) -> list[Rule]:
    rules = []
    for name in "qk":
        rules += _linear(f"{ours}/{name}", f"{diffusers}.to_{name}", f"{original}.{name}", _then(pairs, LINEAR), pairs)
        rules.append(
            Rule(
                f"{ours}/norm_{name}/scale", f"{diffusers}.norm_{name}.weight", f"{original}.norm_{name}.weight", pairs
            )
        )
    rules += _linear(f"{ours}/v", f"{diffusers}.to_v", f"{original}.v")
    rules += _linear(f"{ours}/o", f"{diffusers}.to_out.0", f"{original}.o")
    return rules


def _pictures(config: DiTConfig) -> list[Rule]:
    """How CLIP's tokens come in (Wan2.1, wan/modules/model.py)."""
    if config.image_dim is None:
        return []
    ours, diffusers, original = "image_embedding", "condition_embedder.image_embedder", "img_emb.proj"
    attention, theirs, originally = "blocks/image_attn", "blocks.{i}.attn2", "blocks.{i}.cross_attn"
    rules = [
        *_norm(f"{ours}/norm_in", f"{diffusers}.norm1", f"{original}.0"),
        *_linear(f"{ours}/proj_in", f"{diffusers}.ff.net.0.proj", f"{original}.1"),
        *_linear(f"{ours}/proj_out", f"{diffusers}.ff.net.2", f"{original}.3"),
        *_norm(f"{ours}/norm_out", f"{diffusers}.norm2", f"{original}.4"),
        *_linear(f"{attention}/k", f"{theirs}.add_k_proj", f"{originally}.k_img"),
        *_linear(f"{attention}/v", f"{theirs}.add_v_proj", f"{originally}.v_img"),
        Rule(f"{attention}/norm_k/scale", f"{theirs}.norm_added_k.weight", f"{originally}.norm_k_img.weight", VECTOR),
    ]
    if config.pos_embed_seq_len is not None:
        rules.append(Rule(f"{ours}/position", f"{diffusers}.pos_embed", "img_emb.emb_pos", _TABLE))
    return rules


def _blocks(ours: str, theirs: str, pairs: Transform) -> list[Rule]:
    """A stack of transformer blocks.  The two layouts swap the names norm2 and norm3."""
    block = theirs + ".{i}"
    return [
        Rule(f"{ours}/modulation", f"{block}.scale_shift_table", f"{block}.modulation", _TABLE),
        *_attention(f"{ours}/self_attn", f"{block}.attn1", f"{block}.self_attn", pairs),
        *_attention(f"{ours}/cross_attn", f"{block}.attn2", f"{block}.cross_attn", VECTOR),
        *_norm(f"{ours}/norm_cross", f"{block}.norm2", f"{block}.norm3"),
        *_linear(f"{ours}/ffn_in", f"{block}.ffn.net.0.proj", f"{block}.ffn.0"),
        *_linear(f"{ours}/ffn_out", f"{block}.ffn.net.2", f"{block}.ffn.2"),
    ]


def dit_rules(config: DiTConfig) -> list[Rule]:
    """Original names: Wan2.2, wan/modules/model.py; of VACE: VACE, vace/models/wan/modules/model.py."""
    pairs = _paired(config.num_attention_heads)
    rules = [
        *_linear("patch_embedding", "patch_embedding", "patch_embedding", _PATCH_IN),
        *_linear("text_in", "condition_embedder.text_embedder.linear_1", "text_embedding.0"),
        *_linear("text_out", "condition_embedder.text_embedder.linear_2", "text_embedding.2"),
        *_linear("time_in", "condition_embedder.time_embedder.linear_1", "time_embedding.0"),
        *_linear("time_out", "condition_embedder.time_embedder.linear_2", "time_embedding.2"),
        *_linear("time_proj", "condition_embedder.time_proj", "time_projection.1"),
        *_blocks("blocks", "blocks", pairs),
        Rule("head/modulation", "scale_shift_table", "head.modulation", _TABLE),
        *_linear("head/proj", "proj_out", "head.head"),
        *_pictures(config),
    ]
    if config.vace_layers:
        rules += [
            *_linear("vace/patch_embedding", "vace_patch_embedding", "vace_patch_embedding", _PATCH_IN),
            *_linear("vace/before_proj", "vace_blocks.0.proj_in", "vace_blocks.0.before_proj"),
            *_blocks("vace/blocks", "vace_blocks", pairs),
            *_linear("vace/blocks/after_proj", "vace_blocks.{i}.proj_out", "vace_blocks.{i}.after_proj"),
        ]
    return rules
