"""A small Wan-VAE 2.1 from scratch on real clips under free licences: 7 MB in bfloat16, in half an hour on one GPU.

    python -m benchmarks.real_clips.fetch --out clips --clips 1600 --frames 33
    python -m wan_jax data build --src clips world:240 --out data --size 192x192 --frames 33 --validation 26
    python -m wan_jax train --config configs/train_vae_small.py data=data out=runs
    python -m wan_jax eval-vae --src clips --model runs/models/vae_small

The stages of train_vae21.py, for a network and a dataset of a hundredth of the size.  The second shows 17 and 33 frames
rather than 5: so small a network falls apart after the last frame that it was trained on.  A ninth of the clips are of
the little world, in which wan_mini will live.  What came of it is wan_jax/weights/wan_mini/vae.
"""

from dataclasses import replace

from configs import train_vae21, untrained
from wan_jax.config import VAEConfig
from wan_jax.train.config import Optimizer
from wan_jax.train.vae_config import VAETrainConfig

NAME = "vae_small"
_CHANNELS = 16


def get_config() -> tuple[VAETrainConfig, ...]:
    vae = VAEConfig(
        base_dim=24,
        dim_mult=(1, 2, 3, 3),
        num_res_blocks=1,
        latents_mean=(0.0,) * _CHANNELS,  # measured at the end
        latents_std=(1.0,) * _CHANNELS,
    )
    model = replace(untrained.get_config(), name=NAME, vae=vae)
    image, video, gan = (
        replace(run, model=model, save_every=1000, validate_every=500, validation_clips=24, sample_every=3000)
        for run in train_vae21.get_config()
    )
    fast = Optimizer(learning_rate=5e-4, b2=0.99, weight_decay=0.0, warmup_steps=200)
    losses = replace(video.losses, perceptual_frames=4)
    return (
        replace(image, optimizer=fast, steps=500, batch=64, validate_every=0),  # the next begins with that
        replace(
            video, init=NAME, optimizer=fast, losses=losses, windows=((128, 128, 17), (96, 96, 33)), steps=9000, batch=8
        ),
        replace(
            gan,
            init=NAME,
            optimizer=replace(fast, learning_rate=2e-4),
            losses=losses,
            windows=((128, 128, 17), (192, 192, 9), (96, 96, 33)),
            gan=replace(gan.gan, weight=0.2),
            steps=7000,
            batch=8,
        ),
    )
