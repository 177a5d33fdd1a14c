"""The programs that make a video, compiled as the pipeline runs them."""

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from wan_jax import checkpoint, sharding
from wan_jax.config import ComponentConfig, WanConfig
from wan_jax.diffusion import sampling
from wan_jax.diffusion.guidance import is_guided
from wan_jax.diffusion.solvers import SolverState, make_steps
from wan_jax.models import abstract_params, clip, streaming, umt5
from wan_jax.models.dit import PATCH, Context
from wan_jax.models.space import cache_spec
from wan_jax.models.wan_vae import WanVAE
from wan_jax.pipelines.request import Request
from wan_jax.pipelines.residency import at_work, waiting
from wan_jax.plan.compiled import Program, compile_program
from wan_jax.typing import Params

DTYPE = jnp.dtype(jnp.bfloat16)  # what the pipeline takes for everything on a TPU
_FUNCTIONS = {
    "text_encoder": "encode_prompt",
    "image_encoder": "encode_images",
    "vae_encode": "vae_step",
    "denoise": "denoise",
    "vae_decode": "vae_step",
}

# What a half of the autoencoder leaves alone, of its parameters.
_HALVES = {"vae_encode": ("decoder", "post_quant_conv"), "vae_decode": ("encoder", "quant_conv")}


