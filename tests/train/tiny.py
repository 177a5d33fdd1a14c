"""A dataset of random latents, and a run of a small model on it."""

import dataclasses

import numpy as np
import tensorflow_datasets as tfds
from etils import epath

from wan_jax.config import get_config
from wan_jax.data import shards
from wan_jax.train.config import Optimizer, TrainConfig

MODEL = get_config("untrained")
CLIPS, VALIDATION = 24, 4
SHAPE = (2, 4, 4, MODEL.vae.z_dim)


def write_dataset(folder, shape=SHAPE, text=True, spoilt=None):
    """What `data build` makes of `CLIPS` clips; latents of each are all near one number, which its caption tells.

    The latents of clip number `spoilt` are not finite.
    """
    folder = epath.Path(folder)
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    features = {
        "latents": tfds.features.Tensor(
            shape=(None, None, None, shape[-1]), dtype=np.float16, encoding=tfds.features.Encoding.BYTES
        ),
        "text": tfds.features.Tensor(
            shape=(None, MODEL.text_encoder.d_model), dtype=np.float16, encoding=tfds.features.Encoding.BYTES
        ),
    }
    if not text:
        del features["text"]
    features = shards.all_features(features)

    def examples(part, count):
        for i in range(count):
            level = rng.standard_normal()
            states = np.full((3, MODEL.text_encoder.d_model), level)
            example = {
                "id": f"{part}{i:03}.mp4",
                "caption": f"clip {i}",
                "latents": (level + 0.1 * rng.standard_normal(shape)).astype(np.float16),
            }
            if i == spoilt and part == "train":
                example["latents"][0, 0, 0, 0] = np.inf
            yield example | ({"text": states.astype(np.float16)} if text else {})

    height, width, frames = shape[1] * 8, shape[2] * 8, (shape[0] - 1) * 4 + 1
    splits = {}
    for part, count in ("train", CLIPS), ("validation", VALIDATION):
        split = f"{part}_{width}x{height}x{frames}"
        path = folder / shards.shard_name(split, 0, 1)
        shards.write_shard(path, features, examples(part, count))
        splits[split] = {"width": width, "height": height, "frames": frames, "clips": count}
    sizes = {split: [(entry["clips"], 1)] for split, entry in splits.items()}
    shards.write_metadata(folder, features, sizes)
    if text:
        shards.write_no_text(folder, np.zeros((1, MODEL.text_encoder.d_model), np.float16))
    shards.write_json(
        folder / shards.CONFIG,
        {
            "format": shards.FORMAT,
            "contents": "latents",
            "model": None,
            "text": text,
            "text_len": 512,
            "fps": 16,
            "splits": splits,
        },
    )
    return str(folder)


def run(folder, **options) -> TrainConfig:
    """Twelve steps of the high-noise expert, in float32."""
    base = dict(
        name="high",
        model=dataclasses.replace(MODEL, name="tiny"),
        base="untrained",
        data=str(folder / "data"),
        out=str(folder / "runs"),
        steps=12,
        batch=8,
        dtype="float32",
        ema=0.99,
        optimizer=Optimizer(learning_rate=1e-3, warmup_steps=3, clip_norm=1.0),
        save_every=5,
        validate_every=6,
        log_every=4,
    )
    return TrainConfig(**base | options)
