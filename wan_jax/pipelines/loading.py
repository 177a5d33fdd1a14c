"""From the name of a model to its parameters on the mesh."""

import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath
from jax.sharding import Mesh

from wan_jax import checkpoint, placeholder, room, sharding, weights
from wan_jax.cache import cache_dir as user_cache
from wan_jax.config import ComponentConfig, VAEConfig, WanConfig, get_config, model_names
from wan_jax.errors import WanError
from wan_jax.models import abstract_params
from wan_jax.tokenizer import Tokenizer
from wan_jax.typing import Params


class Model(Protocol):
    """A model that was found; its weights have not been read yet."""

    config: WanConfig

    def check(self, name: str):
        """Raises WanError unless a component holds just what its config says.  No weight is read."""

    def read(self, name: str, dtype, mesh: Mesh, memory: str = sharding.DEVICE) -> Params:
        """The parameters of one component, each where `sharding.RULES` wants it."""

    def tokenizer(self) -> Tokenizer: ...

    def fingerprint(self) -> str:
        """Twelve hex digits that change when any weight does."""

    def verify(self):
        """Compares every weight with its SHA-256."""


@cache
def component_bytes(config: WanConfig, dtype, vae_dtype) -> Mapping[str, int]:
    """What the weights of each component of a model take.  To trace the networks takes a second: it is done once."""

    def size(name: str, part: ComponentConfig) -> int:
        leaves = jax.tree.leaves(abstract_params(part, vae_dtype if name == "vae" else dtype))
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    return MappingProxyType({name: size(name, part) for name, part in checkpoint.components(config).items()})


