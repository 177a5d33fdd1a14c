"""One step of training, compiled: the loss, its gradient in parts, and the update."""

from functools import partial

import flax.struct
import jax
import jax.numpy as jnp
import optax

from wan_jax import lora, sharding
from wan_jax.data.units import StoredUnit, units_of
from wan_jax.models.dit import DiT
from wan_jax.models.umt5 import UMT5Encoder
from wan_jax.train.config import TrainConfig
from wan_jax.train.distillation import distillation_loss, guided
from wan_jax.train.objective import drop_captions, flow_matching_loss, predicted_velocity
from wan_jax.train.optimizer import learning_rate, make_optimizer
from wan_jax.train.state import TrainState, advance, all_finite, average, cast, join
from wan_jax.train.timesteps import sample_sigma
from wan_jax.typing import Bool, Float, Int, Params

# umT5 states [b s d], or ids and mask [b s] of the tokens to make them from.
Captions = Float["b s d"] | tuple[Int["b s"], Bool["b s"]]

# Where a clip is learned from: its noise level, or in distillation the number of one of the expert's intervals.
Level = Float["*b"] | Int["*b"]


@flax.struct.dataclass
class Clips:
    """What a network sees of a batch: normalised latents, float32, captions, and units if its model takes any."""

    latents: Float["b f h w c"]
    captions: Captions
    unit: StoredUnit | None = None


@flax.struct.dataclass
class Report:
    """What a step tells.

    Attributes:
        loss: mean over the batch.
        scalars: others to be told: the norm of the whole gradient before it is clipped, the learning rate, …
        finite: of each parameter, in the order of `jax.tree.leaves`, whether its gradient is.
    """

    loss: Float[""]
    scalars: dict[str, Float[""]]
    finite: Bool[" n"]


def lower_step(
    config: TrainConfig, state: TrainState, frozen: Params, clips: Clips, no_caption: Captions
) -> jax.stages.Lowered:
    """`train_step` on the ambient mesh, ready to compile: donates the state, and leaves the new one where it lay.

    Args:
        state, frozen, clips, no_caption: arrays, or shapes with shardings.
    """
    where = jax.tree.map(lambda x: x.sharding, state)
    step = jax.jit(partial(train_step, config=config), donate_argnums=0, out_shardings=(where, None))
    return step.lower(state, frozen, clips, no_caption)


def train_step(
    state: TrainState, frozen: Params, clips: Clips, no_caption: Captions, *, config: TrainConfig
) -> tuple[TrainState, Report]:
    """The state after one more batch.  A gradient that is not finite changes nothing; the report says whose it is.

    Args:
        frozen: the weights that are not trained, {component: …}.
        no_caption: the empty caption, one row.
    """
    keys = jax.random.split(jax.random.fold_in(state.key, state.step), config.accumulate)
    parts = jax.tree.map(partial(_parts, count=config.accumulate), clips)
    loss_and_gradient = jax.value_and_grad(partial(loss, config=config))

    def add(total, part):
        clips, key = part
        return jax.tree.map(jnp.add, total, loss_and_gradient(state.params, frozen, clips, no_caption, key)), None

    if config.accumulate == 1:
        value, gradient = loss_and_gradient(state.params, frozen, clips, no_caption, keys[0])
    else:
        zero = (jnp.float32(0), jax.tree.map(jnp.zeros_like, state.params))
        total, _ = jax.lax.scan(add, zero, (parts, keys))
        value, gradient = jax.tree.map(lambda x: x / config.accumulate, total)

    finite = all_finite(gradient)
    rate = jnp.float32(learning_rate(config.optimizer, config.steps)(state.step))
    updates, opt_state = make_optimizer(config.optimizer, config.steps).update(gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    ema = None if config.ema is None else average(state.ema, params, state.step, config.ema)
    state = advance(
        state,
        finite.all() & jnp.isfinite(value),
        params=params,
        opt_state=opt_state,
        ema=ema,
        samples=state.samples + len(clips.latents),
    )
    return state, Report(value, {"grad_norm": optax.tree.norm(gradient), "learning_rate": rate}, finite)


@partial(jax.jit, static_argnames="config")
def validation_losses(
    params: Params,
    frozen: Params,
    clips: Clips,
    no_caption: Captions,
    level: Level,
    key: jax.Array,
    *,
    config: TrainConfig,
) -> Float[" b"]:
    """The loss of each clip at one level, with noise from `key` alone: the same at every call."""
    networks = _networks(params, frozen, config)
    noise = jax.random.normal(key, clips.latents.shape, jnp.float32)
    levels = jnp.full(len(clips.latents), level)
    text, no_text = _states(networks, clips.captions, config), _states(networks, no_caption, config)
    return _losses(networks, frozen, clips, noise, levels, text, no_text, key, config)


def loss(params: Params, frozen: Params, clips: Clips, no_caption: Captions, key: jax.Array, config: TrainConfig):
    """The mean loss of a batch, with noise, noise levels and dropped captions drawn from `key`."""
    networks = _networks(params, frozen, config)
    count = len(clips.latents)
    noise_key, level_key, drop_key, task_key = jax.random.split(key, 4)
    noise = sharding.constrain_latents(jax.random.normal(noise_key, clips.latents.shape, jnp.float32))
    levels = _draw_levels(level_key, count, config)
    text, no_text = _states(networks, clips.captions, config), _states(networks, no_caption, config)
    text = drop_captions(text, no_text, drop_key, config.caption_dropout)
    return _losses(networks, frozen, clips, noise, levels, text, no_text, task_key, config).mean()


def _draw_levels(key: jax.Array, count: int, config: TrainConfig) -> Level:
    if config.distil is not None:
        return jax.random.randint(key, (count,), 0, len(config.intervals))
    return sample_sigma(config.density, key, count, config.noise_range)


def _networks(params: Params, frozen: Params, config: TrainConfig) -> Params:
    """The weights of every component as the networks compute with them."""
    if config.lora is not None:
        params = lora.scaled(config.lora, params)
    return cast(join(params, frozen), config.dtype)


def _losses(networks, frozen, clips: Clips, noise, levels, text, no_text, key, config: TrainConfig) -> Float[" b"]:
    dit = DiT(config.model.transformer, jnp.dtype(config.dtype), config.remat)

    def predict(networks: Params, *inputs):
        return dit.apply({"params": networks[config.component]}, *inputs)

    conditioning = config.condition(clips.latents, text, key)
    if clips.unit is not None:
        conditioning = conditioning.replace(**units_of(config.model).conditions(clips.unit))
    if config.distil is None:
        return flow_matching_loss(partial(predict, networks), clips.latents, noise, levels, conditioning)
    student = partial(predicted_velocity, partial(predict, networks), conditioning=conditioning)
    scale = config.distil.teacher_scale(config.model, config.component)
    teacher = guided(partial(predict, cast(frozen, config.dtype)), conditioning, no_text, scale)
    return distillation_loss(student, teacher, clips.latents, noise, levels, config.intervals, conditioning)


def _states(networks: Params, captions: Captions, config: TrainConfig) -> Float["b s d"]:
    """The umT5 states of captions."""
    if not isinstance(captions, tuple):
        return captions
    encoder = UMT5Encoder(config.model.text_encoder, jnp.dtype(config.dtype))
    return encoder.apply({"params": networks["text_encoder"]}, *captions)


def _parts(x: jax.Array, count: int) -> jax.Array:
    """[b …] as [count, b / count, …]; every part has rows of every device, so that none moves."""
    return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)
