"""What a training run remembers, and where on the mesh it lives."""

import re

import flax.struct
import jax
import jax.numpy as jnp
import optax
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from wan_jax import sharding
from wan_jax.precision import storage_dtype
from wan_jax.train.config import TrainConfig
from wan_jax.train.optimizer import make_optimizer
from wan_jax.typing import Bool, Float, Int, Params


@flax.struct.dataclass
class TrainState:
    """All that a checkpoint holds.

    Attributes:
        step: optimiser steps done.
        samples: clips seen, over all processes.
        key: the run's random key; that of a step is folded from it.
        params: the weights that are trained, float32: {"transformer": …, "text_encoder": …}.
        opt_state: of optax; the VAE's run keeps other averages here, too.
        ema: their running average, float32; None without one.
    """

    step: Int[""]
    samples: Int[""]
    key: jax.Array
    params: Params
    opt_state: optax.OptState
    ema: Params | None

    @property
    def best(self) -> Params:
        """The weights to validate, sample and export."""
        return self.params if self.ema is None else self.ema


def new_state(config: TrainConfig, params: Params) -> TrainState:
    """The state before the first step, from its trained weights (float32)."""
    return TrainState(
        step=jnp.int32(0),
        samples=jnp.int32(0),
        key=jax.random.key(config.seed),
        params=params,
        opt_state=make_optimizer(config.optimizer, config.steps).init(params),
        ema=None if config.ema is None else jax.tree.map(jnp.copy, params),
    )


def abstract_state(config: TrainConfig, params: Params, mesh: Mesh) -> TrainState:
    """The shapes of a state and where each array lives: moments and average lie as the weights that they belong to.

    Args:
        params: the trained weights, or their shapes.
    """
    shapes = jax.eval_shape(lambda params: new_state(config, params), params)
    specs = component_specs(shapes.params, mesh)
    moments = optax.tree_utils.tree_map_params(
        make_optimizer(config.optimizer, config.steps),
        lambda _, spec: spec,
        shapes.opt_state,
        specs,
        transform_non_params=lambda _: P(),
    )
    everything = TrainState(P(), P(), P(), specs, moments, None if shapes.ema is None else specs)
    return jax.tree.map(
        lambda x, spec: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(mesh, spec)),
        shapes,
        everything,
    )


def advance(state: TrainState, good: Bool[""], **changed) -> TrainState:
    """The state one step later, with other `params`, `opt_state`, `ema` and `samples`; the same one if not `good`."""
    changed["step"] = state.step + 1
    kept = {name: getattr(state, name) for name in changed}
    return state.replace(**jax.tree.map(lambda new, old: jnp.where(good, new, old), changed, kept))


def all_finite(gradient: Params) -> Bool[" n"]:
    """Of each parameter, in the order of `jax.tree.leaves`, whether its gradient is finite."""
    return jnp.stack([jnp.isfinite(x).all() for x in jax.tree.leaves(gradient)])


def average(ema: Params, params: Params, step: Int[""], decay: float) -> Params:
    """The running average; its memory grows with the run up to `decay`, so that the first weights are forgotten."""
    return optax.incremental_update(params, ema, 1 - jnp.minimum(decay, (1 + step) / (10 + step)))


def component_specs(params: Params, mesh: Mesh) -> Params:
    """`sharding.param_specs` of every component."""
    return {name: sharding.param_specs(tree, mesh) for name, tree in params.items()}


def partition(params: Params, pattern: str) -> tuple[Params, Params]:
    """The weights whose "component/path" the regular expression matches in full, and the others."""
    flat = flatten_dict(params, sep="/")
    chosen = {path: x for path, x in flat.items() if re.fullmatch(pattern, path)}
    others = {path: x for path, x in flat.items() if path not in chosen}
    return unflatten_dict(chosen, sep="/"), unflatten_dict(others, sep="/")


def join(*trees: Params) -> Params:
    """Nested dictionaries as one."""
    flat = {}
    for tree in trees:
        flat |= flatten_dict(tree)
    return unflatten_dict(flat)


def cast(params: Params, dtype) -> Params:
    """{component: weights} in the dtypes that `dtype` has them computed in."""

    def convert(path, x: Float["*b"]) -> Float["*b"]:
        return x.astype(storage_dtype("/".join(key.key for key in path[1:]), dtype))

    return jax.tree_util.tree_map_with_path(convert, params)
