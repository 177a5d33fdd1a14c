"""From the name of a model to its parameters on the device."""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
from etils import epath

from wan_jax import checkpoint, placeholder
from wan_jax.cache import cache_dir as user_cache
from wan_jax.config import WanConfig, get_config, model_names
from wan_jax.errors import WanError
from wan_jax.models import abstract_params
from wan_jax.tokenizer import Tokenizer
from wan_jax.typing import Params


@dataclass(frozen=True)
class Loaded:
    """What a pipeline is made of.  `fingerprint` changes when any weight does."""

    config: WanConfig
    params: dict[str, Params]
    tokenizer: Tokenizer
    fingerprint: str


def load(model: str, dtype, vae_dtype, *, cache_dir: str | None = None, verify: bool = False) -> Loaded:
    """See `WanPipeline.from_pretrained`."""
    folder = locate(model, dtype, cache_dir)
    if checkpoint.is_checkpoint(folder):
        config = checkpoint.read_model(folder)
        params = {
            name: _restore(folder, config, name, vae_dtype if name == "vae" else dtype, verify)
            for name in checkpoint.components(config)
        }
        return Loaded(config, params, Tokenizer(_local(folder / "tokenizer")), checkpoint.fingerprint(folder))

    source = _open_source(str(folder))
    params, digests = {}, hashlib.sha256()
    for name in checkpoint.components(source.config):
        host = source.read(name, dtype)
        for leaf in jax.tree.leaves(host):
            digests.update(checkpoint.digest(leaf).encode())
        params[name] = _place(host, source.config, name, vae_dtype if name == "vae" else dtype)
    return Loaded(source.config, params, Tokenizer(source.read_tokenizer()), digests.hexdigest()[:12])


def read_config(model: str) -> WanConfig:
    """What a model is, without its weights: little is read, or fetched from the hub."""
    if model in model_names():
        return get_config(model)
    folder = _find(model)
    if folder is not None and checkpoint.is_checkpoint(folder):
        return checkpoint.read_model(folder)
    return _open_source(str(folder or model)).config


def load_vae(model: str, dtype) -> tuple[WanConfig, Params]:
    """The autoencoder of a model alone; nothing else is fetched from the hub."""
    model = _resolve(model)
    folder = _find(model)
    if folder is not None and checkpoint.is_checkpoint(folder):
        config = checkpoint.read_model(folder)
        return config, _restore(folder, config, "vae", dtype)
    source = _open_source(str(folder or model))
    return source.config, _place(source.read("vae", dtype), source.config, "vae", dtype)


def locate(model: str, dtype, cache_dir: str | None) -> epath.Path:
    """The folder that holds `model`: one from the hub is fetched and converted into the cache first."""
    model = _resolve(model)
    folder = _find(model)
    if folder is not None and (cache_dir is None or checkpoint.is_checkpoint(folder)):
        return folder

    from convert.conversion import convert

    root = epath.Path(cache_dir or user_cache("models"))
    converted = root / f"{model.strip('/').replace('/', '--')}-{jnp.dtype(dtype).name}"
    convert(str(folder or model), str(converted), dtype=jnp.dtype(dtype).name)
    return converted


def _resolve(model: str) -> str:
    """A name from configs/ as a hub id, or as the folder of the placeholder."""
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
            f"and no name from configs/ ({', '.join(model_names())})"
        )
    return None


def _open_source(model: str):
    from convert.sources import open_source  # above us in the tree: only PyTorch weights need it

    return open_source(model)


def _restore(folder: epath.Path, config: WanConfig, name: str, dtype, verify: bool = False) -> Params:
    return checkpoint.restore(folder / name, abstract_params(checkpoint.components(config)[name], dtype), verify)


def _place(host: Params, config: WanConfig, name: str, dtype) -> Params:
    """A component's arrays on the device."""
    abstract = abstract_params(checkpoint.components(config)[name], dtype)
    return jax.tree.map(lambda x, stored: jnp.asarray(x, stored.dtype), host, abstract)


def _local(folder: epath.Path) -> Path:
    """A folder of small files as a local one: tokenizers cannot be read from a bucket."""
    if "://" not in str(folder):
        return Path(folder)
    copy = user_cache("tokenizers", hashlib.sha256(str(folder).encode()).hexdigest()[:16])
    for file in folder.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy
