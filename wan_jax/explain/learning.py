"""One small network that learns a way from noise to data, and is sampled along it.

Several networks are trained side by side, one for each seed, to see how much is luck.  All ways are learned by the same
network, optimiser, batch, number of steps and times.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import optax

from wan_jax.explain.plane import Solver, Way, draw
from wan_jax.typing import Float, Int, Params

_WIDTH, _LAYERS = 64, 3
_BATCH, _RATE = 128, 1e-2
_FIRST_TIME = 1e-3  # no network is asked to tell noise from what has next to none


class Network(nn.Module):
    """What is to be predicted at points [n 2] at times [n]."""

    @nn.compact
    def __call__(self, x: Float["n 2"], time: Float[" n"]) -> Float["n 2"]:
        waves = jnp.concatenate([time[:, None] * jnp.pi * 2.0 ** jnp.arange(-1, 4), 1.5 * x, 3 * x], axis=1)
        h = jnp.concatenate([x, jnp.sin(waves), jnp.cos(waves)], axis=1)
        for _ in range(_LAYERS):
            h = nn.silu(nn.Dense(_WIDTH)(h))
        return nn.Dense(2)(h)


@flax.struct.dataclass
class Pairs:
    """What is learned, for each seed: points of the data, and the noise at the other end of the path of each."""

    clean: Float["s n 2"]
    noise: Float["s n 2"]


@flax.struct.dataclass
class Learner:
    """Networks in training, one for each seed along the leading axis of every array."""

    params: Params
    optimizer: optax.OptState
    key: jax.Array


def _optimizer(total: int) -> optax.GradientTransformation:
    return optax.adam(optax.cosine_decay_schedule(_RATE, total))


@partial(jax.jit, static_argnames=("data", "count"))
def deal(seeds: Int[" s"], *, data: str, count: int) -> Pairs:
    """Points of the data and noise, dealt to each other at random."""

    def one(seed: jax.Array) -> Pairs:
        a, b = jax.random.split(jax.random.fold_in(jax.random.key(seed), 1))
        return Pairs(draw(data, a, count), jax.random.normal(b, (count, 2)))

    return jax.vmap(one)(seeds)


@partial(jax.jit, static_argnames="total")
def begin(seeds: Int[" s"], total: int) -> Learner:
    """Networks with random weights, for a training of `total` steps."""

    def one(seed: jax.Array) -> Learner:
        init, key = jax.random.split(jax.random.key(seed))
        params = Network().init(init, jnp.zeros((1, 2)), jnp.zeros(1))["params"]
        return Learner(params, _optimizer(total).init(params), key)

    return jax.vmap(one)(seeds)


@partial(jax.jit, static_argnames=("way", "steps", "total"))
def train(learner: Learner, pairs: Pairs, *, way: Way, steps: int, total: int) -> tuple[Learner, Float["s n"]]:
    """So many steps more of the `total`, and the loss of each.  The losses of two ways are not to be compared."""

    def loss(params: Params, pairs: Pairs, key: jax.Array) -> jax.Array:
        a, b = jax.random.split(key)
        some = jax.random.randint(a, (_BATCH,), 0, len(pairs.clean))
        clean, noise = pairs.clean[some], pairs.noise[some]
        time = jax.random.uniform(b, (_BATCH,), minval=_FIRST_TIME)
        predicted = Network().apply({"params": params}, way.noised(clean, noise, time[:, None]), time)
        return jnp.mean((predicted - way.target(clean, noise)) ** 2)

    def run(learner: Learner, pairs: Pairs) -> tuple[Learner, jax.Array]:
        def step(learner: Learner, _) -> tuple[Learner, jax.Array]:
            key, now = jax.random.split(learner.key)
            value, gradient = jax.value_and_grad(loss)(learner.params, pairs, now)
            updates, state = _optimizer(total).update(gradient, learner.optimizer)
            return Learner(optax.apply_updates(learner.params, updates), state, key), value

        return jax.lax.scan(step, learner, length=steps)

    return jax.vmap(run)(learner, pairs)


def predict(params: Params, x: Float["n 2"], time: Float[""]) -> Float["n 2"]:
    """What the network of one seed says of points at one time."""
    return Network().apply({"params": params}, x, jnp.full(len(x), time))


def follow(predict: Callable, solver: Solver, noise: Float["n d"], steps: int) -> Float["m n d"]:
    """The way from noise to data: its steps + 1 points, in as many calls of `predict`, a function of (x, time)."""

    def step(x: jax.Array, i: jax.Array) -> tuple[jax.Array, jax.Array]:
        x = _advance(predict, solver, x, i, steps)
        return x, x

    return jnp.concatenate([noise[None], jax.lax.scan(step, noise, jnp.arange(steps))[1]])


def _advance(predict: Callable, solver: Solver, x: Float["n d"], i: Int[""], steps: int) -> Float["n d"]:
    now, then = ((steps - j) / steps for j in (i, i + 1))  # 0 exactly in the end, where 1 − j/steps may be below
    return solver.step(predict(x, now), x, now, then)


@partial(jax.jit, static_argnames=("solver", "steps"))
def ways(params: Params, noise: Float["s n 2"], *, solver: Solver, steps: int) -> Float["s m n 2"]:
    """`follow` with the network of each seed, from noise of its own."""
    return jax.vmap(lambda params, noise: follow(partial(predict, params), solver, noise, steps))(params, noise)


@partial(jax.jit, static_argnames="solver")
def samples(params: Params, noise: Float["s n 2"], steps: int, *, solver: Solver) -> Float["s n 2"]:
    """Where these ways end.  One program for any number of steps."""

    def end(params: Params, noise: Float["n 2"]) -> Float["n 2"]:
        advance = partial(_advance, partial(predict, params), solver, steps=steps)
        return jax.lax.fori_loop(0, steps, lambda i, x: advance(x, i), noise)

    return jax.vmap(end)(params, noise)
