"""The training of the autoencoder: frames in, a component of a model folder out."""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from wan_jax import checkpoint, sharding
from wan_jax.cluster import is_leader, wait_for_all
from wan_jax.config import VAEConfig
from wan_jax.data.loader import Dataset, FrameBatch, frame_batches, validation_frames
from wan_jax.errors import WanError
from wan_jax.models import inflation, wan_vae
from wan_jax.perceptual.lpips import load, lpips
from wan_jax.pipelines.autoencoder import from_pixels
from wan_jax.train.models import find_model, finished_model, read_component
from wan_jax.train.state import TrainState
from wan_jax.train.vae_config import VAETrainConfig
from wan_jax.train.vae_step import new_state, reconstruct, train_step, whole
from wan_jax.typing import Float, Params, UInt8

_STATISTICS_CLIPS = 512  # from so many clips come the latents' mean and deviation
_LEAST_STD = 0.05  # of the largest: a channel that says next to nothing is not blown up to unit variance
_SHOWN_CLIPS, _SHOWN_FRAMES = 4, 5


class VAETask:
    """See `wan_jax.train.task.Task`."""

    def __init__(self, config: VAETrainConfig, mesh: Mesh):
        """Raises a WanError if the batch does not divide over the devices, or LPIPS has no weights."""
        if config.batch % mesh.size or any(mesh.shape[axis] > 1 for axis in ("context", "tensor")):
            raise WanError(
                f"{config.name}: every device takes a part of the batch, so batch={config.batch} must divide by the "
                f"{mesh.size} devices, and the mesh have data and fsdp alone"
            )
        self._config, self._mesh = config, mesh
        self._dataset = Dataset(config.data)
        self._perceptual = self._everywhere(load("vgg")) if config.losses.perceptual else {}
        shapes = jax.eval_shape(lambda: new_state(config, self._initial()))
        self.abstract = jax.tree.map(self._placed, shapes)
        held_out = validation_frames(self._dataset, config.validation_clips, batch=config.batch)
        self._validation = list(held_out) if config.validate_every else []

    def begin(self) -> TrainState:
        config = self._config
        where = jax.tree.map(lambda x: x.sharding, self.abstract)
        if config.init is None:
            return jax.jit(lambda: new_state(config, self._initial()), out_shardings=where)()
        params = self._read(config.init)
        params = inflation.image_params(params) if config.image else params
        return jax.jit(partial(new_state, config), out_shardings=where)(params)

    def resume(self):
        """A checkpoint holds everything."""

    def batches(self, start: int) -> Iterator[FrameBatch]:
        config = self._config
        return frame_batches(self._dataset, batch=config.batch, seed=config.seed, start=start, windows=config.windows)

    def size(self, batch: FrameBatch) -> tuple[int, ...]:
        return batch.frames.shape

    def inputs(self, batch: FrameBatch) -> tuple[Params, UInt8["b f h w 3"]]:
        return self._perceptual, batch.frames

    def lower(self, state: TrainState, perceptual: Params, frames: UInt8["b f h w 3"]) -> jax.stages.Lowered:
        where = jax.tree.map(lambda x: x.sharding, state)
        step = jax.jit(partial(train_step, config=self._config), donate_argnums=0, out_shardings=(where, None))
        return step.lower(state, perceptual, frames)

    def flops(self, batch: FrameBatch) -> None:
        """Not counted."""

    def validate(self, state: TrainState) -> dict[str, float]:
        """Of reconstructions from the posterior's mean: the losses, and PSNR in dB."""
        told = [_measure(state.best["vae"], self._perceptual, x.frames, config=self._config) for x in self._validation]
        if not told:
            return {}
        means = {
            name: float(np.mean(np.concatenate([sharding.to_host(each[name]) for each in told]))) for name in told[0]
        }
        return {f"validation/{name}": value for name, value in means.items()}

    def show(self, state: TrainState, folder: epath.Path, step: int):
        """A picture: frames of a few held-out clips, each row above its reconstructions."""
        if not self._validation:
            return
        frames = self._validation[0].frames[:_SHOWN_CLIPS]
        again = _reconstructions(state.best["vae"], frames, config=self._config)
        rows = [row for pair in zip(*map(sharding.to_host, (frames, again))) for row in pair]
        if is_leader():
            _write_picture(folder / f"{step:08}.png", rows)

    def finish(self, state: TrainState, folder: epath.Path) -> str:
        """Writes the component, whose config has the latents' statistics."""
        config = self._config
        params = jax.jit(partial(whole, config=config))(state.best["vae"])
        out = finished_model(config) / "vae"
        if is_leader():
            out.parent.mkdir(parents=True, exist_ok=True)
        wait_for_all("export")
        checkpoint.write_component(out, self._with_statistics(state.best["vae"]), params)
        return str(out.parent)

    def _initial(self) -> Params:
        """Random weights."""
        config = self._config
        params = wan_vae.initial_params(config.model.vae, jax.random.key(config.seed))
        return inflation.image_params(params) if config.image else params

    def _read(self, name: str) -> Params:
        """The autoencoder of an earlier run, which may lack all other components, or of any other model."""
        config = self._config
        earlier = epath.Path(config.out) / "models" / name / "vae"
        if checkpoint.is_component(earlier):
            shapes = jax.tree.map(self._placed, wan_vae.abstract_params(config.model.vae))
            return checkpoint.restore(earlier, shapes)
        return read_component(find_model(name, config), "vae", config.model, "vae", jnp.float32, self._mesh)

    def _with_statistics(self, params: Params) -> VAEConfig:
        """The config under which latents have about zero mean and unit variance in every channel."""
        config = self._config
        count, some = 0, []
        for batch in self.batches(0):
            some.append(sharding.to_host(_moments(params, batch.frames, config=config)))
            count += config.batch
            if count >= _STATISTICS_CLIPS:
                break
        latents = np.concatenate([x.reshape(-1, x.shape[-1]) for x in some]).astype(np.float64)
        std = np.maximum(latents.std(axis=0), _LEAST_STD * latents.std(axis=0).max())
        return replace(config.model.vae, latents_mean=_numbers(latents.mean(axis=0)), latents_std=_numbers(std))

    def _placed(self, x) -> jax.ShapeDtypeStruct:
        """The shape of an array that every device holds."""
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(self._mesh, P()))

    def _everywhere(self, params: Params) -> Params:
        return jax.device_put(params, NamedSharding(self._mesh, P()))


