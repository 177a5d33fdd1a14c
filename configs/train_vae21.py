"""Wan-VAE 2.1 from scratch in the three published stages (arXiv:2503.20314 §4.1.2), one after the other.

    python -m wan_jax data build --src clips --out data --size 256x256 --frames 17
    python -m wan_jax train --config configs/train_vae21.py data=data out=runs
    python -m wan_jax eval-vae --src clips --model runs/models/vae21

The first trains an image autoencoder; the second its inflation to video, on 5 frames of 128×128 with L1, KL and LPIPS,
weights 3, 3e-6 and 3; the third adds a GAN, on several sizes and lengths.  All else is not published: batch, steps,
learning rate and average are what others use, and so are the settings of the GAN (wan_jax/train/vae_config.py).

To go on from released weights: `--run gan gan.init=wan21_t2v_14b`.  Longer clips than fit into memory:
frames_per_chunk=1.
"""

from dataclasses import replace

from configs import wan21_t2v_14b
from wan_jax.train.config import Optimizer
from wan_jax.train.vae_config import Gan, VAETrainConfig

NAME = "vae21"


def get_config() -> tuple[VAETrainConfig, ...]:
    image = VAETrainConfig(
        name="image",
        model=replace(wan21_t2v_14b.get_config(), name=NAME),
        image=True,
        windows=((128, 128, 1),),
        steps=100_000,
        batch=128,
        optimizer=Optimizer(learning_rate=1e-4, b2=0.99, weight_decay=0.0, warmup_steps=1000),
        save_every=1000,
        validate_every=5000,
        sample_every=5000,
    )
    video = replace(image, name="video", init=NAME, image=False, windows=((128, 128, 5),), batch=64)
    gan = replace(
        video,
        name="gan",
        windows=((128, 128, 17), (256, 256, 5), (192, 192, 9)),
        steps=50_000,
        batch=32,
        gan=Gan(weight=0.1, adaptive=True),
        optimizer=replace(video.optimizer, learning_rate=5e-5),
    )
    return image, video, gan