@dataclass(frozen=True)
class Job:
    """A video to make on a mesh of devices that need not be there.

    A model that can be shown a first frame, or frames to keep and to follow, is; there are no references.

    Attributes:
        config: the model, with quantised transformers if they are to be.
        offload: where its weights wait; see `wan_jax.pipelines.residency`.
    """

    config: WanConfig
    request: Request
    mesh: Mesh
    offload: str | None = None

    def compile(self, name: str) -> Program:
        """Compiles one of `runs`.

        Raises:
            WanError: the compiler fails, for another reason than memory.
        """
        kind = self.mesh.devices.flat[0].device_kind
        return compile_program(name, getattr(self, name), kind, _FUNCTIONS[name])

    @property
    def runs(self) -> dict[str, float]:
        """The programs in their order, and how often each runs for the videos.

        The first latent frame of a clip counts as the others do, which take more.
        """
        request = self.request
        counts = {
            "text_encoder": self.predictions * len(request.prompt),
            "image_encoder": 0 if self.config.image_encoder is None else 1,
            "vae_encode": sum(self._encoded) / self._chunk(max(self._encoded, default=1)),
            "denoise": request.num_inference_steps,
            "vae_decode": self._frames / self._chunk(self._frames),
        }
        return {name: count for name, count in counts.items() if count}

    def text_encoder(self) -> jax.stages.Lowered:
        """One prompt."""
        params, config = self.params("text_encoder"), self.config.text_encoder
        shape = 1, self.config.transformer.text_len
        ids, mask = np.zeros(shape, np.int32), np.zeros(shape, bool)
        with jax.set_mesh(self.mesh):
            return umt5.encode_prompt.lower(params, ids, mask, config=config, dtype=DTYPE)

    def image_encoder(self) -> jax.stages.Lowered:
        """All pictures that the transformer is shown."""
        params, config = self.params("image_encoder"), self.config.image_encoder
        pictures = self._image().shape[1] // config.num_tokens
        pixels = jax.ShapeDtypeStruct((pictures, config.image_size, config.image_size, 3), jnp.float32)
        with jax.set_mesh(self.mesh):
            return clip.encode_images.lower(params, pixels, config=config, dtype=DTYPE)

    def denoise(self) -> jax.stages.Lowered:
        """One step with one expert; both predictions if it is guided."""
        request, static = self.request, {"config": self.config.transformer, "dtype": DTYPE}
        params = self.params(self.config.transformers[0])
        scale = request.guidance_scale if self.predictions > 1 else None
        transformer = self.config.transformer
        texts = (self.predictions * len(request.prompt), transformer.text_len, transformer.text_dim)
        _, steps = make_steps(request.solver, request.num_inference_steps, request.flow_shift, request.sigma_grid)
        with jax.set_mesh(self.mesh):
            encode_text = partial(sampling.encode_text, **static)
            text = jax.eval_shape(encode_text, params, jax.ShapeDtypeStruct(texts, jnp.float32), self._image())
            text = jax.tree.map(lambda x: self._on_mesh(x, sharding.text_spec(x.shape)), text)
            state = SolverState(*4 * [self._latents()])
            return sampling.denoise.lower(params, state, text, steps, 0, 1, scale, **self._conditions(), **static)

    def vae_encode(self) -> jax.stages.Lowered:
        """A chunk after the first frame; that frame where it is all."""
        frames = max(self._encoded)
        length = self._chunk(frames) * self.config.vae.temporal_factor
        return self._vae_step("encode", self._pixels(1), self._pixels(length) if frames > 1 else None)

    def vae_decode(self) -> jax.stages.Lowered:
        """A chunk after the first latent frame."""
        return self._vae_step("decode", self._latents(1), self._latents(self._chunk(self._frames)))

    def _vae_step(
        self, method: str, first: jax.ShapeDtypeStruct, chunk: jax.ShapeDtypeStruct | None
    ) -> jax.stages.Lowered:
        """A chunk that follows the first, or the first."""
        vae, params = WanVAE(self.config.vae, DTYPE), self.params("vae")
        with jax.set_mesh(self.mesh):
            if chunk is None:
                return streaming.vae_step.lower(vae, params, first, None, method)
            _, cache = jax.eval_shape(partial(streaming.vae_step, vae, method=method, cache=None), params, first)
            cache = jax.tree.map(lambda x: self._on_mesh(x, cache_spec(self.mesh)), cache)
            return streaming.vae_step.lower(vae, params, chunk, cache, method)

    def _conditions(self) -> dict[str, Any]:
        """The arguments of a step that make its task, whole on every device, as the autoencoder leaves them."""
        transformer, (_, count, *size, channels) = self.config.transformer, self.request.latent_shape(self.config)

        def whole(frames: int, features: int) -> jax.ShapeDtypeStruct:
            return self._on_mesh(jax.ShapeDtypeStruct((1, frames, *size, features), jnp.float32), PartitionSpec())

        if self.config.takes_context:
            scale = jax.ShapeDtypeStruct((len(transformer.vace_layers),), jnp.float32)
            context = whole(count, transformer.vace_in_channels)
            return {"context": Context(context, self._on_mesh(scale, PartitionSpec()))}
        if self.config.shows_images_as_channels:
            return {"channels": whole(count, transformer.in_channels - channels)}
        return {"clean": whole(1, channels)} if self.config.expand_timesteps else {}

    @property
    def _frames(self) -> int:
        """Latent frames of a video."""
        return self.request.latent_shape(self.config)[1]

    @property
    def _encoded(self) -> list[int]:
        """Latent frames of each clip that is encoded: what is kept and what is followed; a first frame, and grey."""
        if self.config.takes_context:
            return 2 * [self._frames]
        if self.config.shows_images_as_channels:
            return [self._frames]
        return [1] if self.config.expand_timesteps else []

    def _chunk(self, frames: int) -> int:
        """How many latent frames of a clip are encoded or decoded at a time."""
        with jax.set_mesh(self.mesh):
            return streaming.best_chunk(frames, self.request.height, self.request.width)

    @property
    def predictions(self) -> int:
        """Of a video in one step: with and without the prompt if it is guided."""
        return 2 if is_guided(self.request.guidance_scale) else 1

    def params(self, component: str) -> Params:
        """The shapes of a component's parameters and where they are while it works."""
        shapes = _shapes(checkpoint.components(self.config)[component])
        placed = waiting(component, sharding.place(shapes, self.mesh), self.offload)
        return at_work(component, placed, self.offload)

    def weight_bytes(self, component: str) -> int:
        """What a component takes of the memory where it waits: of each device, or for each device of the host's."""
        return sharding.bytes_of_each(self.params(component))

    def resident_bytes(self, name: str) -> int:
        """The weights that stay on a device while program `name` runs beside them."""
        component = {"denoise": self.config.transformers[0]} | dict.fromkeys(_HALVES, "vae")
        own = component.get(name, name)
        idle = sum(self.weight_bytes(part) for part in checkpoint.components(self.config) if part != own)
        other_half = {part: x for part, x in self.params("vae").items() if part in _HALVES.get(name, ())}
        return (0 if self.offload else idle) + sharding.bytes_of_each(other_half)

    @property
    def host_bytes(self) -> int:
        """The weights that wait in host memory, for each device."""
        return sum(map(self.weight_bytes, checkpoint.components(self.config))) if self.offload else 0

    def flops(self, name: str) -> float | None:
        """Useful operations of a program on each device, where they are counted."""
        return self.denoise_flops() if name == "denoise" else None

    def denoise_flops(self) -> float:
        """Useful operations of a step on each device: products of matrices, without any padding."""
        config = self.config.transformer
        n, c, m = self._tokens, config.dim, config.ffn_dim
        linear = 2 * (6 * c * c + 2 * c * m)  # q, k, v, o; q, o of the cross-attention; feed-forward
        cross = 4 * config.text_len * c
        sequences = self.predictions * len(self.request.prompt) * config.num_blocks / self.mesh.size
        return sequences * n * (linear + cross) + 4 * config.attention_head_dim * self.attention_pairs()

    def attention_pairs(self) -> float:
        """Queries times keys of all heads, layers and predictions of a step, on each device."""
        config = self.config.transformer
        sequences = self.predictions * len(self.request.prompt) * config.num_blocks / self.mesh.size
        return sequences * config.num_attention_heads * self._tokens**2

    @property
    def _tokens(self) -> int:
        _, frames, height, width, _ = self.request.latent_shape(self.config)
        return frames * height * width // PATCH**2

    def _image(self) -> jax.ShapeDtypeStruct | None:
        """CLIP's tokens, where the transformer is shown some."""
        encoder, transformer = self.config.image_encoder, self.config.transformer
        if encoder is None:
            return None
        tokens = transformer.pos_embed_seq_len or encoder.num_tokens
        return jax.ShapeDtypeStruct((1, tokens, transformer.image_dim), jnp.float32)

    def _pixels(self, frames: int) -> jax.ShapeDtypeStruct:
        """Of a clip in host memory, which goes where the program wants it."""
        return jax.ShapeDtypeStruct((1, frames, self.request.height, self.request.width, 3), jnp.float32)

    def _latents(self, frames: int | None = None) -> jax.ShapeDtypeStruct:
        batch, all_frames, *rest = self.request.latent_shape(self.config)
        shape = (batch, frames or all_frames, *rest)
        return self._on_mesh(jax.ShapeDtypeStruct(shape, jnp.float32), sharding.latent_spec(shape))

    def _on_mesh(self, x: jax.ShapeDtypeStruct, spec: PartitionSpec) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=NamedSharding(self.mesh, spec))


@cache
def _shapes(config: ComponentConfig) -> Params:
    """Of a component's parameters: to trace an initialisation takes a second, and they are asked for often."""
    return abstract_params(config, DTYPE)
