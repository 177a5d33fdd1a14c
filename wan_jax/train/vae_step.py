"""One step of the autoencoder's training, compiled: its own losses and the discriminator's, and both updates."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import PartitionSpec as P

from wan_jax import sharding
from wan_jax.models import inflation
from wan_jax.models.discriminator import Discriminator
from wan_jax.models.wan_vae import WanVAE
from wan_jax.perceptual.lpips import lpips
from wan_jax.pipelines.autoencoder import from_pixels
from wan_jax.train import vae_losses
from wan_jax.train.optimizer import learning_rate, make_optimizer
from wan_jax.train.state import TrainState, advance, all_finite, average
from wan_jax.train.step import Report
from wan_jax.train.vae_config import Losses, VAETrainConfig
from wan_jax.typing import Float, Int, Params, UInt8

# The losses have converged when their mean over about 100 steps is no longer 1 % below that over about 1000, which
# says nothing before there were so many.
_FAST, _SLOW, _LEAST_FALL = 0.99, 0.999, 0.01
_WARM_STEPS = 1000
_LECAM_DECAY = 0.99
_DISCRIMINATOR_KEY = 2**31 - 1  # the key of no step

Sample = tuple[Float["b f h w 3"], Float["b g i j z"], Float["b g i j z"]]  # reconstruction, mean, log-variance


@flax.struct.dataclass
class Drawn:
    """What a step draws: the posterior's noise, and the frames of every clip that LPIPS looks at."""

    noise: Float["b g i j z"]
    frames: Int["b k"]


def train_step(
    state: TrainState, perceptual: Params, frames: UInt8["b f h w 3"], *, config: VAETrainConfig
) -> tuple[TrainState, Report]:
    """The state after one more batch: the autoencoder's step, and on its reconstructions the discriminator's.

    A gradient that is not finite changes nothing; the report says whose it is.

    Args:
        state: of `new_state`.
        perceptual: of LPIPS; empty without that loss.
        frames: a batch that divides evenly over the devices.
    """
    video = from_pixels(frames)
    drawn = _draw(jax.random.fold_in(state.key, state.step), video.shape, config)
    averages, mesh = state.opt_state["averages"], sharding.ambient_mesh()
    active = _gan_is_on(state.step, averages, config)
    axes = () if mesh is None else mesh.axis_names
    work = partial(_gradients, config=config, axes=axes)
    if mesh is not None:  # a part of the batch on every device
        specs = (P(), P(), P(), P(), P(axes), P(axes))
        work = jax.shard_map(work, in_specs=specs, out_specs=P(), check_vma=False)
    gradient, value, scalars, logits = work(state.params, perceptual, averages, active, video, drawn)

    params, opt_state = {}, {"averages": _new_averages(averages, state.step, value, logits, active, config)}
    for name, optimizer in optimizers(config).items():
        updates, opt_state[name] = optimizer.update(gradient[name], state.opt_state[name], state.params[name])
        params[name] = optax.apply_updates(state.params[name], updates)
    if config.gan is not None:  # the discriminator rests until its time has come
        params, opt_state = (
            _with(new, old, active) for new, old in ((params, state.params), (opt_state, state.opt_state))
        )
    ema = None if config.ema is None else average(state.ema, {"vae": params["vae"]}, state.step, config.ema)
    finite = all_finite(gradient)
    samples = state.samples + len(frames)
    good = finite.all() & jnp.isfinite(value)
    state = advance(state, good, params=params, opt_state=opt_state, ema=ema, samples=samples)
    rate = jnp.float32(learning_rate(config.optimizer, config.steps)(state.step - good))
    scalars |= {"grad_norm": optax.tree.norm(gradient["vae"]), "learning_rate": rate}
    return state, Report(value, scalars, finite)


def optimizers(config: VAETrainConfig) -> dict[str, optax.GradientTransformation]:
    """That of each network."""
    found = {"vae": make_optimizer(config.optimizer, config.steps)}
    if config.gan is not None:
        found["discriminator"] = make_optimizer(config.gan.optimizer, config.steps)
    return found


def new_state(config: VAETrainConfig, vae: Params) -> TrainState:
    """The state before the first step, from the autoencoder's weights (float32; of an image one, where it is that)."""
    key = jax.random.key(config.seed)
    params = {"vae": vae}
    nothing = jnp.float32(0)
    averages = {"fast": nothing, "slow": nothing, "converged": jnp.bool(False)}
    averages["logits"] = vae_losses.LogitAverages(nothing, nothing)
    if config.gan is not None:
        network = _discriminator(config)
        params["discriminator"] = network.init(
            jax.random.fold_in(key, _DISCRIMINATOR_KEY), jnp.zeros((1, 1, 64, 64, 3))
        )["params"]
    return TrainState(
        step=jnp.int32(0),
        samples=jnp.int32(0),
        key=key,
        params=params,
        opt_state={name: each.init(params[name]) for name, each in optimizers(config).items()} | {"averages": averages},
        ema=None if config.ema is None else {"vae": jax.tree.map(jnp.copy, vae)},
    )


def reconstruct(
    params: Params, video: Float["b f h w 3"], noise: Float["b g i j z"] | None, config: VAETrainConfig
) -> Sample:
    """A clip from a sample of its posterior (its mean where there is no noise), and that posterior.

    Chunk by chunk if the run says so, with equal results: only the feature cache is kept of a chunk for its gradient.
    """
    vae = WanVAE(config.model.vae, jnp.dtype(config.dtype))
    weights = {"params": whole(params, config)}
    factor, length = config.model.vae.temporal_factor, config.frames_per_chunk

    def encode(x, cache):
        return vae.apply(weights, x, cache, method="moments")

    def decode(x, cache):
        return vae.apply(weights, x, cache, method="decode_sample")

    mean, log_variance = _in_chunks(encode, video, length and length * factor)
    deviation = jnp.exp(jnp.clip(log_variance, -30.0, 20.0) / 2)  # the official code's limits
    sample = mean if noise is None else mean + deviation * noise
    return _in_chunks(decode, sample, length), mean, log_variance


def whole(params: Params, config: VAETrainConfig) -> Params:
    """The autoencoder's weights, which of an image one are inflated."""
    return inflation.inflate(params, config.model.vae) if config.image else params


def _gradients(params, perceptual, averages, active, video, drawn, *, config: VAETrainConfig, axes: tuple[str, ...]):
    """Gradients, loss, scalars to tell and averages of logits, of the whole batch from a part of it on each device."""

    def over_batch(tree):
        return jax.lax.pmean(tree, axes) if axes else tree

    sample, pull = jax.vjp(lambda vae: reconstruct(vae, video, drawn.noise, config), params["vae"])
    again, *posterior = sample
    compare = partial(_distance, video=video, perceptual=perceptual, drawn=drawn, losses=config.losses)
    (value, scalars), to_again = jax.value_and_grad(compare, has_aux=True)(again)
    kl, to_posterior = jax.value_and_grad(
        lambda posterior: vae_losses.kl_loss(video, *posterior, config.losses.reduction)
    )(posterior)
    value, scalars = value + config.losses.kl * kl, scalars | {"kl": kl}
    to_posterior = jax.tree.map(lambda x: config.losses.kl * x, to_posterior)
    gradient, logits = {}, averages["logits"]
    if config.gan is not None:
        discriminate = partial(_discriminate, config=config)
        fooling, to_fool = jax.value_and_grad(
            lambda again: vae_losses.generator_loss(discriminate(params["discriminator"], again))
        )(again)
        weight = config.gan.weight * active
        if config.gan.adaptive:
            silent = jax.tree.map(jnp.zeros_like, to_posterior)
            ends = (over_batch(_last_kernel(pull((to, *silent))[0])) for to in (to_again, to_fool))
            weight *= vae_losses.adaptive_weight(*ends)
        to_again = to_again + weight * to_fool
        judge = partial(_judgement, video=video, again=again, averages=logits, config=config)
        (judged, logits), gradient["discriminator"] = jax.value_and_grad(judge, has_aux=True)(params["discriminator"])
        scalars |= {"generator": fooling, "discriminator": judged, "gan_weight": weight}
    (gradient["vae"],) = pull((to_again, *to_posterior))
    return over_batch((gradient, value, scalars, logits))


def _distance(again, *, video, perceptual, drawn: Drawn, losses: Losses):
    """The reconstruction's loss and its parts."""
    l1 = vae_losses.reconstruction_loss(video, again)
    if not losses.perceptual:
        return losses.l1 * l1, {"l1": l1}
    seen = (jnp.take_along_axis(x, drawn.frames[:, :, None, None, None], axis=1) for x in (again, video))
    images = (x.reshape(-1, *x.shape[2:]) for x in seen)
    distance = jax.checkpoint(partial(lpips, net="vgg", dtype=jnp.bfloat16))(perceptual, *images).mean()
    return losses.l1 * l1 + losses.perceptual * distance, {"l1": l1, "lpips": distance}


def _judgement(params, *, video, again, averages, config: VAETrainConfig):
    """The discriminator's loss, and the averages of its logits with these."""
    gan = config.gan
    real, fake = (_discriminate(params, x, config) for x in (video, again))
    loss = vae_losses.discriminator_loss(real, fake)
    if gan.regularizer == "lecam":
        loss += gan.regularizer_weight * vae_losses.lecam_penalty(real, fake, averages)
    elif gan.regularizer == "r1":
        loss += gan.regularizer_weight * vae_losses.r1_penalty(lambda x: _discriminate(params, x, config), video)
    return loss, vae_losses.update_averages(averages, real, fake, _LECAM_DECAY)


def _discriminate(params, video, config: VAETrainConfig):
    return _discriminator(config).apply({"params": params}, video)


def _discriminator(config: VAETrainConfig) -> Discriminator:
    return Discriminator(config.gan.channels, config.gan.layers, jnp.dtype(config.dtype))


def _last_kernel(gradient: Params) -> jax.Array:
    """Of the decoder: what the adaptive weight is measured at.  Compiling drops the rest of this gradient."""
    return gradient["decoder"]["conv_out"]["kernel"]


def _gan_is_on(step, averages, config: VAETrainConfig):
    """1 or 0."""
    if config.gan is None:
        return jnp.float32(0)
    on = averages["converged"] if config.gan.start == "converged" else step >= config.gan.start
    return on.astype(jnp.float32)


def _new_averages(averages, step, value, logits, active, config: VAETrainConfig):
    new = {}
    for name, decay in ("fast", _FAST), ("slow", _SLOW):
        new[name] = jnp.where(step == 0, value, decay * averages[name] + (1 - decay) * value)
    falls = new["fast"] < (1 - _LEAST_FALL) * new["slow"]
    new["converged"] = averages["converged"] | ((step >= _WARM_STEPS) & ~falls)
    new["logits"] = jax.tree.map(lambda new, old: jnp.where(active > 0, new, old), logits, averages["logits"])
    return new


def _with(new: dict, old: dict, active) -> dict:
    """`new`, with the old discriminator unless it is active."""
    kept = jax.tree.map(lambda a, b: jnp.where(active > 0, a, b), new["discriminator"], old["discriminator"])
    return new | {"discriminator": kept}


def _draw(key: jax.Array, shape: tuple[int, ...], config: VAETrainConfig) -> Drawn:
    vae, (b, f, h, w, _) = config.model.vae, shape
    space = vae.spatial_factor
    latents = (b, (f - 1) // vae.temporal_factor + 1, h // space, w // space, vae.z_dim)
    noise_key, frame_key = jax.random.split(key)
    count = min(config.losses.perceptual_frames or f, f)
    order = jax.vmap(lambda key: jax.random.permutation(key, f))(jax.random.split(frame_key, b))
    return Drawn(jax.random.normal(noise_key, latents), jnp.sort(order[:, :count]))


def _in_chunks(step: Callable, x: Float["b f h w c"], length: int | None) -> Any:
    """`step`, (chunk, cache) → (arrays [b f …], cache), over the first frame, then `length` frames at a time."""
    if length is None:
        return step(x, None)[0]
    step = jax.checkpoint(step)
    first, cache = step(x[:, :1], None)
    rest, count = x[:, 1:], (x.shape[1] - 1) // length
    parts = [first]
    if count:
        chunks = rest[:, : count * length].reshape(x.shape[0], count, length, *x.shape[2:]).swapaxes(0, 1)
        cache, made = jax.lax.scan(lambda cache, chunk: step(chunk, cache)[::-1], cache, chunks)
        parts.append(jax.tree.map(lambda y: y.swapaxes(0, 1).reshape(y.shape[1], -1, *y.shape[3:]), made))
    if rest.shape[1] > count * length:
        parts.append(step(rest[:, count * length :], cache)[0])
    return jax.tree.map(lambda *some: jnp.concatenate(some, axis=1), *parts)
