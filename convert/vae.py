"""Rule table of the video autoencoders."""

from convert.rules import VECTOR, Rule, Transform, conv, squeeze
from wan_jax.config import VAEConfig
from wan_jax.models.vae_layers import Level
from wan_jax.models.wan_vae import decoder_levels, encoder_levels


def _pointwise(window_axes: int) -> Transform:
    """[out, in, 1, …] → [in, out]: a convolution over one point is a matrix product."""
    return Transform(
        lambda x: x.reshape(x.shape[:2]).T,
        lambda x: x.T.reshape(*reversed(x.shape), *[1] * window_axes),
    )


def _conv(ours: str, diffusers: str, original: str, kernel: Transform) -> list[Rule]:
    return [
        Rule(f"{ours}/kernel", f"{diffusers}.weight", f"{original}.weight", kernel),
        Rule(f"{ours}/bias", f"{diffusers}.bias", f"{original}.bias", VECTOR),
    ]


def _norm(ours: str, diffusers: str, original: str, window_axes: int) -> Rule:
    return Rule(f"{ours}/scale", f"{diffusers}.gamma", f"{original}.gamma", squeeze(-1, *[1] * window_axes))


def _residual(ours: str, diffusers: str, original: str, shortcut: bool = False) -> list[Rule]:
    rules = [
        _norm(f"{ours}/norm_1", f"{diffusers}.norm1", f"{original}.residual.0", 3),
        *_conv(f"{ours}/conv_1", f"{diffusers}.conv1", f"{original}.residual.2", conv(3)),
        _norm(f"{ours}/norm_2", f"{diffusers}.norm2", f"{original}.residual.3", 3),
        *_conv(f"{ours}/conv_2", f"{diffusers}.conv2", f"{original}.residual.6", conv(3)),
    ]
    if shortcut:
        rules += _conv(f"{ours}/shortcut", f"{diffusers}.conv_shortcut", f"{original}.shortcut", _pointwise(3))
    return rules


def _middle(coder: str) -> list[Rule]:
    ours, diffusers, original = f"{coder}/mid", f"{coder}.mid_block", f"{coder}.middle"
    attention = f"{diffusers}.attentions.0"
    return [
        *_residual(f"{ours}/res_0", f"{diffusers}.resnets.0", f"{original}.0"),
        _norm(f"{ours}/attn/norm", f"{attention}.norm", f"{original}.1.norm", 2),
        *_conv(f"{ours}/attn/qkv", f"{attention}.to_qkv", f"{original}.1.to_qkv", _pointwise(2)),
        *_conv(f"{ours}/attn/out", f"{attention}.proj", f"{original}.1.proj", _pointwise(2)),
        *_residual(f"{ours}/res_1", f"{diffusers}.resnets.1", f"{original}.2"),
    ]


def _resample(ours: str, diffusers: str, original: str, level: Level) -> list[Rule]:
    rules = _conv(f"{ours}/conv", f"{diffusers}.resample.1", f"{original}.resample.1", conv(2))
    if level.temporal:
        rules += _conv(f"{ours}/time_conv", f"{diffusers}.time_conv", f"{original}.time_conv", conv(3))
    return rules


def _ends(coder: str) -> list[Rule]:
    return [
        *_conv(f"{coder}/conv_in", f"{coder}.conv_in", f"{coder}.conv1", conv(3)),
        _norm(f"{coder}/norm_out", f"{coder}.norm_out", f"{coder}.head.0", 3),
        *_conv(f"{coder}/conv_out", f"{coder}.conv_out", f"{coder}.head.2", conv(3)),
    ]


def _encoder(config: VAEConfig) -> list[Rule]:
    """Both layouts number the blocks and resamplers of all levels in one flat list; those of 2.2 level by level."""
    if config.is_residual:
        return _nested(encoder_levels(config), config.num_res_blocks, "encoder", "down") + _around("encoder")
    rules, n = [], 0
    for i, level in enumerate(encoder_levels(config)):
        for j in range(config.num_res_blocks):
            shortcut = j == 0 and level.in_channels != level.channels
            ours = f"encoder/level_{i}/res_{j}"
            rules += _residual(ours, f"encoder.down_blocks.{n}", f"encoder.downsamples.{n}", shortcut)
            n += 1
        if level.resample:
            ours = f"encoder/level_{i}/down"
            rules += _resample(ours, f"encoder.down_blocks.{n}", f"encoder.downsamples.{n}", level)
            n += 1
    return rules + _around("encoder")


def _decoder(config: VAEConfig) -> list[Rule]:
    """Only the original layout is flat here, and nothing in 2.2."""
    if config.is_residual:
        return _nested(decoder_levels(config), config.num_res_blocks + 1, "decoder", "up") + _around("decoder")
    rules, n = [], 0
    for i, level in enumerate(decoder_levels(config)):
        ours, theirs = f"decoder/level_{i}", f"decoder.up_blocks.{i}"
        for j in range(config.num_res_blocks + 1):
            shortcut = j == 0 and level.in_channels != level.channels
            rules += _residual(f"{ours}/res_{j}", f"{theirs}.resnets.{j}", f"decoder.upsamples.{n}", shortcut)
            n += 1
        if level.resample:
            rules += _resample(f"{ours}/up", f"{theirs}.upsamplers.0", f"decoder.upsamples.{n}", level)
            n += 1
    return rules + _around("decoder")


def _nested(levels: list[Level], blocks: int, coder: str, way: str) -> list[Rule]:
    """The levels of a 2.2 coder, each with a list of its own."""
    rules = []
    for i, level in enumerate(levels):
        ours, theirs = f"{coder}/level_{i}", f"{coder}.{way}_blocks.{i}"
        original = f"{coder}.{way}samples.{i}.{way}samples"
        for j in range(blocks):
            shortcut = j == 0 and level.in_channels != level.channels
            rules += _residual(f"{ours}/res_{j}", f"{theirs}.resnets.{j}", f"{original}.{j}", shortcut)
        if level.resample:
            rules += _resample(f"{ours}/{way}", f"{theirs}.{way}sampler", f"{original}.{blocks}", level)
    return rules


def _around(coder: str) -> list[Rule]:
    return _middle(coder) + _ends(coder)


def vae_rules(config: VAEConfig) -> list[Rule]:
    """Original names: Wan2.2, wan/modules/vae2_1.py and vae2_2.py."""
    return [
        *_encoder(config),
        *_conv("quant_conv", "quant_conv", "conv1", _pointwise(3)),
        *_conv("post_quant_conv", "post_quant_conv", "conv2", _pointwise(3)),
        *_decoder(config),
    ]
