"""The weights that a run starts from, and the model folder to which it adds what it has trained."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from etils import epath
from jax.sharding import Mesh

from wan_jax import checkpoint, lora, sharding
from wan_jax.cache import cache_dir
from wan_jax.checkpoint import components
from wan_jax.cluster import is_leader, wait_for_all
from wan_jax.config import DiTConfig, WanConfig
from wan_jax.errors import WanError
from wan_jax.models import abstract_params, dit, umt5, vace
from wan_jax.pipelines.loading import locate, open_model
from wan_jax.tokenizer import Tokenizer
from wan_jax.train.config import RunConfig, TrainConfig
from wan_jax.train.state import cast, join, partition
from wan_jax.typing import Params

_LORA_KEY = 1  # folded into the run's key, from which its first weights are drawn

# ---- Weights --------------------------------------------------------------------------------------------------------


def network_shapes(config: TrainConfig, encodes: bool) -> Params:
    """The networks that a step computes with, as {component: shapes}, float32.

    Args:
        encodes: whether captions come as tokens, which umT5 encodes.
    """
    names = [config.component, "text_encoder"] if encodes else [config.component]
    return {name: abstract_params(components(config.model)[name], jnp.float32) for name in names}


def split(config: TrainConfig, networks: Params) -> tuple[Params, Params]:
    """What is trained and what is frozen of these networks; under a low-rank update all are frozen."""
    return ({}, networks) if config.lora is not None else partition(networks, config.trainable)


def trains_text_encoder(config: TrainConfig) -> bool:
    """Whether any weight of umT5 is trained, so that captions have to come as tokens."""
    return "text_encoder" in split(config, network_shapes(config, True))[0]


def trained_shapes(config: TrainConfig, encodes: bool) -> Params:
    """What the optimiser sees: weights, or a low-rank update of the expert, as {component: shapes}.

    Raises:
        WanError: nothing is trained.
    """
    shapes = network_shapes(config, encodes)
    if config.lora is not None:
        return jax.eval_shape(lambda: _new_update(config, shapes[config.component]))
    trained, _ = split(config, shapes)
    if not trained:
        raise WanError(f"trainable={config.trainable!r} matches no parameter of {' and '.join(shapes)}")
    return trained


def starting_weights(config: TrainConfig, encodes: bool, mesh: Mesh) -> tuple[Params, Params]:
    """The trained weights of a new run, float32, and the frozen ones, in the dtype that they are computed in."""
    shapes = network_shapes(config, encodes)
    trained, frozen = split(config, {name: _read(name, config, mesh) for name in shapes})
    if config.lora is not None:
        new = partial(_new_update, config, shapes[config.component])
        where = _shardings(trained_shapes(config, encodes)[config.component], mesh)
        trained = jax.jit(new, out_shardings={config.component: where})()
    return trained, cast(frozen, config.dtype)


def frozen_weights(config: TrainConfig, encodes: bool, mesh: Mesh) -> Params:
    """The frozen weights alone, for a run that goes on: a checkpoint has the others."""
    _, shapes = split(config, network_shapes(config, encodes))
    _, frozen = split(config, {name: _read(name, config, mesh) for name in shapes})
    return cast(frozen, config.dtype)


def whole_weights(config: TrainConfig, trained: Params, frozen: Params) -> Params:
    """{component: weights} of the networks of which anything was trained, as a model folder stores them."""
    if config.lora is not None:
        update = lora.scaled(config.lora, trained[config.component])
        return {config.component: jax.jit(lora.fuse)(frozen[config.component], update)}
    networks = join(trained, frozen)
    return cast({name: networks[name] for name in trained}, config.dtype)


def _new_update(config: TrainConfig, shapes: Params) -> Params:
    key = jax.random.fold_in(jax.random.key(config.seed), _LORA_KEY)
    return {config.component: lora.init(config.lora, shapes, key)}


def _read(name: str, config: TrainConfig, mesh: Mesh) -> Params:
    """The first weights of a network: float32 if any of them is trained, otherwise in the dtype of the computation."""
    part = components(config.model)[name]
    is_trained = bool(split(config, {name: abstract_params(part, jnp.float32)})[0])
    source, component = (config.base, name) if name == "text_encoder" else (config.init, config.init_component)
    dtype = jnp.float32 if is_trained else config.dtype
    if source is not None:
        folder = find_model(source, config)
        if name == config.component and _lacks_branch(folder, component, part):
            return _grown(folder / component, part, dtype, mesh, config.seed)
        return read_component(folder, component, config.model, name, dtype, mesh)
    if not is_trained:
        field = "base" if name == "text_encoder" else "init"
        raise WanError(f"{config.name}: {name} is needed, and not trained: let {field}= name a model that has one")
    network = umt5 if name == "text_encoder" else dit
    where = _shardings(abstract_params(part, dtype), mesh)
    return jax.jit(partial(network.initial_params, part), out_shardings=where)(jax.random.key(config.seed))


def _lacks_branch(folder: epath.Path, component: str, wanted: DiTConfig) -> bool:
    """Whether it is the denoiser of a VACE model to be, without the context branch."""
    found = components(checkpoint.read_model(folder)).get(component)
    return bool(wanted.vace_layers) and found == vace.without_branch(wanted)


def _grown(folder: epath.Path, config: DiTConfig, dtype, mesh: Mesh, seed: int) -> Params:
    """The denoiser in a folder, with a new branch."""
    shapes = abstract_params(config, dtype)

    def grow(denoiser: Params) -> Params:
        grown = vace.with_new_branch(denoiser, config, jax.random.key(seed))
        return jax.tree.map(lambda x, shape: x.astype(shape.dtype), grown, shapes)

    plain = sharding.place(abstract_params(vace.without_branch(config), dtype), mesh)
    return jax.jit(grow, out_shardings=_shardings(shapes, mesh))(checkpoint.restore(folder, plain))


def _shardings(shapes: Params, mesh: Mesh) -> Params:
    return jax.tree.map(lambda x: x.sharding, sharding.place(shapes, mesh))


# ---- Folders --------------------------------------------------------------------------------------------------------


def finished_model(config: RunConfig) -> epath.Path:
    """The folder to which all runs of a recipe with this model add their components."""
    return epath.Path(config.out) / "models" / config.model.name


def find_model(name: str, config: RunConfig) -> epath.Path:
    """The folder, in our layout, of a model that an earlier run of the recipe made, or of any other.

    Raises:
        WanError: there is no such model.
    """
    earlier = epath.Path(config.out) / "models" / name
    return earlier if checkpoint.is_checkpoint(earlier) else locate(name, config.dtype, str(cache_dir("models")))


def with_lent_vae(config: TrainConfig) -> TrainConfig:
    """The run with its base's autoencoder, to which the statistics of the latents belong; what a recipe says of it may
    be older.

    Raises:
        WanError: there is no such base.
    """
    if config.base is None:
        return config
    vae = checkpoint.read_model(find_model(config.base, config)).vae
    return replace(config, model=replace(config.model, vae=vae))


def find_tokenizer(config: TrainConfig) -> Tokenizer:
    """The tokenizer of the base.

    Raises:
        WanError: there is no base.
    """
    if config.base is None:
        raise WanError(f"{config.name}: captions are encoded, so base= must name a model with a tokenizer")
    return open_model(str(find_model(config.base, config)), config.dtype).tokenizer()


def read_component(folder: epath.Path, name: str, wanted: WanConfig, target: str, dtype, mesh: Mesh) -> Params:
    """The weights of one component of a model, to serve as `target` of another.

    Raises:
        WanError: it has no such component, or one of other sizes.
    """
    found, needed = components(checkpoint.read_model(folder)), components(wanted)[target]
    if name not in found:
        raise WanError(f"{folder} has no {name}; it has {', '.join(found)}")
    if found[name] != needed:
        ours, theirs = needed.to_json(), found[name].to_json()
        differ = [f"{key}={theirs.get(key)!r} instead of {ours[key]!r}" for key in ours if theirs.get(key) != ours[key]]
        raise WanError(f"{folder / name} does not fit model {wanted.name}: {', '.join(differ)}")
    return checkpoint.restore(folder / name, sharding.place(abstract_params(needed, dtype), mesh))


def export(config: TrainConfig, trained: Params, source: Mapping[str, Any]) -> epath.Path:
    """Writes trained components to the model folder, which is complete once no other is missing.

    Every process calls it.

    Args:
        trained: {component: weights}, as they are to be stored.
        source: what the folder is to tell about its origin.
    """
    folder = finished_model(config)
    for name, params in trained.items():
        checkpoint.write_component(folder / name, components(config.model)[name], params)
    if is_leader():
        _complete(folder, config, source)
    wait_for_all("export")
    return folder


def _complete(folder: epath.Path, config: TrainConfig, source: Mapping[str, Any]):
    """Adds what the base lends and nobody trained; then the index, if nothing is missing."""
    for name, lent in _lent(config).items():
        if not checkpoint.is_component(folder / name):
            checkpoint.copy(lent, folder / name)
    if config.base is not None and not (folder / "tokenizer").exists():
        checkpoint.copy(find_model(config.base, config) / "tokenizer", folder / "tokenizer")
    parts = components(config.model)
    if all(checkpoint.is_component(folder / name) for name in parts) and (folder / "tokenizer").exists():
        checkpoint.write_model_index(folder, config.model, source)


def _lent(config: TrainConfig) -> dict[str, epath.Path]:
    """The weight folders of the base that serve this model as they are."""
    if config.base is None:
        return {}
    folder, parts = find_model(config.base, config), components(config.model)
    found = components(checkpoint.read_model(folder))
    return {name: folder / name for name, part in parts.items() if found.get(name) == part}


class Snapshot:
    """A model in training, for `WanPipeline`: what is trained as it is now, the rest from the folders.

    Where the other expert is nowhere to be had, this one does all steps.
    """

    def __init__(self, config: TrainConfig, trained: Params):
        """`trained`: {component: weights}, as a folder would store them."""
        self._run = config
        self._trained = trained
        earlier = {name: finished_model(config) / name for name in components(config.model)}
        self._folders = _lent(config) | {name: path for name, path in earlier.items() if checkpoint.is_component(path)}
        alone = not all(name in trained or name in self._folders for name in config.model.transformers)
        self.config = replace(config.model, boundary_ratio=None) if alone else config.model
        self._names = {"transformer": config.component} if alone else {}

    def check(self, name: str):
        """`read` checks."""

    def read(self, name: str, dtype, mesh: Mesh, memory: str = sharding.DEVICE) -> Params:
        name = self._names.get(name, name)
        abstract = abstract_params(components(self._run.model)[name], dtype)
        if name in self._trained:
            trained = jax.tree.map(lambda x, shape: x.astype(shape.dtype), self._trained[name], abstract)
            return sharding.to_memory(trained, memory)
        if name not in self._folders:
            raise WanError(f"{self._run.name}: a video needs a {name}: let base= name a model that has one")
        return checkpoint.restore(self._folders[name], sharding.place(abstract, mesh, memory))

    def tokenizer(self) -> Tokenizer:
        return find_tokenizer(self._run)

    def fingerprint(self) -> str:
        return f"{self._run.name} in training"

    def verify(self):
        """Weights in training have no digests."""
