"""What a dataset keeps of a clip: its frames, or what a model makes of them."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import jax
import numpy as np
import tensorflow_datasets as tfds

from wan_jax import sharding
from wan_jax.cache import cache_dir, enable_compilation_cache
from wan_jax.data.buckets import Bucket
from wan_jax.data.units import draw_canvas
from wan_jax.models import streaming
from wan_jax.models.umt5 import encode_prompt
from wan_jax.models.wan_vae import WanVAE
from wan_jax.pipelines.loading import Model, Weights, locate, open_model
from wan_jax.precision import default_vae_dtype, parse_dtype
from wan_jax.typing import Float, UInt8
from wan_jax.vcu import Grey, StoredUnit, context_frames


@dataclass(frozen=True)
class Record:
    """A clip that was read: frames are uint8 [f h w 3]."""

    id: str
    caption: str
    frames: UInt8["f h w 3"]


class Frames:
    """The frames as they are."""

    kind = "frames"
    model = None
    text = units = False
    text_len = None
    no_text = None

    @property
    def features(self) -> Mapping[str, tfds.features.FeatureConnector]:
        return {"frames": _tensor((None, None, None, 3), np.uint8)}

    def record_bytes(self, bucket: Bucket) -> int:
        """At most so much is kept of a clip."""
        return bucket.frames * bucket.height * bucket.width * 3

    def prepare(self):
        """Every process calls it before the first record."""

    def of(self, record: Record) -> dict[str, np.ndarray]:
        return {"frames": record.frames}


class Latents:
    """The mean of the autoencoder's posterior, normalised, and the umT5 states of the caption; both float16.

    To train VACE models, also a condition unit of the clip; see `wan_jax.data.units`.

    Each process encodes clips of its own, on all of its devices.
    """

    kind = "latents"

    def __init__(self, name: str, text: bool, units: bool = False):
        """Units need nothing but the autoencoder, so any model with that of the VACE model will do.

        Args:
            name: of the model.
            text: whether to keep the states of the caption, and not the caption alone.
            units: whether to keep condition units.
        """
        enable_compilation_cache()
        self.text, self.units = text, units
        self._dtype = parse_dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")
        self._vae_dtype = parse_dtype(default_vae_dtype())
        # In our layout, which knows its fingerprint before any weight is read.
        folder = locate(name, self._dtype, str(cache_dir("models")))
        self._found: Model = open_model(str(folder), self._dtype)
        self._vae = WanVAE(self._found.config.vae, self._vae_dtype)
        self.model = {"name": name, "fingerprint": self._found.fingerprint()}
        self._grey: dict[Grey, jax.Array] = {}  # latents

    @property
    def features(self) -> Mapping[str, tfds.features.FeatureConnector]:
        config = self._found.config
        latents = {"latents": _tensor((None, None, None, config.vae.z_dim), np.float16)}
        states = {"text": _tensor((None, config.text_encoder.d_model), np.float16)}
        mask_bytes = config.vae.spatial_factor**2 // 8
        unit = {
            "unit": _tensor((None, None, None, 2 * config.vae.z_dim), np.float16),
            "unit_mask": _tensor((None, None, None, mask_bytes), np.uint8),
        }
        return latents | (states if self.text else {}) | (unit if self.units else {})

    @property
    def text_len(self) -> int:
        """Rows of states that the transformer is given, with those of zeros after the end of a caption."""
        return self._found.config.transformer.text_len

    def record_bytes(self, bucket: Bucket) -> int:
        """At most so much is kept of a clip."""
        config = self._found.config
        area, z_dim = config.vae.spatial_factor**2, config.vae.z_dim
        positions = ((bucket.frames - 1) // config.vae.temporal_factor + 1) * bucket.height * bucket.width // area
        text = 2 * self.text_len * config.text_encoder.d_model if self.text else 0
        unit = positions * (4 * z_dim + area // 8) if self.units else 0
        return 2 * positions * z_dim + text + unit

    def prepare(self):
        """Reads the weights: every process calls it, as Orbax has them all read together."""
        for name in self._weights:
            _ = self._weights[name]

    def of(self, record: Record) -> dict[str, np.ndarray]:
        latents = {"latents": self._latents(record.frames)}
        text = {"text": self._states(record.caption)} if self.text else {}
        return latents | text | (self._unit(record) if self.units else {})

    @property
    def no_text(self) -> Float["s d"] | None:
        """The states of the empty caption."""
        return self._states("") if self.text else None

    @cached_property
    def _mesh(self) -> jax.sharding.Mesh:
        return sharding.as_mesh(None, jax.local_devices())

    @cached_property
    def _weights(self) -> Weights:
        dtypes = {"vae": self._vae_dtype} | ({"text_encoder": self._dtype} if self.text else {})
        return Weights(self._found, dtypes, self._mesh)

    @cached_property
    def _tokenizer(self):
        return self._found.tokenizer()

    def _latents(self, frames: UInt8["f h w 3"]) -> Float["f h w c"]:
        return np.asarray(self._encode([frames[None] / np.float32(127.5) - 1], *frames.shape[:3])[0], np.float16)

    def _unit(self, record: Record) -> dict[str, np.ndarray]:
        """Of a task that depends on the clip's id alone."""
        rng = np.random.default_rng(list(hashlib.sha256(record.id.encode()).digest()))
        vae, size = self._vae.config, record.frames.shape[1:3]
        canvas = draw_canvas(record.frames, vae.temporal_factor, rng)
        frames = context_frames(lambda pieces, count: self._encode_part(pieces, count, *size), canvas, (), vae)
        unit = StoredUnit.pack(frames[0], 2 * vae.z_dim)
        return {"unit": unit.latents, "unit_mask": unit.mask}

    def _encode_part(self, pieces: Iterable[Float["1 g h w 3"]], frames: int, height: int, width: int) -> jax.Array:
        """Of a unit, in which nothing is followed: a third of all encoding would be of the same grey clip."""
        if not isinstance(pieces, Grey):
            return self._encode(pieces, frames, height, width)
        if pieces not in self._grey:
            self._grey[pieces] = self._encode(pieces, frames, height, width)
        return self._grey[pieces]

    def _encode(self, pieces: Iterable[Float["1 g h w 3"]], frames: int, height: int, width: int) -> jax.Array:
        with jax.set_mesh(self._mesh):
            chunk = streaming.best_chunk(1 + (frames - 1) // self._vae.config.temporal_factor, height, width)
            chunks = streaming.encode_chunks(self._vae, self._weights["vae"], pieces, chunk)
            return jax.numpy.concatenate(list(chunks), axis=1)

    def _states(self, caption: str) -> Float["s d"]:
        """Without the padding."""
        ids, mask = self._tokenizer([caption])
        with jax.set_mesh(self._mesh):
            states = encode_prompt(
                self._weights["text_encoder"], ids, mask, config=self._found.config.text_encoder, dtype=self._dtype
            )
            return np.asarray(states[0], np.float16)[mask[0]]


def _tensor(shape: tuple[int | None, ...], dtype) -> tfds.features.Tensor:
    # As bytes: tfds would otherwise store each number as a 64-bit integer or a 32-bit float.
    return tfds.features.Tensor(shape=shape, dtype=dtype, encoding=tfds.features.Encoding.BYTES)
