"""The training of an expert: latents and captions in, a component of a model folder or a low-rank update out."""

from collections.abc import Iterator
from functools import cached_property

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from wan_jax import __version__, lora_files
from wan_jax.data.loader import Batch, Dataset, batches, validation_clips
from wan_jax.data.units import StoredUnit, units_of
from wan_jax.errors import WanError
from wan_jax.models.flops import forward_flops
from wan_jax.train.config import TrainConfig
from wan_jax.train.models import (
    export,
    find_tokenizer,
    frozen_weights,
    starting_weights,
    trained_shapes,
    trains_text_encoder,
    whole_weights,
    with_lent_vae,
)
from wan_jax.train.samples import make_samples
from wan_jax.train.state import TrainState, abstract_state, new_state
from wan_jax.train.step import Captions, Clips, lower_step
from wan_jax.train.validation import validate
from wan_jax.typing import Params

LORA_FILE = "lora.safetensors"


class ExpertTask:
    """See `wan_jax.train.task.Task`."""

    def __init__(self, config: TrainConfig, mesh: Mesh):
        """Raises a WanError if the data do not fit the model."""
        self._dataset = Dataset(config.data)
        config = with_lent_vae(config)
        self._config, self._mesh = config, mesh
        # umT5 runs in every step if it is trained, or the dataset holds no states.
        self._encodes = not self._dataset.config["text"] or trains_text_encoder(config)
        self._tokenizer = find_tokenizer(config) if self._encodes else None
        self._validation = self._held_out() if config.validate_every else []
        self._frozen: Params = {}
        self.abstract = abstract_state(config, trained_shapes(config, self._encodes), mesh)

    def begin(self) -> TrainState:
        trained, self._frozen = starting_weights(self._config, self._encodes, self._mesh)
        where = jax.tree.map(lambda x: x.sharding, self.abstract)
        return jax.jit(lambda params: new_state(self._config, params), out_shardings=where)(trained)

    def resume(self):
        self._frozen = frozen_weights(self._config, self._encodes, self._mesh)

    def batches(self, start: int) -> Iterator[Batch]:
        options = {"batch": self._config.batch, "seed": self._config.seed, "tokenizer": self._tokenizer}
        return batches(self._dataset, start=start, **options)

    def size(self, batch: Batch) -> tuple[int, ...]:
        return batch.latents.shape

    def inputs(self, batch: Batch) -> tuple[Params, Clips, Captions]:
        return self._frozen, clips_of(batch, self._config), self._no_caption

    def lower(self, state: TrainState, frozen: Params, clips: Clips, no_caption: Captions) -> jax.stages.Lowered:
        return lower_step(self._config, state, frozen, clips, no_caption)

    def flops(self, batch: Batch) -> float:
        return self._config.forward_passes * forward_flops(self._config.model.transformer, batch.latents.shape)

    def validate(self, state: TrainState) -> dict[str, float]:
        if not self._validation:
            return {}
        return validate(state.best, self._frozen, self._validation, self._no_caption, self._config)

    def show(self, state: TrainState, folder: epath.Path, step: int):
        if self._config.sample_prompts:
            make_samples(self._config, self._weights(state), self._mesh, folder, step)

    def finish(self, state: TrainState, folder: epath.Path) -> str:
        config, weights = self._config, self._weights(state)
        source = {"run": config.name, "steps": int(state.step), "clips": int(state.samples), "wan_jax": __version__}
        if config.lora is None:
            return str(export(config, weights, source))
        if config.distil is not None:
            source |= config.distil.sampling
        update, about = state.best[config.component], {name: str(value) for name, value in source.items()}
        lora_files.save(folder / LORA_FILE, update, config.lora, config.model.transformer, about, config.dtype)
        return str(folder / LORA_FILE)

    def _held_out(self) -> list[Clips]:
        config = self._config
        options = {"batch": config.batch // config.accumulate, "tokenizer": self._tokenizer}
        found = validation_clips(self._dataset, config.validation_clips, **options)
        return [clips_of(batch, config) for batch in found]

    @cached_property
    def _no_caption(self) -> Captions:
        if self._tokenizer is None:
            return jnp.asarray(self._dataset.no_text)
        return tuple(map(jnp.asarray, self._tokenizer([""])))

    def _weights(self, state: TrainState) -> Params:
        return whole_weights(self._config, state.best, self._frozen)


def clips_of(batch: Batch, config: TrainConfig) -> Clips:
    """What a step takes of a batch.

    Raises:
        WanError: its latents or units are another model's.
    """
    channels = batch.latents.shape[-1]
    if channels != config.model.vae.z_dim:
        raise WanError(
            f"data={config.data!r} holds latents of {channels} channels, those of {config.model.name} have "
            f"{config.model.vae.z_dim}: build it with this model's autoencoder"
        )
    _check_unit(batch.unit, config)
    return Clips(batch.latents, batch.captions, batch.unit)


def _check_unit(unit: StoredUnit | None, config: TrainConfig):
    model = config.model
    if unit is None:
        if config.needs_units:
            raise WanError(f"data={config.data!r} holds no units, which {model.name} needs: build it with --units all")
    elif not config.needs_units:
        raise WanError(f"data={config.data!r} holds units, which {model.name} does not take: build it without --units")
    elif unit.latents.shape[-1] != units_of(model).widths[0]:
        raise WanError(f"data={config.data!r} holds units of another kind of model: build it with {model.name}")
