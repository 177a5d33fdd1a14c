"""A small Wan2.2 from scratch on the little world (wan_jax/world): both experts and umT5, in half an hour on one GPU.

    M=runs/models
    python -m wan_jax new --recipe train_wan_mini --vae wan_mini --tokenizer world --out $M/mini_start
    python -m wan_jax data build --src world:40000 --out latents --model $M/mini_start --no-text --validation 64
    python -m wan_jax train --config configs/train_wan_mini.py data=latents
    python -m wan_jax eval-mini --model runs/models/wan_mini_t2v --out report

The first run trains umT5 together with a transformer that knows all noise levels.  Then come the experts, with that
umT5 frozen: the high-noise one from random weights, the low-noise one from the first transformer, as Wan2.2's did from
Wan2.1.  A fifth of the combinations of colour, shape and motion is never trained on; eval-mini asks for those.
`train_wan_mini_vace` goes on from here.
"""

from dataclasses import replace

from wan_jax.config import DiTConfig, Sampling, UMT5Config, VAEConfig, WanConfig
from wan_jax.train.config import Optimizer, TrainConfig
from wan_jax.train.timesteps import Density

START = "mini_start"  # below `out`/models


def _model() -> WanConfig:
    """5.7 MB an expert in bfloat16, and 1 MB for umT5."""
    return WanConfig(
        name="mini_base",
        hub_id=None,
        transformer=DiTConfig(
            num_layers=10,
            num_attention_heads=4,
            attention_head_dim=32,
            ffn_dim=512,
            text_dim=128,
            text_len=64,  # captions have at most 50; the longer, the more of what is attended to is padding
        ),
        vae=VAEConfig(base_dim=24, dim_mult=(1, 2, 3, 3), num_res_blocks=1),  # train_vae_small's
        text_encoder=UMT5Config(vocab_size=224, d_model=128, d_kv=32, d_ff=256, num_layers=3, num_heads=4),
        sampling=Sampling(
            height=128,
            width=128,
            num_frames=33,
            num_inference_steps=20,
            flow_shift=3.0,
            guidance_scale=3.0,
            guidance_scale_2=3.0,
            negative_prompt="",
        ),
    )


def get_config() -> tuple[TrainConfig, ...]:
    model = _model()
    base = TrainConfig(
        name="base",
        model=model,
        base=START,
        trainable="(transformer|text_encoder)/.*",
        data="latents",
        steps=25000,
        batch=64,
        density=Density(kind="uniform", shift=3.0),
        optimizer=Optimizer(learning_rate=1e-3, schedule="cosine", warmup_steps=300, b2=0.99, weight_decay=1e-2),
        ema=0.998,
        remat="all",
        log_every=100,
        save_every=2000,
        validate_every=1000,
        validation_clips=64,
        keep=1,
    )
    expert = replace(
        base,
        model=replace(model, name="wan_mini_t2v", boundary_ratio=0.875),
        base="mini_base",
        trainable="transformer(_2)?/.*",
    )
    fine = replace(base.optimizer, learning_rate=4e-4)
    return (
        base,
        replace(expert, name="high", component="transformer", steps=17000),
        replace(expert, name="low", component="transformer_2", init="mini_base", steps=17000, optimizer=fine, seed=1),
    )
