"""Training of the autoencoder: its stages one after the other, streamed, on a mesh, and with the discriminator."""

import dataclasses
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorflow_datasets as tfds
from etils import epath
from jax.flatten_util import ravel_pytree

from tests.compare import relative_error
from wan_jax import checkpoint
from wan_jax.config import VAEConfig, get_config
from wan_jax.data import shards
from wan_jax.data.loader import Dataset, frame_batches
from wan_jax.errors import WanError
from wan_jax.models import wan_vae
from wan_jax.pipelines.autoencoder import from_pixels
from wan_jax.sharding import make_mesh
from wan_jax.train import loop, vae_losses
from wan_jax.train.config import Optimizer
from wan_jax.train.journal import read_journal
from wan_jax.train.vae_config import Gan, Losses, VAETrainConfig
from wan_jax.train.vae_step import new_state, reconstruct, train_step

VAE = VAEConfig(
    base_dim=4,
    z_dim=4,
    dim_mult=(1, 2),
    temporal_downsample=(True,),
    num_res_blocks=1,
    latents_mean=(0.0,) * 4,
    latents_std=(1.0,) * 4,
)
MODEL = dataclasses.replace(get_config("untrained"), name="tiny_vae", vae=VAE)


def write_frames(folder, frames=9, side=32, train=8, validation=4):
    """What `data build` makes of clips of a coloured square that moves."""
    folder = epath.Path(folder)
    folder.mkdir(parents=True)
    tensor = tfds.features.Tensor(shape=(None, None, None, 3), dtype=np.uint8, encoding=tfds.features.Encoding.BYTES)
    features = shards.all_features({"frames": tensor})
    rng = np.random.default_rng(0)

    def examples(part, count):
        for i in range(count):
            clip = np.full((frames, side, side, 3), rng.integers(60), np.uint8)
            x, y, colour = *rng.integers(side // 2, size=2), rng.integers(100, 256, 3)
            for t in range(frames):
                clip[t, y : y + 8, (x + t) % side : (x + t) % side + 8] = colour
            yield {"id": f"{part}{i:03}.mp4", "caption": "", "frames": clip}

    splits = {}
    for part, count in ("train", train), ("validation", validation):
        split = f"{part}_{side}x{side}x{frames}"
        shards.write_shard(folder / shards.shard_name(split, 0, 1), features, examples(part, count))
        splits[split] = {"width": side, "height": side, "frames": frames, "clips": count}
    shards.write_metadata(folder, features, {split: [(entry["clips"], 1)] for split, entry in splits.items()})
    config = {"format": shards.FORMAT, "contents": "frames", "model": None, "text": False, "fps": 16, "splits": splits}
    shards.write_json(folder / shards.CONFIG, config)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    write_frames(folder / "data")
    return folder


def run(folder=Path("nowhere"), **options) -> VAETrainConfig:
    base = dict(
        name="vae",
        model=MODEL,
        data=str(folder / "data"),
        out=str(folder / "runs"),
        steps=4,
        batch=4,
        dtype="float32",
        losses=Losses(perceptual=0.0),
        optimizer=Optimizer(learning_rate=1e-3, warmup_steps=2),
        save_every=2,
        validate_every=2,
        log_every=2,
    )
    return VAETrainConfig(**base | options)


def random_weights(seed=0):
    """Of std 0.2, where every path matters."""
    shapes = wan_vae.abstract_params(VAE)
    leaves, tree = jax.tree.flatten(shapes)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(tree, [0.2 * jax.random.normal(key, x.shape) for key, x in zip(keys, leaves)])


def some_frames(count=4, frames=9):
    rng = np.random.default_rng(1)
    return jnp.asarray(rng.integers(256, size=(count, frames, 16, 16, 3)), jnp.uint8)


def error(some, others):
    """‖a − b‖ / ‖b‖ of all parameters at once."""
    some, others = (ravel_pytree(jax.device_get(tree))[0] for tree in (some, others))
    return relative_error(some, others)


def test_stages_follow_one_another(folder, tmp_path):
    out = str(tmp_path / "runs")
    windows = ((16, 16, 1),)
    image = run(folder, name="image", out=out, image=True, windows=windows, steps=30, validate_every=30, ema=None)
    gan = Gan(channels=8, layers=1, start=2)
    last = run(folder, name="gan", out=out, init="tiny_vae", gan=gan, windows=((16, 16, 5),), sample_every=4)
    # Validation clips have nine frames, of which an image autoencoder sees each alone.
    results = [loop.train(config) for config in (image, last)]
    assert all(result.finished for result in results)
    losses = [entry["validation/loss"] for entry in read_journal(tmp_path / "runs/image") if "validation/loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    # A stage starts where the one before ended.
    told = read_journal(tmp_path / "runs/gan")
    assert told[0]["step"] == 0 and told[0]["validation/loss"] == pytest.approx(losses[-1], rel=1e-5)
    assert [entry["train/gan_weight"] > 0 for entry in told if "train/gan_weight" in entry] == [0, 0, 1, 1]
    assert (tmp_path / "runs/gan/samples/00000004.png").exists()
    component = tmp_path / "runs/models/tiny_vae/vae"
    params = checkpoint.restore(component, wan_vae.abstract_params(VAE))
    config = VAEConfig.from_json(checkpoint.read_json(component / "config.json"), "config.json")
    with jax.set_mesh(make_mesh(devices=jax.devices()[:1])):
        batch = next(frame_batches(Dataset(folder / "data"), batch=8, seed=0, windows=((16, 16, 5),)))
    latents, _ = wan_vae.WanVAE(config).apply({"params": params}, from_pixels(batch.frames), method="encode")
    np.testing.assert_allclose(latents.std(axis=(0, 1, 2, 3)), 1, atol=0.05)


def test_chunks_give_the_gradient_of_the_whole_clip():
    params, video = random_weights(), from_pixels(some_frames(count=2, frames=17))
    noise = jax.random.normal(jax.random.key(2), (2, 9, 8, 8, 4))

    def value(params, chunk):
        again, mean, log_variance = reconstruct(params, video, noise, run(frames_per_chunk=chunk))
        kl = vae_losses.kl_loss(video, mean, log_variance, "sum")
        return vae_losses.reconstruction_loss(video, again) + 1e-3 * kl

    # Of nine latent frames one is alone, then come two chunks of three and a shorter one.
    one, other = (jax.jit(jax.value_and_grad(partial(value, chunk=chunk)))(params) for chunk in (None, 3))
    assert float(other[0]) == pytest.approx(float(one[0]), rel=1e-6)
    assert error(one[1], other[1]) <= 2e-5


def test_devices_share_the_batch():
    gan = Gan(channels=8, layers=1, adaptive=True, weight=0.5, regularizer="r1", regularizer_weight=1.0)
    config, frames = run(gan=gan, ema=0.9), some_frames(frames=5)
    state = new_state(config, random_weights())
    step = partial(train_step, config=config)
    alone, told = jax.jit(step)(state, {}, frames)
    with jax.set_mesh(make_mesh(data=4, devices=jax.devices()[:4])):
        shared, also = jax.jit(step)(state, {}, frames)
    assert told.finite.all() and told.scalars["gan_weight"] > 0
    for name, value in told.scalars.items():
        assert float(also.scalars[name]) == pytest.approx(float(value), rel=1e-4), name
    moments = (x.opt_state["vae"][1][0].mu for x in (alone, shared))
    assert error(*moments) <= 1e-4


def test_the_gan_waits_for_convergence():
    config = run(gan=Gan(channels=8, layers=1, start="converged"))
    state, frames = new_state(config, random_weights()), some_frames(frames=1)
    step = jax.jit(partial(train_step, config=config))
    before, told = step(state, {}, frames)
    assert told.scalars["gan_weight"] == 0
    assert error(before.params["discriminator"], state.params["discriminator"]) == 0
    flat = state.replace(step=jnp.int32(2000), opt_state=state.opt_state | {"averages": before.opt_state["averages"]})
    steady, _ = step(flat, {}, frames)  # fast and slow averages are equal: nothing falls any more
    _, told = step(steady, {}, frames)
    assert told.scalars["gan_weight"] > 0


def test_bad_runs_are_refused(folder, tmp_path):
    with pytest.raises(WanError, match="windows"):
        run(folder, windows=((13, 16, 5),)).check()
    with pytest.raises(WanError, match="single frames"):
        run(folder, image=True).check()
    with pytest.raises(WanError, match="does not fit into the clips"):
        loop.train(run(folder, windows=((64, 64, 5),), out=str(tmp_path)))
    with pytest.raises(WanError, match="must divide by the 3 devices"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_mesh", lambda config: make_mesh(data=3, devices=jax.devices()[:3]))
        loop.train(run(folder, out=str(tmp_path)))
