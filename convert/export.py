"""Our parameters → a checkpoint in the Diffusers layout, tensor by tensor."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from etils import epath

from convert.arrays import contiguous
from convert.components import Component, components
from convert.rules import flat, torch_shapes
from convert.tensor_files import TensorInfo, write_safetensors
from wan_jax import checkpoint
from wan_jax.config import CLIPConfig, WanConfig
from wan_jax.errors import WanError
from wan_jax.precision import storage_dtype

SHARD_BYTES = 5_000_000_000  # what diffusers and transformers save by default
_STEMS = {"text_encoder": "model", "image_encoder": "model"}  # transformers' name; the others have that of diffusers
_DIFFUSERS_STEM = "diffusion_pytorch_model"
_CONFIG_EXTRAS = {
    "text_encoder": {
        "architectures": ["UMT5EncoderModel"],
        "model_type": "umt5",
        "is_encoder_decoder": True,
        "pad_token_id": 0,
        "eos_token_id": 1,
    },
    "image_encoder": {"architectures": ["CLIPVisionModel"], "model_type": "clip_vision_model"},
}
# What transformers' processor does to pictures before CLIP; ours follows the official code instead.
_IMAGE_PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_convert_rgb": True,
    "do_resize": True,
    "resample": 3,
    "do_center_crop": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}

GetArray = Callable[[str, str, int | None], np.ndarray]  # (component, parameter, layer)
GetDtype = Callable[[str, str], np.dtype]  # (component, parameter)


def export(src: str, dst: str):
    """Writes a checkpoint of ours in the Diffusers layout.

    A tensor that we store in a wider type than it came in is written in the type it came in; with that, converting
    and exporting gives the same files' tensors bit for bit.

    Raises:
        WanError: `src` is no checkpoint of ours, its data are damaged, or `dst` exists.
    """
    folder = epath.Path(src)
    config = checkpoint.read_model(folder)
    if config.transformer.quantization is not None:
        raise WanError(
            f"{src}: its matrices are kept in eight bits ({config.transformer.quantization}), which Diffusers' layout "
            "has no room for; export a model that was converted without --quantize"
        )
    manifests = {name: checkpoint.read_manifest(folder / name) for name in checkpoint.components(config)}

    def dtype(name: str, path: str) -> np.dtype:
        entry = manifests[name][path]
        return min((np.dtype(entry["source_dtype"]), np.dtype(entry["dtype"])), key=lambda d: d.itemsize)

    def get(name: str, path: str, layer: int | None) -> np.ndarray:
        return checkpoint.read_array(folder / name, path, layer)

    _export(config, get, dtype, folder / "tokenizer", Path(dst))


def export_model(
    config: WanConfig, params: Mapping[str, Mapping], tokenizer: str | Path, dst: str | Path, dtype="float32"
):
    """Writes parameters that are in memory in the Diffusers layout.

    Args:
        config: what the model is.
        params: the tree of every component, {"transformer": …, "vae": …, "text_encoder": …}.
        tokenizer: a directory whose files are copied.
        dst: the directory to make.
        dtype: as for `convert`: norms, modulation and the VAE are written in float32.
    """
    arrays = {name: flat(tree) for name, tree in params.items()}

    def get(name: str, path: str, layer: int | None) -> np.ndarray:
        return np.asarray(arrays[name][path] if layer is None else arrays[name][path][layer])

    def stored(name: str, path: str) -> np.dtype:
        return storage_dtype(path, np.float32 if name == "vae" else dtype)

    _export(config, get, stored, epath.Path(tokenizer), Path(dst))


def _export(config: WanConfig, get: GetArray, dtype: GetDtype, tokenizer: epath.Path, dst: Path):
    if dst.exists():
        raise WanError(f"{dst}: exists; delete it or choose another --dst")
    work = dst.parent / f"{dst.name}.partial"
    if work.exists():
        shutil.rmtree(work)
    for name, component in components(config, np.float32).items():
        (work / name).mkdir(parents=True)
        about = _CONFIG_EXTRAS.get(name) or {"_class_name": checkpoint.class_entries(config)[name][1]}
        _write_json(work / name / "config.json", about | component.config.to_json())
        _write_weights(component, get, dtype, work / name)
    (work / "tokenizer").mkdir()
    for file in tokenizer.iterdir():
        (work / "tokenizer" / file.name).write_bytes(file.read_bytes())
    if config.image_encoder is not None:
        (work / "image_processor").mkdir()
        _write_json(work / "image_processor" / "preprocessor_config.json", _image_processor(config.image_encoder))
    (work / "scheduler").mkdir()
    _write_json(work / "scheduler" / "scheduler_config.json", _scheduler(config))
    _write_json(work / "model_index.json", _model_index(config, work / "tokenizer"))
    work.rename(dst)


def _write_weights(component: Component, get: GetArray, dtype: GetDtype, folder: Path):
    places = component.places("diffusers")
    shapes = torch_shapes(component.rules, "diffusers", component.shapes)
    header = {t: TensorInfo(shapes[t], dtype(component.name, rule.path)) for t, (rule, _) in places.items()}

    def tensor(name: str) -> np.ndarray:
        rule, layer = places[name]
        value = contiguous(get(component.name, rule.path, layer), header[name].dtype)
        return contiguous(rule.transform.to_torch(value), header[name].dtype)

    stem, shards = _STEMS.get(component.name, _DIFFUSERS_STEM), _shards(header)
    if len(shards) == 1:
        write_safetensors(folder / f"{stem}.safetensors", header, tensor)
        return
    weight_map = {}
    for n, names in enumerate(shards, start=1):
        file = f"{stem}-{n:05}-of-{len(shards):05}.safetensors"
        write_safetensors(folder / file, {name: header[name] for name in names}, tensor)
        weight_map |= dict.fromkeys(names, file)
    total = sum(info.nbytes for info in header.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    _write_json(folder / f"{stem}.safetensors.index.json", index)


def _shards(header: Mapping[str, TensorInfo]) -> list[list[str]]:
    shards, room = [], 0
    for name, info in header.items():
        if info.nbytes > room:
            shards.append([])
            room = SHARD_BYTES
        shards[-1].append(name)
        room -= info.nbytes
    return shards


def _scheduler(config: WanConfig) -> dict[str, Any]:
    return {
        "_class_name": "UniPCMultistepScheduler",
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": config.sampling.flow_shift,
    }


def _image_processor(config: CLIPConfig) -> dict[str, Any]:
    side = config.image_size
    return _IMAGE_PROCESSOR | {"size": {"shortest_edge": side}, "crop_size": {"height": side, "width": side}}


def _model_index(config: WanConfig, tokenizer: Path) -> dict[str, Any]:
    processor = [None, None] if config.image_encoder is None else ["transformers", "CLIPImageProcessor"]
    pictures = {"image_encoder": [None, None], "image_processor": processor}
    # Diffusers loads a tokenizer only through the class that wrote it.
    written_by = checkpoint.read_json(tokenizer / "tokenizer_config.json").get("tokenizer_class", "T5TokenizerFast")
    return (
        {
            "boundary_ratio": config.boundary_ratio,
            "expand_timesteps": config.expand_timesteps,
            "scheduler": ["diffusers", "UniPCMultistepScheduler"],
            "transformer_2": [None, None],
        }
        | (pictures if config.shows_images_as_channels else {})
        | checkpoint.class_entries(config)
        | {"tokenizer": ["transformers", written_by]}
    )


def _write_json(path: Path, content: dict[str, Any]):
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
