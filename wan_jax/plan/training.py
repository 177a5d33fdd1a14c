"""A step of training, compiled as the trainer compiles it."""

import dataclasses
import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from wan_jax import sharding
from wan_jax.data.units import StoredUnit, units_of
from wan_jax.models.dit import PATCH
from wan_jax.models.flops import forward_flops
from wan_jax.plan.compiled import Program, compile_program
from wan_jax.train.config import TrainConfig
from wan_jax.train.models import network_shapes, split, trained_shapes, trains_text_encoder
from wan_jax.train.state import TrainState, abstract_state, cast, component_specs
from wan_jax.train.step import Captions, Clips, lower_step
from wan_jax.typing import Params

STEP = "train_step"

# Of the estimate of memory, found by six compilations of a 14B model for v5p and v6e (libtpu 0.0.52), which it meets
# within 5 %: beside its state a weight takes its gradient, a token of the block at work as many times the width, and a
# few layers are whole.
_GRADIENT_BYTES, _TOKEN_BYTES, _LAYER_BYTES = 3, 136, 12


@dataclass(frozen=True)
class TrainJob:
    """A run on a mesh of devices that need not be there.

    Attributes:
        config: the run.
        clip: the latents of a clip, [f h w c].
        mesh: the devices.
        trained: shapes of the trained weights, {component: …}, float32.
        frozen: shapes of the others, in the dtypes that they are computed in.
        encodes: whether captions come as tokens, since umT5 is trained as well.
    """

    config: TrainConfig
    clip: tuple[int, int, int, int]
    mesh: Mesh
    trained: Params
    frozen: Params
    encodes: bool

    @classmethod
    def make(cls, config: TrainConfig, clip: tuple[int, int, int, int], mesh: Mesh) -> "TrainJob":
        encodes = trains_text_encoder(config)
        _, frozen = split(config, network_shapes(config, encodes))
        frozen = jax.eval_shape(partial(cast, dtype=config.dtype), frozen)
        return cls(config, clip, mesh, trained_shapes(config, encodes), frozen, encodes)

    def on(self, mesh: Mesh, **changes) -> "TrainJob":
        """The same run on another mesh, with changes of its config that leave the weights as they are."""
        return dataclasses.replace(self, mesh=mesh, config=dataclasses.replace(self.config, **changes))

    def fitted(self, mesh: Mesh, fills: bool) -> "TrainJob":
        """The same run on another mesh; if it fills the mesh, with a clip in each part for every group of devices."""
        groups = mesh.shape["data"] * mesh.shape["fsdp"]
        return self.on(mesh, batch=groups * self.config.accumulate if fills else self.config.batch)

    def compile(self, name: str = STEP) -> Program:
        """Compiles a step.

        Raises:
            WanError: the compiler fails, for another reason than memory.
        """
        return compile_program(name, self.lower, self.mesh.devices.flat[0].device_kind, STEP)

    def lower(self) -> jax.stages.Lowered:
        state = self._state()  # which runs a little, so outside of the mesh
        batch = self.config.batch
        with jax.set_mesh(self.mesh):
            shape = (batch, *self.clip)
            latents = self._on_mesh(jax.ShapeDtypeStruct(shape, jnp.float32), sharding.latent_spec(shape))
            captions = self._captions(batch, P(sharding.split(batch).batch or None))
            clips = Clips(latents, captions, self._unit(latents) if self.config.needs_units else None)
            return lower_step(self.config, state, self._frozen(), clips, self._captions(1, P()))

    def resident_bytes(self, name: str) -> int:
        """A step has all of the memory."""
        return 0

    def flops(self, name: str) -> float:
        """Useful operations of a step on each device: nothing is counted that is computed a second time."""
        config, shape = self.config, (self.config.batch, *self.clip)
        return config.forward_passes * forward_flops(config.model.transformer, shape) / self.mesh.size

    def estimated_bytes(self) -> float:
        """About what a step needs of each device, without compiling it."""
        config, model = self.config, self.config.model.transformer
        state = self._state()
        gradient = _GRADIENT_BYTES + (4 if config.accumulate > 1 else 0)
        tokens = config.batch / config.accumulate * math.prod(self.clip[:3]) / PATCH**2
        tokens /= self.mesh.size / self.mesh.shape["tensor"]
        layer = sum(x.size for x in jax.tree.leaves((self.trained, self.frozen))) / model.num_layers
        return (
            sharding.bytes_of_each(state)
            + sharding.bytes_of_each(self._frozen())
            + gradient * sharding.bytes_of_each(state.params) / 4
            + tokens * (model.num_layers * self._kept_bytes() + _TOKEN_BYTES * model.dim)
            + _LAYER_BYTES * layer
        )

    def _kept_bytes(self) -> int:
        """What a block keeps of each token for its gradient, at least."""
        c, m = self.config.model.transformer.dim, self.config.model.transformer.ffn_dim
        return {
            "nothing": 4 * c,
            "attention": 6 * c,
            "attention_on_host": 0,
            "products": 20 * c + 2 * m,
            "all": 20 * c + 2 * m,
        }[self.config.remat]

    def _state(self) -> TrainState:
        return abstract_state(self.config, self.trained, self.mesh)

    def _frozen(self) -> Params:
        return jax.tree.map(self._on_mesh, self.frozen, component_specs(self.frozen, self.mesh))

    def _captions(self, batch: int, spec: P) -> Captions:
        shape = batch, self.config.model.transformer.text_len
        if self.encodes:
            ids, mask = (jax.ShapeDtypeStruct(shape, dtype) for dtype in (jnp.int32, jnp.bool))
            return self._on_mesh(ids, spec), self._on_mesh(mask, spec)
        states = (*shape, self.config.model.transformer.text_dim)
        return self._on_mesh(jax.ShapeDtypeStruct(states, jnp.float32), spec)

    def _unit(self, latents: jax.ShapeDtypeStruct) -> StoredUnit:
        widths, dtypes = units_of(self.config.model).widths, (jnp.float32, jnp.uint8)
        shapes = (jax.ShapeDtypeStruct((*latents.shape[:-1], n), dtype) for n, dtype in zip(widths, dtypes))
        return StoredUnit(*(self._on_mesh(x, latents.sharding.spec) for x in shapes))

    def _on_mesh(self, x: jax.ShapeDtypeStruct, spec: P) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(self.mesh, spec))