@partial(jax.jit, static_argnames="config")
def _measure(
    params: Params, perceptual: Params, frames: UInt8["b f h w 3"], *, config: VAETrainConfig
) -> dict[str, Float[" b"]]:
    video = from_pixels(frames)
    again = jnp.clip(reconstruct(params, video, None, config)[0], -1.0, 1.0)
    axes = (1, 2, 3, 4)
    told = {"l1": jnp.abs(again - video).mean(axes)}
    told["psnr"] = (-10 * jnp.log10(jnp.square((again - video) / 2).mean((2, 3, 4)) + 1e-10)).mean(1)
    loss = config.losses.l1 * told["l1"]
    if config.losses.perceptual:
        images = (x.reshape(-1, *x.shape[2:]) for x in (again, video))
        told["lpips"] = lpips(perceptual, *images, net="vgg").reshape(video.shape[:2]).mean(1)
        loss += config.losses.perceptual * told["lpips"]
    return told | {"loss": loss}


@partial(jax.jit, static_argnames="config")
def _reconstructions(params: Params, frames: UInt8["b f h w 3"], *, config: VAETrainConfig) -> UInt8["b f h w 3"]:
    again = reconstruct(params, from_pixels(frames), None, config)[0]
    return jnp.round((jnp.clip(again, -1, 1) + 1) * 127.5).astype(jnp.uint8)


@partial(jax.jit, static_argnames="config")
def _moments(params: Params, frames: UInt8["b f h w 3"], *, config: VAETrainConfig) -> Float["b g i j z"]:
    return reconstruct(params, from_pixels(frames), None, config)[1]


def _write_picture(path: epath.Path, rows: Sequence[UInt8["f h w 3"]]):
    """Clips below each other."""
    from PIL import Image  # here: a run without pictures needs no Pillow

    shown = [np.concatenate(list(row[:: max(len(row) // _SHOWN_FRAMES, 1)][:_SHOWN_FRAMES]), axis=1) for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as temporary:  # the folder may be a bucket
        Image.fromarray(np.concatenate(shown)).save(Path(temporary, path.name))
        epath.Path(temporary, path.name).copy(path, overwrite=True)


def _numbers(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)