def check_host_memory(name: str, sizes: Collection[int], offload: str | None):
    """Raises a WanError where the host cannot hold the weights that wait there, or that its CPU works with.

    Args:
        name: of the model.
        sizes: bytes of its components; the hosts of a slice share them.
        offload: see `wan_jax.pipelines.residency`.
    """
    if offload is not None or jax.default_backend() == "cpu":
        advice = "it takes half if it is stored in eight bits, with python -m convert --quantize int8"
        room.check_memory(f"model {name}", sum(sizes) // jax.process_count(), advice)


def load_vae(name: str, dtype, mesh: Mesh) -> tuple[str, VAEConfig, Params]:
    """Name, architecture and weights of a model's autoencoder; nothing else is read, or fetched from the hub.

    A folder that holds the autoencoder alone, as its training writes it, will do.
    """
    if (folder := _autoencoder_alone(name)) is not None:
        config = read_vae_config(name)
        abstract = sharding.place(abstract_params(config, dtype), mesh)
        return folder.name, config, checkpoint.restore(folder / "vae", abstract)
    model = _open(name)
    return model.config.name, model.config.vae, model.read("vae", dtype, mesh)


def find_vae(name: str) -> epath.Path | None:
    """The folder of a model's autoencoder in our layout; None if it would have to be converted."""
    folder = _find(_resolve(name))
    return folder / "vae" if folder is not None and checkpoint.is_component(folder / "vae") else None


def read_vae_config(name: str) -> VAEConfig:
    """What a model's autoencoder is, as `load_vae` would find it, without its weights."""
    if (folder := _autoencoder_alone(name)) is not None:
        return VAEConfig.from_json(checkpoint.read_json(folder / "vae" / "config.json"), folder / "vae")
    return read_config(name).vae


def read_config(name: str) -> WanConfig:
    """What a model is, without its weights: little is read, or fetched from the hub."""
    return get_config(name) if name in model_names() else _open(name).config


def open_model(name: str, dtype, cache_dir: str | None = None) -> Model:
    """Finds `name`; one from the hub is fetched and converted into the cache first.

    Raises:
        WanError: there is no such model, or its files are incomplete or of another kind.
    """
    return _open(str(locate(name, dtype, cache_dir)))


def locate(model: str, dtype, cache_dir: str | None) -> epath.Path:
    """The folder that holds `model`: one from the hub is fetched and converted into the cache first.

    Raises:
        WanError: there is no such model, or it would take several processes to convert it.
    """
    model = _resolve(model)
    folder = _find(model)
    if folder is not None and (cache_dir is None or checkpoint.is_checkpoint(folder)):
        return folder

    from convert.conversion import convert

    root = epath.Path(cache_dir or user_cache("models"))
    converted = root / f"{model.strip('/').replace('/', '--')}-{jnp.dtype(dtype).name}"
    if jax.process_count() > 1 and not checkpoint.is_checkpoint(converted):
        raise WanError(
            f"model {model!r} is not converted yet, which one process has to do: python -m convert --src {model} "
            "--dst DIR, where all processes can read; then name that folder"
        )
    convert(str(folder or model), str(converted), dtype=jnp.dtype(dtype).name)
    return converted


@dataclass(frozen=True)
class _OurModel:
    """A folder in our layout."""

    folder: epath.Path

    @cached_property
    def config(self) -> WanConfig:
        return checkpoint.read_model(self.folder)

    def check(self, name: str):
        checkpoint.check(self.folder / name, abstract_params(checkpoint.components(self.config)[name], np.float32))

    def read(self, name: str, dtype, mesh: Mesh, memory: str = sharding.DEVICE) -> Params:
        abstract = abstract_params(checkpoint.components(self.config)[name], dtype)
        return checkpoint.restore(self.folder / name, sharding.place(abstract, mesh, memory))

    def tokenizer(self) -> Tokenizer:
        return Tokenizer(_local(self.folder / "tokenizer"), self.config.transformer.text_len)

    def fingerprint(self) -> str:
        return checkpoint.fingerprint(self.folder)

    def verify(self):
        checkpoint.verify(self.folder)


class _TorchModel:
    """PyTorch files, in a folder or on the hub, converted on the way in."""

    def __init__(self, name: str):
        from convert.sources import open_source  # above us in the tree: only PyTorch weights need it

        self._source = open_source(name)
        self.config: WanConfig = self._source.config
        self._digests: dict[str, str] = {}

    def check(self, name: str):
        """The conversion checks for itself, as it reads."""

    def read(self, name: str, dtype, mesh: Mesh, memory: str = sharding.DEVICE) -> Params:
        abstract = abstract_params(checkpoint.components(self.config)[name], dtype)
        host = self._source.read(name, dtype)
        digests = "".join(map(checkpoint.digest, jax.tree.leaves(host)))
        self._digests[name] = hashlib.sha256(digests.encode()).hexdigest()
        return jax.tree.map(_put, host, sharding.place(abstract, mesh, memory))

    def tokenizer(self) -> Tokenizer:
        return Tokenizer(self._source.read_tokenizer(), self.config.transformer.text_len)

    def fingerprint(self) -> str:
        """Known once all components were read."""
        digests = "".join(self._digests[name] for name in checkpoint.components(self.config))
        return hashlib.sha256(digests.encode()).hexdigest()[:12]

    def verify(self):
        """PyTorch checkpoints carry no digests."""


def _autoencoder_alone(name: str) -> epath.Path | None:
    """The folder of this name, if it holds an autoencoder and no whole model."""
    folder = _find(_resolve(name))
    alone = folder is not None and checkpoint.is_component(folder / "vae") and not checkpoint.is_checkpoint(folder)
    return folder if alone else None


def _open(name: str) -> Model:
    if _autoencoder_alone(name) is not None:
        raise WanError(f"{name} holds an autoencoder alone, which makes no videos; name a whole model")
    name = _resolve(name)
    folder = _find(name)
    ours = folder is not None and checkpoint.is_checkpoint(folder)
    return _OurModel(folder) if ours else _TorchModel(str(folder or name))


def _resolve(model: str) -> str:
    """A name from configs/ as a hub id, or as the folder of what is part of the package."""
    if (ours := weights.folder(model)) is not None:
        return str(ours)
    if model == placeholder.NAME:
        return str(placeholder.folder())
    return get_config(model).hub_id if model in model_names() else model


def _find(model: str) -> epath.Path | None:
    """The folder or bucket called `model`; None if it can only be a hub id.

    Raises:
        WanError: it can be neither.
    """
    if "://" in model:
        return epath.Path(model)
    path = Path(model).expanduser()
    if path.exists():
        return epath.Path(path)
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        raise WanError(
            f"model {model!r}: no such folder, no hub id of the form owner/name, "
            f"and no name of ours ({', '.join([*weights.names(), *model_names()])})"
        )
    return None


def _put(x: np.ndarray, place: jax.ShapeDtypeStruct) -> jax.Array:
    """An array on the host, the same in every process, as one on the mesh."""
    return jax.make_array_from_callback(x.shape, place.sharding, lambda piece: x[piece].astype(place.dtype))


def _local(folder: epath.Path) -> Path:
    """A folder of small files as a local one: tokenizers cannot be read from a bucket."""
    if "://" not in str(folder):
        return Path(folder)
    copy = user_cache("tokenizers", hashlib.sha256(str(folder).encode()).hexdigest()[:16])
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy
