"""Rule table of the umT5 text encoder."""

from convert.rules import LINEAR, VECTOR, Rule
from wan_jax.config import UMT5Config

# A second name under which transformers files may hold the same tensor.
UMT5_ALIASES = {"encoder.embed_tokens.weight": "shared.weight"}


def umt5_rules(config: UMT5Config) -> list[Rule]:
    """Original names: Wan2.2, wan/modules/t5.py.  No rule depends on the size of the model."""
    layer = "encoder.block.{i}.layer"
    attention = f"{layer}.0.SelfAttention"
    ffn = f"{layer}.1.DenseReluDense"
    position = f"{attention}.relative_attention_bias"
    return [
        Rule("token_embedding/embedding", "shared.weight", "token_embedding.weight", VECTOR),
        Rule("blocks/norm_attn/scale", f"{layer}.0.layer_norm.weight", "blocks.{i}.norm1.weight", VECTOR),
        *[
            Rule(f"blocks/attn/{n}/kernel", f"{attention}.{n}.weight", f"blocks.{{i}}.attn.{n}.weight", LINEAR)
            for n in "qkvo"
        ],
        Rule("blocks/attn/position_bias", f"{position}.weight", "blocks.{i}.pos_embedding.embedding.weight", VECTOR),
        Rule("blocks/norm_ffn/scale", f"{layer}.1.layer_norm.weight", "blocks.{i}.norm2.weight", VECTOR),
        Rule("blocks/ffn_gate/kernel", f"{ffn}.wi_0.weight", "blocks.{i}.ffn.gate.0.weight", LINEAR),
        Rule("blocks/ffn_in/kernel", f"{ffn}.wi_1.weight", "blocks.{i}.ffn.fc1.weight", LINEAR),
        Rule("blocks/ffn_out/kernel", f"{ffn}.wo.weight", "blocks.{i}.ffn.fc2.weight", LINEAR),
        Rule("norm_out/scale", "encoder.final_layer_norm.weight", "norm.weight", VECTOR),
    ]
