"""`WanPipeline`: prompts in, videos out."""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

import wan_jax
from wan_jax import executables, lora, lora_files, sharding
from wan_jax.cache import enable_compilation_cache
from wan_jax.checkpoint import components, digest
from wan_jax.conditioning import Conditioning
from wan_jax.diffusion import sampling
from wan_jax.diffusion.flow import interpolate
from wan_jax.diffusion.guidance import is_guided, prompt_batch
from wan_jax.diffusion.inputs import impose
from wan_jax.diffusion.solvers import SolverState, Steps, make_steps
from wan_jax.diffusion.step_cache import StepCache, begin_cache
from wan_jax.errors import WanError
from wan_jax.experts import Segment, segments
from wan_jax.frames import Frames
from wan_jax.models import clip, streaming
from wan_jax.models.umt5 import encode_prompt
from wan_jax.models.wan_vae import WanVAE
from wan_jax.pipelines import presets, tasks
from wan_jax.pipelines.device import warn_of_idle_tpu
from wan_jax.pipelines.given import Given
from wan_jax.pipelines.loading import Model, check_host_memory, component_bytes, open_model, read_config
from wan_jax.pipelines.request import Request
from wan_jax.pipelines.residency import Weights, quantized
from wan_jax.pipelines.startup import StartUp
from wan_jax.precision import default_vae_dtype, parse_dtype
from wan_jax.typing import Float, Params, UInt8
from wan_jax.vcu import encoding_grey_once


@dataclass
class WanPipelineOutput:
    """The result of a call.

    `frames` is float32 [b f h w c] in [0, 1], or the latents [b c f h w].  `settings` says for each video how it was
    made, in JSON types: `export_to_video(out.frames[0], path, metadata=out.settings[0])` stores it in the file.
    `computed_steps` are those that no step cache could skip.
    """

    frames: Frames | np.ndarray
    settings: list[dict[str, Any]]
    computed_steps: int


class WanPipeline:
    """A Wan model, ready to generate.  Make one with `from_pretrained`."""

    def __init__(
        self,
        model: Model,
        dtype,
        vae_dtype,
        mesh: Mesh,
        startup: StartUp,
        quantization: str | None = None,
        offload: str | None = None,
    ):
        self.config = quantized(model.config, quantization)
        dtypes = dict.fromkeys(components(self.config), dtype) | {"vae": vae_dtype}
        self.weights = Weights(model, self.config, dtypes, mesh, offload)
        self.tokenizer = model.tokenizer()
        self.dtype = jnp.dtype(dtype)
        self.vae = WanVAE(self.config.vae, jnp.dtype(vae_dtype))
        self.mesh = mesh
        self._model = model
        self._startup = startup
        self._progress_bar = {"disable": False}
        self._encode = encoding_grey_once(self._encode_clip)
        self.preset: str | None = None  # by which it was loaded
        self._updates: list[str] = []  # digests of what was added to the weights

    @classmethod
    def from_pretrained(
        cls,
        model: str | os.PathLike,
        *,
        dtype: Any = "bfloat16",
        torch_dtype: Any = None,
        vae_dtype: Any = None,
        mesh: Mesh | str | None = None,
        preset: str | None = None,
        quantization: str | None = None,
        offload: str | None = None,
        cache_dir: str | None = None,
        verify: bool = False,
    ) -> "WanPipeline":
        """Loads a model from a folder or the Hugging Face hub.

        Args:
            model: a folder in our layout, the Diffusers layout or the original Wan layout; a hub id of the latter two;
                or a name from `configs/`.  PyTorch weights are converted on the way in, a whole expert at a time: large
                models are better converted once, with `python -m convert`.
            dtype: of the transformers and the text encoder; norms, modulation, time path and head stay in float32.
            torch_dtype: the same, under the name that Diffusers scripts use.
            vae_dtype: of the VAE; None is float32, and bfloat16 on TPU, where float32 costs six passes.
            mesh: the devices to share the work, from `wan_jax.make_mesh` or as "data=2,context=4" (see
                `wan_jax.sharding`); None takes all accelerators.  For several hosts, call
                `jax.distributed.initialize()` first.
            preset: chooses the next two for the memory of a device, and more: "auto", "colab-v5e", "colab-v6e",
                "quality" or "lightning" (see `wan_jax.pipelines.presets`).
            quantization: of the transformers' matrices: "int8" or "fp8" halves their memory; "int8_w8a8" and "fp8_w8a8"
                multiply in eight bits as well, which is faster and less exact (see `wan_jax.quantization`).  None: as
                the model is stored.  To quantise while loading takes the host's memory for the whole model; large ones
                are better stored so, with `python -m convert --quantize int8`.
            offload: where weights wait: None is on the device; "model": in host memory, but for the component that
                works; "blocks": of a transformer too only a block or two are on the device (see
                `wan_jax.pipelines.residency`).
            cache_dir: keep the converted checkpoint here and load it from here the next time.  Models from the hub are
                always kept, by default in `~/.cache/wan_jax`.
            verify: recompute the checkpoint's SHA-256 digests first.

        The weights are read in the background, in the order of their use; a damaged one raises when it is needed.

        Raises:
            WanError: there is no such model, its files are incomplete or of another kind, or disk or memory of the host
                do not suffice for it.
        """
        startup = StartUp()
        warn_of_idle_tpu()
        enable_compilation_cache()
        dtype = parse_dtype(dtype if torch_dtype is None else torch_dtype)
        choice = presets.find(preset or "auto")
        vae_dtype = parse_dtype(vae_dtype or ("float32" if choice.exact else default_vae_dtype()))
        config = read_config(os.fspath(model))  # a large model is fetched only if it can be held
        if preset is not None:
            arranged = presets.arrange(choice, config, dtype, vae_dtype, presets.memory_bytes(choice))
            quantization, offload = quantization or arranged.quantization, offload or arranged.offload
        sizes = component_bytes(quantized(config, quantization), dtype, vae_dtype).values()
        check_host_memory(config.name, sizes, offload)
        found = open_model(os.fspath(model), dtype, cache_dir)
        mesh = sharding.as_mesh(mesh, weight_bytes=sum(sizes) if offload is None else max(sizes))
        if verify:
            found.verify()
        pipe = cls(found, dtype, vae_dtype, mesh, startup, quantization, offload)
        pipe.preset = preset
        pipe.config = presets.sampled(choice, pipe.config)
        for component, path in presets.adapters(choice, pipe.config).items():
            pipe.load_lora_weights(path, component)
        return pipe

    @property
    def fingerprint(self) -> str:
        """Twelve hex digits that change when any weight does."""
        self.weights.wait()  # PyTorch files tell only when they are read
        found = self._model.fingerprint()
        return hashlib.sha256("".join([found, *self._updates]).encode()).hexdigest()[:12] if self._updates else found

    @property
    def arrangement(self) -> presets.Arrangement:
        """How the weights are kept."""
        return presets.Arrangement(quantization=self.config.transformer.quantization, offload=self.weights.how)

    @property
    def first_step_s(self) -> float | None:
        """Seconds from the start of `from_pretrained` to that of the first denoising step; None before it."""
        return self._startup.first_step_s

    def __call__(
        self,
        prompt: str | list[str],
        negative_prompt: str | list[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        guidance_scale_2: float | None = None,
        seed: int = 0,
        latents: Float["b c f h w"] | None = None,
        image: Any = None,
        last_image: Any = None,
        video: Any = None,
        mask: Any = None,
        reference_images: Any = None,
        conditioning_scale: float | Sequence[float] = 1.0,
        strength: float | None = None,
        solver: str | None = None,
        flow_shift: float | None = None,
        sigma_grid: str = "wan",
        quality: float = 1.0,
        step_cache: str = "magnitude",
        callback_on_step_end: Callable | None = None,
        output_type: str = "np",
    ) -> WanPipelineOutput:
        """Generates one video per prompt.  `None` stands for the model's own value (`pipe.config.sampling`).

        Args:
            prompt: what to show, in English or Chinese; a list makes a batch.
            negative_prompt: what to avoid, for all prompts or one each; None is Wan's own.
            height: in pixels, a multiple of 16.
            width: likewise.
            num_frames: 4n + 1.
            num_inference_steps: of the solver; 20 to 50 is usual.
            guidance_scale: classifier-free guidance of the high-noise expert, and of the low-noise one if
                `guidance_scale_2` is not given; 1 or less switches it off and halves the work.
            guidance_scale_2: that of the low-noise expert.
            seed: of the first video's noise; the following videos of a batch use seed + 1, seed + 2, …
            latents: the starting noise [b c f h w], instead of a seed.
            image: the first frame, for models that take one: a file, a PIL image or an array [h w 3].  Where height and
                width are not given, they follow its shape, at the area of the model's own size.
            last_image: the last frame, for models that take one.
            video: for a text-to-video model, what to start from; for a VACE model, what is kept or followed, frame by
                frame.  A file, which is read at the model's rate, a list of pictures, or an array [f h w 3] of uint8 or
                of floats in [0, 1].  The size and number of frames follow it where they are not given.
            mask: for VACE models: which part of `video` is generated (white, 1) and which is kept (black, 0): likewise,
                or [f h w], or a single picture; None: all is generated, and follows `video`.
            reference_images: for VACE models: up to three pictures that the video is to resemble.
            conditioning_scale: how strongly all of these tell, for all context blocks or one each.
            strength: how much of a video that is started from changes, up to 1: the last strength · num_inference_steps
                steps are made, from the video noised to where they start; None is 0.8.  `latents` is still the noise.
            solver: "unipc", "dpm++" or "euler".
            flow_shift: how far the steps lean towards high noise.
            sigma_grid: "wan", or "diffusers" for the noise levels of Diffusers' scheduler.
            quality: 1 computes every step.  Below, steps are skipped where what the network would predict can be
                extrapolated with a relative error of about 1 − quality; 0.9 is a good compromise.
            step_cache: what is skipped, and how the error is told: "magnitude", "first_block" or "guidance"; see
                `wan_jax.diffusion.step_cache`.
            callback_on_step_end: called as f(pipe, step, timestep, {"latents": [b c f h w], "denoised": …}) after every
                step, with what the step took the clean latents to be; may return a dict with other latents to go on
                from.  `wan_jax.pipelines.preview.Preview` is one.
            output_type: "np" for frames, "latent" for the final latents.

        Raises:
            WanError: a value is impossible, or meant for another kind of model; or a device runs out of memory.
        """
        given = tasks.read(
            self.config,
            image=image,
            last_image=last_image,
            video=video,
            mask=mask,
            reference_images=reference_images,
            conditioning_scale=conditioning_scale,
            strength=strength,
            num_frames=num_frames,
        )
        if output_type not in ("np", "latent"):
            raise WanError(f"output_type={output_type!r} is unknown; use 'np' or 'latent'")
        request = Request.make(
            self.config,
            prompt,
            negative_prompt,
            **given.fields(self.config, height, width, num_frames),
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            guidance_scale_2=guidance_scale_2,
            seed=seed,
            solver=solver,
            flow_shift=flow_shift,
            sigma_grid=sigma_grid,
            quality=quality,
            step_cache=step_cache,
        )
        with jax.set_mesh(self.mesh), self.weights.explained("transformer", request.size, len(request.prompt)):
            noise = self._noise(request.latent_shape(self.config, given.lead), request.seed, latents)
            start = given.start(request.size, self._encode)
            conditioning = self._conditioning(request, given)
            result, computed = self._denoise(request, noise, start, conditioning, callback_on_step_end)
            if output_type == "latent":
                frames = sharding.to_host(_swap_channels(result))
            else:
                frames = self.decode(result[:, given.lead :])
        return WanPipelineOutput(frames, self.settings(request, given, latents is not None), computed)

    def load_lora_weights(self, path: str | os.PathLike, component: str = "transformer", strength: float = 1.0):
        """Adds a low-rank update to the weights of an expert; several files may follow each other.

        Args:
            path: safetensors of our trainer, Diffusers, PEFT, kohya's trainers, ComfyUI, LightX2V or DiffSynth.
            component: "transformer" (high noise, or the only expert) or "transformer_2" (low noise).
            strength: factor of the update.

        Raises:
            WanError: there is no such expert or file, or the update is one for another model.
        """
        if component not in self.config.transformers:
            raise WanError(f"component={component!r}: {self.config.name} has {' and '.join(self.config.transformers)}")
        update = lora_files.load(path, self.config.transformer, strength)
        kind = self.config.transformer.quantization
        self.weights.change(component, partial(lora.fuse_in_place, update=update, kind=kind))
        self._updates += [component, *map(digest, jax.tree.leaves(update))]

    def unload_lora_weights(self):
        """Takes all updates away: the weights are read again, so they are what they were to the bit."""
        self.weights.restore(*(name for name in self.config.transformers if name in self._updates))
        self._updates.clear()

    def encode_prompts(self, prompts: list[str]) -> Float["b s d"]:
        """umT5 states of 512 tokens each, zero after the end of the text."""
        ids, mask = self.tokenizer(prompts)
        static = {"config": self.config.text_encoder, "dtype": self.dtype}
        encode = partial(executables.call, encode_prompt, static, params=self._params("text_encoder"))
        with jax.set_mesh(self.mesh), self.weights.explained("text_encoder"):
            # One text at a time, so that every batch size runs the same program, and equal texts are encoded once.
            states = {text: encode(ids=ids[i : i + 1], mask=mask[i : i + 1]) for i, text in enumerate(prompts)}
            return jnp.concatenate([states[text] for text in prompts])

    def decode(self, latents: Float["b f h w c"]) -> Frames:
        """Latents to frames in [0, 1], a chunk at a time."""
        _, count, rows, columns, _ = latents.shape
        factor = self.config.vae.spatial_factor
        size = count, rows * factor, columns * factor
        with jax.set_mesh(self.mesh), self.weights.explained("vae", size, len(latents)):
            chunk = streaming.best_chunk(*size)
            chunks = streaming.decode_chunks(self.vae, self.weights["vae"], latents, chunk)
            frames = [sharding.to_host(_to_unit_range(chunk)) for chunk in chunks]
        return Frames(np.concatenate(frames, axis=1), self.config.sampling.fps)

    def to(self, *_, **__) -> "WanPipeline":
        """Does nothing: JAX has placed the weights already.  For Diffusers scripts."""
        return self

    def enable_model_cpu_offload(self, *_, **__):
        """Has all weights wait in host memory, but for the component that works: two experts take the memory of one."""
        self.weights.offload("model")

    def enable_sequential_cpu_offload(self, *_, **__):
        """Has the transformers' blocks wait in host memory as well, each until it works, for large models."""
        self.weights.offload("blocks")

    def set_progress_bar_config(self, **kwargs):
        """Arguments for tqdm.  `disable=True` also lets each expert's steps run as one program without pause."""
        self._progress_bar |= kwargs

    def _noise(self, shape: tuple[int, ...], seed: int, latents: Float["b c f h w"] | None) -> Float["b f h w c"]:
        if latents is None:
            return gaussian_noise(shape, seed)
        expected = (shape[0], shape[-1], *shape[1:-1])
        if tuple(latents.shape) != expected:
            raise WanError(f"latents have shape {list(latents.shape)}, expected {list(expected)}")
        # A copy: the solver's state is donated, and the caller may want to use the noise again.
        return jnp.array(np.moveaxis(np.asarray(latents, np.float32), 1, -1))

    def _conditioning(self, request: Request, given: Given) -> Conditioning:
        text = self.encode_prompts(request.prompt)
        guided = any(map(is_guided, request.guidance_scales))
        negative = self.encode_prompts(request.negative_prompt) if guided else None
        return Conditioning(text, negative, **given.conditions(self.config, request.size, self._encode, self._see))

    def _see(self, images: list[UInt8["h w 3"]]) -> Float["1 i d"]:
        """CLIP's tokens of pictures, one after the other."""
        config = self.config.image_encoder
        static = {"config": config, "dtype": self.dtype}
        pixels = np.stack([clip.preprocess(x, config.image_size) for x in images])
        tokens = executables.call(clip.encode_images, static, params=self._params("image_encoder"), pixels=pixels)
        return tokens.reshape(1, -1, tokens.shape[-1])

    def _encode_clip(self, pieces: Iterable[Float["b f h w 3"]], frames: int, height: int, width: int) -> jax.Array:
        """The latents of a clip of so many frames, in pieces of any length."""
        with self.weights.explained("vae", (frames, height, width)):
            return streaming.encode_pieces(self.vae, self.weights["vae"], pieces, frames, height, width)

    def _denoise(
        self,
        request: Request,
        noise: Float["b f h w c"],
        start: Float["1 f h w c"] | None,
        conditioning: Conditioning,
        callback: Callable | None,
    ) -> tuple[Float["b f h w c"], int]:
        """The final latents, and how many steps were computed."""
        schedule, steps = make_steps(
            request.solver,
            request.num_inference_steps,
            request.flow_shift,
            request.sigma_grid,
            request.strength or 1.0,
        )
        state = _begin(noise, conditioning.clean, start, schedule.sigmas[0])
        watched = callback is not None or not self._progress_bar["disable"]
        computed = 0
        with tqdm(total=len(schedule), unit="step", **self._progress_bar) as bar:
            for segment in segments(schedule.timesteps, self.config.boundary_ratio):
                bar.set_description(self._expert_name(segment))
                advance, cache = self._expert(request, segment, conditioning, steps, state)
                stride = 1 if watched else segment.stop - segment.start
                for i in range(segment.start, segment.stop, stride):
                    state, cache = advance(state, cache, i, i + stride)
                    self._startup.first_step(bar)
                    jax.block_until_ready(state)
                    if callback is not None:
                        state = self._call_back(callback, i, int(schedule.timesteps[i]), state)
                    bar.update(stride)
                computed += segment.stop - segment.start if cache is None else int(cache.computed)
                del advance  # whose weights may have to go before the next expert's come
        return state.sample, computed

    def _expert(
        self, request: Request, segment: Segment, conditioning: Conditioning, steps: Steps, state: SolverState
    ) -> tuple[Callable, StepCache | None]:
        """The function (state, cache, start, stop) → (state, cache) of one expert, and its cache to begin with."""
        params = self._params(self.config.transformers[segment.expert])
        scale = request.guidance_scales[segment.expert]
        static = {"config": self.config.transformer, "dtype": self.dtype}
        batch = prompt_batch(conditioning.text, conditioning.negative_text, scale)
        text = executables.call(sampling.encode_text, static, params=params, text=batch, image=conditioning.image)
        run = partial(
            executables.call,
            sampling.denoise,
            static,
            params=params,
            text=text,
            steps=steps,
            guidance_scale=scale if is_guided(scale) else None,
            clean=conditioning.clean,
            channels=conditioning.channels,
            context=conditioning.context,
        )
        size = text.keys.shape[1], self.config.transformer.dim
        cache = begin_cache(state.sample, request.quality, request.step_cache, len(steps.timestep), *size)
        return lambda state, cache, start, stop: run(state=state, cache=cache, start=start, stop=stop), cache

    def _params(self, component: str) -> Params:
        """The weights of a component, once they are there."""
        with self._startup.loading():
            return self.weights[component]

    def _expert_name(self, segment: Segment) -> str:
        return "denoise" if self.config.boundary_ratio is None else ("high noise", "low noise")[segment.expert]

    def _call_back(self, callback: Callable, step: int, timestep: int, state: SolverState) -> SolverState:
        tensors = {"latents": _swap_channels(state.sample), "denoised": _swap_channels(state.previous)}
        answer = callback(self, step, timestep, tensors) or {}
        if "latents" not in answer:
            return state
        sample = jnp.moveaxis(jnp.array(answer["latents"], jnp.float32), 1, -1)
        return state.replace(sample=jax.device_put(sample, state.sample.sharding))

    def settings(self, request: Request, given: Given, given_latents: bool = False) -> list[dict[str, Any]]:
        """How each video of a request is made, in JSON types."""
        shared = {
            **dataclasses.asdict(request),
            **given.digests(),
            "fps": self.config.sampling.fps,
            **self.provenance(),
            "preset": self.preset,
            "vae_dtype": self.vae.dtype.name,
        }
        return [
            shared
            | {"prompt": prompt, "negative_prompt": negative, "seed": None if given_latents else request.seed + i}
            for i, (prompt, negative) in enumerate(zip(request.prompt, request.negative_prompt))
        ]

    def provenance(self) -> dict[str, Any]:
        """The model and the machine, for reports and the metadata of videos, in JSON types."""
        return {
            "model": self.config.name,
            "checkpoint": self.fingerprint,
            "dtype": self.dtype.name,
            "quantization": self.config.transformer.quantization,
            "versions": {"wan_jax": wan_jax.__version__, "jax": jax.__version__},
            "device": jax.devices()[0].device_kind,
        }


def gaussian_noise(shape: tuple[int, ...], seed: int) -> Float["b f h w c"]:
    """What a run starts from: the noise of the first video is that of `seed`, that of the next one of seed + 1."""
    keys = [jax.random.key(seed + i) for i in range(shape[0])]
    return jnp.stack([jax.random.normal(key, shape[1:], jnp.float32) for key in keys])


@jax.jit
def _begin(
    noise: Float["b f h w c"], clean: Float["a g h w c"] | None, video: Float["1 f h w c"] | None, sigma: float
) -> SolverState:
    """From pure noise, or from a video noised to the first level."""
    sample = noise if video is None else interpolate(video, noise, sigma)
    return jax.tree.map(sharding.constrain_latents, SolverState.init(impose(sample, clean)))


@jax.jit
def _to_unit_range(video: Float["b f h w c"]) -> Float["b f h w c"]:
    return jnp.clip(video / 2 + 0.5, 0, 1)


def _swap_channels(latents: Float["b f h w c"]) -> Float["b c f h w"]:
    return jnp.moveaxis(latents, -1, 1)
