"""Our checkpoint directory: Diffusers' component names, Orbax arrays.

    model_index.json                what the model is and where it came from; written last: no model without it
    transformer/  [transformer_2/]  vae/  text_encoder/  [image_encoder/]
        config.json                 the component's sizes
        manifest.json               shape, dtype and SHA-256 of every parameter, one digest per layer where stacked
        state/blocks.ffn_in.kernel/ one zarr array per parameter, in chunks that carry a CRC-32C each
    tokenizer/

Each weight folder is a checkpoint that plain `orbax.checkpoint.load` reads.  Orbax can only save arrays that are in
memory whole, and a stacked parameter of the 14B model takes 5.7 GB; so Orbax writes the index, and `create` then
lays out the arrays at their real size for `ArrayWriter` to fill layer by layer, in any order, as often as a killed
and repeated conversion likes.  Paths may be buckets (`gs://…`).
"""

import dataclasses
import hashlib
import json
import logging
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np
import orbax.checkpoint.experimental.v1 as ocp
import tensorstore as ts
from etils import epath
from flax.traverse_util import flatten_dict, unflatten_dict

from wan_jax import cluster, sharding
from wan_jax.config import CLIPConfig, ComponentConfig, DiTConfig, Sampling, UMT5Config, VAEConfig, WanConfig
from wan_jax.errors import WanError
from wan_jax.typing import Params

FORMAT = 1
_INDEX, _CONFIG, _MANIFEST, _ARRAYS = "model_index.json", "config.json", "manifest.json", "state"
_CHUNK_BYTES = 16 << 20  # small enough that a shard of an array is read without much of its neighbours
_CLASSES = {
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "transformer_2": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
    "text_encoder": ["transformers", "UMT5EncoderModel"],
    "image_encoder": ["transformers", "CLIPVisionModel"],
    "tokenizer": ["transformers", "T5TokenizerFast"],
}

# Orbax warns of each checkpoint that is not in its own one-file format; `_saving` says why ours are not.
_FOREIGN = ("Skipping merge of OCDBT", "TensorStore data files not found")
logging.getLogger("absl").addFilter(lambda record: not any(text in record.getMessage() for text in _FOREIGN))

# Orbax numbers its operations in one counter for all threads; weights may be restored while others are saved.
_ONE_AT_A_TIME = threading.Lock()

# Chunks are replaced by rename, so a killed process leaves whole ones.  They are not flushed to the disk one by one:
# after a power cut the checksums tell.
_STORE = ts.Context({"file_io_sync": False, "cache_pool": {"total_bytes_limit": 0}})


# ---- The model ------------------------------------------------------------------------------------------------------


def components(config: WanConfig) -> dict[str, ComponentConfig]:
    """The weight folders of a model and the config of each."""
    parts = {name: config.transformer for name in config.transformers} | {
        "vae": config.vae,
        "text_encoder": config.text_encoder,
    }
    return parts if config.image_encoder is None else parts | {"image_encoder": config.image_encoder}


def class_entries(config: WanConfig) -> dict[str, str | list[str]]:
    """The entries of a `model_index.json` that name Diffusers' class of the pipeline and of each component."""
    classes = {name: _CLASSES[name] for name in (*components(config), "tokenizer")}
    if not config.takes_context:
        pipeline = "WanImageToVideoPipeline" if config.shows_images_as_channels else "WanPipeline"
        return {"_class_name": pipeline} | classes
    vace = {name: ["diffusers", "WanVACETransformer3DModel"] for name in config.transformers}
    return {"_class_name": "WanVACEPipeline"} | classes | vace


def is_component(folder: epath.PathLike) -> bool:
    """Whether `folder` is a complete weight folder."""
    return (epath.Path(folder) / _MANIFEST).exists()


def is_checkpoint(folder: epath.PathLike) -> bool:
    """Whether `folder` is a complete model in our layout."""
    index = epath.Path(folder) / _INDEX
    return index.exists() and "wan_jax" in read_json(index)


def write_model_index(folder: epath.PathLike, config: WanConfig, source: Mapping[str, Any]):
    """Completes a checkpoint directory.  `source` tells where the weights came from."""
    about = {
        "format": FORMAT,
        "name": config.name,
        "hub_id": config.hub_id,
        "sampling": dataclasses.asdict(config.sampling),
        "source": dict(source),
    }
    index = {
        "boundary_ratio": config.boundary_ratio,
        "expand_timesteps": config.expand_timesteps,
    }
    write_json(epath.Path(folder) / _INDEX, index | class_entries(config) | {"wan_jax": about})


def read_source(folder: epath.PathLike) -> dict[str, Any]:
    """What `write_model_index` was told about the origin of the weights."""
    return _read_index(epath.Path(folder))["wan_jax"]["source"]


def read_model(folder: epath.PathLike) -> WanConfig:
    """The model in a checkpoint directory of ours.

    Raises:
        WanError: there is no complete model of a format that this version reads.
    """
    folder = epath.Path(folder)
    index = _read_index(folder)

    def part(name, cls):
        return cls.from_json(read_json(folder / name / _CONFIG), str(folder / name / _CONFIG))

    try:
        return WanConfig(
            name=index["wan_jax"]["name"],
            hub_id=index["wan_jax"]["hub_id"],
            transformer=part("transformer", DiTConfig),
            vae=part("vae", VAEConfig),
            text_encoder=part("text_encoder", UMT5Config),
            image_encoder=part("image_encoder", CLIPConfig) if "image_encoder" in index else None,
            boundary_ratio=index["boundary_ratio"],
            expand_timesteps=index.get("expand_timesteps", False),
            sampling=Sampling(**index["wan_jax"]["sampling"]),
        )
    except (KeyError, TypeError) as error:
        raise WanError(f"{folder / _INDEX}: damaged ({error}); convert the model again") from error


def fingerprint(folder: epath.PathLike) -> str:
    """Twelve hex digits that change when any weight of the model changes."""
    folder = epath.Path(folder)
    names = components(read_model(folder))
    return hashlib.sha256(b"".join((folder / name / _MANIFEST).read_bytes() for name in names)).hexdigest()[:12]


# ---- Reading --------------------------------------------------------------------------------------------------------


def restore(folder: epath.PathLike, abstract: Mapping) -> Params:
    """Reads the parameters of one component; each process reads only what its own shards need.

    Args:
        folder: the component's folder, such as `model/transformer`.
        abstract: the tree of `jax.ShapeDtypeStruct`; its dtypes are cast to, its shardings default to one device.

    Raises:
        WanError: names the parameters that are missing, unexpected, misshapen or unreadable.
    """
    folder = epath.Path(folder)
    check(folder, abstract)
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    abstract = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None) or here), abstract
    )
    try:
        with _ONE_AT_A_TIME:
            return ocp.load(folder, abstract)
    except Exception:  # Orbax raises bare ones, with pages of text about one of many arrays that it was reading
        for path, layer, _ in _layers(folder):
            read_array(folder, path, layer)  # raises for the damaged one
        raise


def check(folder: epath.PathLike, abstract: Mapping):
    """Raises a WanError that lists every parameter that is missing, unexpected or misshapen."""
    folder = epath.Path(folder)
    _check_tree(read_manifest(folder), flatten_dict(abstract, sep="/"), folder)


def read_manifest(folder: epath.PathLike) -> dict[str, dict[str, Any]]:
    """{"blocks/norm/scale": {"shape", "dtype", "source_dtype", "sha256"}} of one component."""
    return read_json(epath.Path(folder) / _MANIFEST)


def read_array(folder: epath.PathLike, path: str, layer: int | None = None) -> np.ndarray:
    """One parameter, or one layer of it.

    Raises:
        WanError: names the parameter, where its data are missing, truncated or fail their checksum.
    """
    try:
        spec = _spec(epath.Path(folder), path) | {"fill_missing_data_reads": False}
        store = ts.open(spec, open=True, context=_STORE).result()
        return (store if layer is None else store[layer]).read().result()
    except (ValueError, OSError) as error:
        raise WanError(f"{folder}: {path} is damaged or incomplete; convert the model again") from error


def verify(folder: epath.PathLike):
    """Compares every parameter of a model with the manifests; see `verify_component`."""
    for name in components(read_model(folder)):
        verify_component(epath.Path(folder) / name)


def verify_component(folder: epath.PathLike):
    """Compares every parameter of one weight folder with its manifest.

    Raises:
        WanError: names the parameter, and its layer, that differs.
    """
    for path, layer, expected in _layers(folder):
        if digest(read_array(folder, path, layer)) != expected:
            where = path if layer is None else f"{path}, layer {layer}"
            raise WanError(f"{folder}: {where} differs from its SHA-256; convert the model again")


def _layers(folder: epath.PathLike) -> Iterator[tuple[str, int | None, str]]:
    """Parameter, layer (None of an array that is not stacked) and digest of all that a weight folder holds."""
    for path, entry in read_manifest(folder).items():
        for layer, sha256 in enumerate(entry["sha256"]):
            yield path, layer if len(entry["sha256"]) > 1 else None, sha256


def _check_tree(manifest: Mapping[str, dict], wanted: Mapping[str, jax.ShapeDtypeStruct], folder: epath.Path):
    problems = [f"  missing {path} {list(wanted[path].shape)}" for path in wanted if path not in manifest]
    problems += [f"  unexpected {path} {manifest[path]['shape']}" for path in manifest if path not in wanted]
    problems += [
        f"  misshapen {path} {manifest[path]['shape']}, expected {list(wanted[path].shape)}"
        for path in wanted
        if path in manifest and tuple(manifest[path]["shape"]) != tuple(wanted[path].shape)
    ]
    if problems:
        raise WanError(f"{folder}: {len(problems)} parameters do not fit this model\n" + "\n".join(problems))


# ---- Writing --------------------------------------------------------------------------------------------------------


def create(
    folder: epath.PathLike,
    config: ComponentConfig,
    shapes: Mapping,
    stacked: set[str],
):
    """Makes a weight folder whose arrays are still empty, replacing whatever a killed process left there.

    Every process calls it, since Orbax has all of them save together; process 0 does the rest.

    Args:
        folder: the component's folder.
        config: the component's config.
        shapes: flat {path: jax.ShapeDtypeStruct}.
        stacked: the paths whose leading axis is the layer; they are written one layer at a time.
    """
    folder = epath.Path(folder)
    if cluster.is_leader():
        for leftover in (folder, *folder.parent.glob(f"{folder.name}.orbax-checkpoint-tmp*")):
            if leftover.exists():
                leftover.rmtree()
    cluster.wait_for_all("create")
    index = {path: np.zeros((1,) * len(x.shape), x.dtype) for path, x in shapes.items()}
    with _ONE_AT_A_TIME, _saving():
        ocp.save(folder, unflatten_dict(index, sep="/"))
    if not cluster.is_leader():
        return
    for path, x in shapes.items():
        metadata = {
            "shape": list(x.shape),
            "data_type": np.dtype(x.dtype).name,
            "chunk_grid": {
                "name": "regular",
                "configuration": {"chunk_shape": _chunk_shape(x.shape, np.dtype(x.dtype).itemsize, path in stacked)},
            },
            "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}, {"name": "crc32c"}],
        }
        ts.open(
            _spec(folder, path) | {"metadata": metadata}, create=True, delete_existing=True, context=_STORE
        ).result()
    write_json(folder / _CONFIG, config.to_json())


class ArrayWriter:
    """Fills the arrays that `create` made.  Safe to use from several threads."""

    def __init__(self, folder: epath.PathLike):
        self._folder = epath.Path(folder)
        self._stores: dict[str, ts.TensorStore] = {}

    def write(self, path: str, layer: int | None, value: np.ndarray) -> str:
        """Stores a C-contiguous parameter, or one layer of it, and returns its SHA-256."""
        if path not in self._stores:
            # Zeros are written like any other value: Orbax takes an absent chunk for lost data.
            spec = _spec(self._folder, path) | {"store_data_equal_to_fill_value": True}
            self._stores[path] = ts.open(spec, open=True, context=_STORE).result()
        store = self._stores[path]
        written = (store if layer is None else store[layer]).write(value)
        sha256 = digest(value)  # meanwhile TensorStore's threads write
        written.result()
        return sha256


def write_component(folder: epath.PathLike, config: ComponentConfig, params: Params):
    """Writes a weight folder, which replaces an older one when it is complete.

    Every process calls it; process 0 writes, and holds one layer at a time.

    Args:
        folder: the component's folder.
        config: the component's config.
        params: its parameters, on any mesh, in the dtypes to store.
    """
    folder, flat = epath.Path(folder), flatten_dict(params, sep="/")
    stacked = {path for path in flat if path.startswith("blocks/")}
    # Only a local rename is atomic; in a bucket, there is no component before its manifest.
    work = folder if "://" in str(folder) else folder.parent / f"{folder.name}.partial"
    create(work, config, {path: jax.ShapeDtypeStruct(x.shape, x.dtype) for path, x in flat.items()}, stacked)
    writer, manifest = ArrayWriter(work), {}
    for path, x in flat.items():
        digests = []
        for layer in range(len(x)) if path in stacked else (None,):
            value = sharding.to_host(x if layer is None else x[layer])
            if cluster.is_leader():
                digests.append(writer.write(path, layer, np.ascontiguousarray(value)))
        dtype = np.dtype(x.dtype).name
        manifest[path] = {"shape": list(x.shape), "dtype": dtype, "source_dtype": dtype, "sha256": digests}
    if cluster.is_leader():
        write_manifest(work, manifest)
        if work != folder:
            if folder.exists():
                folder.rmtree()
            work.rename(folder)
    cluster.wait_for_all("component")


def copy(source: epath.PathLike, target: epath.PathLike):
    """Copies a folder of a model, such as a component that another model shares."""
    source, target = epath.Path(source), epath.Path(target)
    target.mkdir(parents=True, exist_ok=True)
    # The manifest, without which there is no component, comes last.
    for path in sorted(source.iterdir(), key=lambda path: path.name == _MANIFEST):
        if path.is_dir():
            copy(path, target / path.name)
        else:
            path.copy(target / path.name, overwrite=True)


def write_manifest(folder: epath.PathLike, manifest: Mapping[str, dict[str, Any]]):
    """Completes a weight folder; see `read_manifest`."""
    write_json(epath.Path(folder) / _MANIFEST, dict(manifest))


def digest(value: np.ndarray) -> str:
    """SHA-256 of the values in C order."""
    return hashlib.sha256(np.ascontiguousarray(value).reshape(-1).view(np.uint8)).hexdigest()


def read_json(path: epath.PathLike) -> dict[str, Any]:
    """A JSON object.

    Raises:
        WanError: the file is missing, or is something else.
    """
    path = epath.Path(path)
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise WanError(f"{path}: no such file") from None
    except ValueError as error:
        raise WanError(f"{path}: not JSON ({error})") from None
    if not isinstance(content, dict):
        raise WanError(f"{path}: expected a JSON object")
    return content


def write_json(path: epath.PathLike, content: Any):
    """Replaces a JSON file atomically."""
    path = epath.Path(path)
    temporary = path.parent / f"{path.name}.tmp"
    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    temporary.replace(path)


def _saving() -> ocp.Context:
    context = ocp.Context()
    context.array.saving.use_ocdbt = False  # one folder per array, which is what lets us write them one by one
    context.array.saving.use_compression = False  # weights do not compress
    context.array.saving.array_metadata_store = None  # says nothing that zarr.json does not say
    context.array.saving.enable_write_sharding_file = False  # a reader's mesh is not the writer's
    return context


def _spec(folder: epath.Path, path: str) -> dict[str, Any]:
    array = folder / _ARRAYS / path.replace("/", ".")
    url = str(array) if "://" in str(array) else f"file://{array.absolute()}"
    return {"driver": "zarr3", "kvstore": f"{url}/"}


def _chunk_shape(shape: tuple[int, ...], itemsize: int, stacked: bool) -> list[int]:
    """Halves the largest even axis until a chunk is small; a chunk never spans two layers."""
    chunk = [1, *shape[1:]] if stacked else list(shape)
    while np.prod(chunk) * itemsize > _CHUNK_BYTES and any(n % 2 == 0 for n in chunk):
        axis = max((n, -i) for i, n in enumerate(chunk) if n % 2 == 0)[1]
        chunk[-axis] //= 2
    return chunk


def _read_index(folder: epath.Path) -> dict[str, Any]:
    if not is_checkpoint(folder):
        raise WanError(f"{folder}: not a finished wan_jax checkpoint (no {_INDEX} with a wan_jax entry)")
    index = read_json(folder / _INDEX)
    if (found := index["wan_jax"].get("format")) != FORMAT:
        raise WanError(f"{folder}: checkpoint format {found}, this version reads {FORMAT}")
    return index
