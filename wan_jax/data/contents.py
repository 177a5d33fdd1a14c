"""What a dataset keeps of a clip: its frames, or what a model makes of them."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import jax
import numpy as np
import tensorflow_datasets as tfds

from wan_jax import sharding
from wan_jax.cache import cache_dir, enable_compilation_cache
from wan_jax.data.buckets import Bucket
from wan_jax.data.units import choose_tasks, units_of
from wan_jax.errors import WanError
from wan_jax.models import streaming
from wan_jax.models.dit import PATCH
from wan_jax.models.umt5 import encode_prompt
from wan_jax.models.wan_vae import WanVAE
from wan_jax.pipelines.loading import Model, locate, open_model
from wan_jax.pipelines.residency import Weights
from wan_jax.precision import default_vae_dtype, parse_dtype
from wan_jax.typing import Float, UInt8
from wan_jax.vcu import encoding_grey_once


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
    text = False
    units = ()
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

    To train VACE and image-to-video models, also what they are shown of the clip; see `wan_jax.data.units`.

    Each process encodes clips of its own, on all of its devices.
    """

    kind = "latents"

    def __init__(self, name: str, text: bool, units: str | None = None):
        """Opens the model.

        Args:
            name: of the model.
            text: whether to keep the states of the caption, and not the caption alone.
            units: the tasks that units are drawn from, "all" or as "first,ends"; None: no units are kept.

        Raises:
            WanError: there is no such model, or it does not learn such a task.
        """
        enable_compilation_cache()
        self.text = text
        self._dtype = parse_dtype("float32" if jax.default_backend() == "cpu" else "bfloat16")
        self._vae_dtype = parse_dtype(default_vae_dtype())
        # In our layout, which knows its fingerprint before any weight is read.
        folder = locate(name, self._dtype, str(cache_dir("models")))
        self._found: Model = open_model(str(folder), self._dtype)
        self._vae = WanVAE(self._found.config.vae, self._vae_dtype)
        self.model = {"name": name, "fingerprint": self._found.fingerprint()}
        self.units = choose_tasks(units, self._found.config) if units else ()
        self._encode = encoding_grey_once(self._encode_clip)  # which would be a third of all encoding

    @property
    def features(self) -> Mapping[str, tfds.features.FeatureConnector]:
        config = self._found.config
        latents = {"latents": _tensor((None, None, None, config.vae.z_dim), np.float16)}
        states = {"text": _tensor((None, config.text_encoder.d_model), np.float16)}
        channels, mask_bytes = units_of(config).widths
        unit = {
            "unit": _tensor((None, None, None, channels), np.float16),
            "unit_mask": _tensor((None, None, None, mask_bytes), np.uint8),
        }
        return latents | (states if self.text else {}) | (unit if self.units else {})

    @property
    def text_len(self) -> int:
        """Rows of states that the transformer is given, with those of zeros after the end of a caption."""
        return self._found.config.transformer.text_len

    def record_bytes(self, bucket: Bucket) -> int:
        """At most so much is kept of a clip.

        Raises:
            WanError: the model has no clips of this size.
        """
        config = self._found.config
        side, z_dim = config.vae.spatial_factor, config.vae.z_dim
        if bucket.height % (side * PATCH) or bucket.width % (side * PATCH):
            own = f"{config.sampling.width}x{config.sampling.height}"
            raise WanError(f"{bucket}: {config.name} needs multiples of {side * PATCH} pixels, such as --size {own}")
        if self.units and bucket.frames == 1:
            raise WanError(f"{bucket}: of one frame there is no unit to make; leave 1 out of --frames, or --units out")
        positions = ((bucket.frames - 1) // config.vae.temporal_factor + 1) * bucket.height * bucket.width // side**2
        text = 2 * self.text_len * config.text_encoder.d_model if self.text else 0
        channels, mask_bytes = units_of(config).widths
        unit = positions * (2 * channels + mask_bytes) if self.units else 0
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
        return Weights(self._found, self._found.config, dtypes, self._mesh)

    @cached_property
    def _tokenizer(self):
        return self._found.tokenizer()

    def _latents(self, frames: UInt8["f h w 3"]) -> Float["f h w c"]:
        return np.asarray(self._encode([frames[None] / np.float32(127.5) - 1], *frames.shape[:3])[0], np.float16)

    def _unit(self, record: Record) -> dict[str, np.ndarray]:
        """Of a task that depends on the clip's id alone."""
        rng = np.random.default_rng(list(hashlib.sha256(record.id.encode()).digest()))
        height, width = record.frames.shape[1:3]
        encode = partial(self._encode, height=height, width=width)
        unit = units_of(self._found.config).make(self.units, record.frames, encode, rng)
        return {"unit": unit.latents, "unit_mask": unit.mask}

    def _encode_clip(self, pieces: Iterable[Float["1 g h w 3"]], frames: int, height: int, width: int) -> jax.Array:
        with jax.set_mesh(self._mesh):
            return streaming.encode_pieces(self._vae, self._weights["vae"], pieces, frames, height, width)

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
