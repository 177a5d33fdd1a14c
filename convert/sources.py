"""Opens a PyTorch checkpoint: which model it is, in which layout, and which files hold what."""

import dataclasses
import re
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax.traverse_util import unflatten_dict
from tqdm import tqdm

from convert import original
from convert.arrays import contiguous
from convert.components import Component, components
from convert.folders import Folder, open_folder, read_json
from convert.rules import Layout
from convert.tensor_files import TensorInfo, tensor_file
from wan_jax.config import CLIPConfig, DiTConfig, UMT5Config, VAEConfig, WanConfig, get_config, model_names
from wan_jax.errors import WanError
from wan_jax.typing import Params

_WORKERS = 3  # tensors in flight; each holds about three copies of itself


@dataclass(frozen=True)
class Source:
    """A checkpoint whose model is known.  Its tensors have not been read yet.

    `files` are the weight files of each component and `tokenizer` those of the tokenizer, as the folder names them.
    """

    folder: Folder
    layout: Layout
    config: WanConfig
    files: dict[str, list[str]]
    tokenizer: list[str]

    def header(self, component: Component, file: str) -> dict[str, TensorInfo]:
        """The tensors in a file under the names of the rule table; second names of the same tensor are left out."""
        header, held = self.folder.header(file), None
        if component.names.aliases.keys() & header.keys():
            held = {name for other in self.files[component.name] for name in self.folder.header(other)}
        return component.names.header(header, held)

    def headers(self, component: Component) -> dict[str, dict[str, TensorInfo]]:
        """`header` of every file of a component, checked against what the model needs.

        Raises:
            WanError: lists every tensor that is missing, unexpected, misshapen or there twice.
        """
        headers = {file: self.header(component, file) for file in self.files[component.name]}
        found = [name for header in headers.values() for name in header]
        if twice := sorted({name for name in found if found.count(name) > 1}):
            raise WanError(f"{self.folder.name}/{component.name}: in more than one file: {', '.join(twice)}")
        merged = {name: info for header in headers.values() for name, info in header.items()}
        component.check(self.layout, merged, f"{self.folder.name}/{component.name}")
        return headers

    def convert_file(
        self,
        component: Component,
        path: Path,
        names: Iterable[str],
        store: Callable[[str, int | None, np.ndarray], Any],
    ) -> Iterator[tuple[str, Any]]:
        """Hands tensors of one file, laid out and cast as ours, to `store(path, layer, value)` on a few threads.

        Yields:
            the name of each tensor with what `store` returned, as they finish.
        """
        places, reader = component.places(self.layout), tensor_file(path)
        found = component.names.places(reader.header)

        def work(name: str):
            rule, layer = places[name]
            held_as, rows = found[name]
            tensor = reader.read(held_as) if rows is None else reader.read(held_as)[rows]
            value = contiguous(rule.transform_of(self.layout).to_jax(tensor), component.shapes[rule.path].dtype)
            return name, store(rule.path, layer, value)

        with ThreadPoolExecutor(_WORKERS) as pool:
            futures = [pool.submit(work, name) for name in names]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                for future in futures:
                    future.cancel()

    def read(self, name: str, dtype) -> Params:
        """One component ("transformer", "vae", …) as a tree of numpy arrays, without writing anything."""
        component = components(self.config, dtype)[name]
        headers = self.headers(component)
        out = {path: np.empty(x.shape, x.dtype) for path, x in component.shapes.items()}

        def store(path: str, layer: int | None, value: np.ndarray):
            out[path][... if layer is None else layer] = value

        total = sum(info.nbytes for header in headers.values() for info in header.values())
        with tqdm(total=total, unit="B", unit_scale=True, desc=name, leave=False, delay=1) as bar:
            for file, header in headers.items():
                for tensor, _ in self.convert_file(component, self.folder.fetch(file), header, store):
                    bar.update(header[tensor].nbytes)
        return unflatten_dict(out, sep="/")

    def read_tokenizer(self) -> Path:
        """The directory of the tokenizer, fetched whole."""
        return {self.folder.fetch(name).parent for name in self.tokenizer}.pop()


def open_source(src: str, revision: str | None = None, downloads: Path | None = None) -> Source:
    """Opens a checkpoint wherever it is.

    Args:
        src: a directory in the Diffusers or the original Wan layout, or a hub id of such a repository.
        revision: of the hub repository.
        downloads: see `HubFolder`.

    Raises:
        WanError: there is none, or it is of a model that this package does not have.
    """
    folder = open_folder(src, revision, downloads)
    if "model_index.json" in folder.sizes:
        return _diffusers(folder)
    if original.expert_folders(folder):
        return _original(folder)
    raise WanError(
        f"{folder.name}: not a Wan checkpoint; expected model_index.json (Diffusers), or config.json beside"
        " diffusion_pytorch_model*.safetensors, or high_noise_model/ and low_noise_model/ (original)"
    )


_VAE_FILES = ("Wan2.1_VAE.pth", "Wan2.2_VAE.pth")
_CLIP_FILE = "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth"


def _diffusers(folder: Folder) -> Source:
    index = read_json(folder, "model_index.json")
    if "wan_jax" in index:
        raise WanError(f"{folder.name}: already in our layout; there is nothing to convert")
    experts = ["transformer"] + ["transformer_2"] * ((index.get("transformer_2") or [None])[0] is not None)
    classes = {e: DiTConfig for e in experts} | {"vae": VAEConfig, "text_encoder": UMT5Config}
    if (index.get("image_encoder") or [None])[0] is not None:
        classes["image_encoder"] = CLIPConfig
    parts = {}
    for name, cls in classes.items():
        raw, where = read_json(folder, f"{name}/config.json"), f"{folder.name}/{name}/config.json"
        refuse_other_models(raw, where)
        parts[name] = cls.from_json(raw, where)
    transformers = [parts[e] for e in experts]
    _check_image_encoder(transformers[0], parts.get("image_encoder"), folder.name)
    config = model_of(transformers, parts["vae"], parts["text_encoder"], folder.name, parts.get("image_encoder"))
    config = dataclasses.replace(config, expand_timesteps=bool(index.get("expand_timesteps", False)))
    if len(experts) == 2 and index.get("boundary_ratio") is not None:
        config = dataclasses.replace(config, boundary_ratio=index["boundary_ratio"])
    return Source(
        folder=folder,
        layout="diffusers",
        config=config,
        files={name: _weight_files(folder, name) for name in parts},
        tokenizer=_tokenizer_files(folder, "tokenizer/"),
    )


def _original(folder: Folder) -> Source:
    """Wan2.2, wan/text2video.py, wan/textimage2video.py and wan/configs name the files."""
    experts = original.expert_folders(folder)
    vae_file = next((name for name in _VAE_FILES if name in folder.sizes), _VAE_FILES[0])
    files = {
        name: [f for f in folder.sizes if re.fullmatch(rf"{prefix}diffusion_pytorch_model[^/]*\.safetensors", f)]
        for name, prefix in zip(("transformer", "transformer_2"), experts)
    } | {"vae": [vae_file], "text_encoder": ["models_t5_umt5-xxl-enc-bf16.pth"]}
    if _CLIP_FILE in folder.sizes:
        files["image_encoder"] = [_CLIP_FILE]
    for name, wanted in files.items():
        if not wanted or any(f not in folder.sizes for f in wanted):
            raise WanError(
                f"{folder.name}: the weights of the {name} are missing ({', '.join(wanted) or '*.safetensors'})"
            )
    headers = {
        name: {key: info for f in wanted for key, info in folder.header(f).items()} for name, wanted in files.items()
    }
    transformers = []
    for name, prefix in zip(("transformer", "transformer_2"), experts):
        raw = read_json(folder, f"{prefix}config.json")
        refuse_other_models(raw, f"{folder.name}/{prefix}config.json")
        transformers.append(original.dit_config(raw, headers[name], f"{folder.name}/{prefix}config.json"))
    vae = original.vae_config(headers["vae"], f"{folder.name}/{files['vae'][0]}")
    text_encoder = original.umt5_config(headers["text_encoder"], f"{folder.name}/{files['text_encoder'][0]}")
    image_encoder = None
    if "image_encoder" in files:
        image_encoder = original.clip_config(headers["image_encoder"], f"{folder.name}/{_CLIP_FILE}")
    _check_image_encoder(transformers[0], image_encoder, folder.name)
    return Source(
        folder=folder,
        layout="original",
        config=model_of(transformers, vae, text_encoder, folder.name, image_encoder),
        files=files,
        tokenizer=_tokenizer_files(folder, "google/umt5-xxl/"),
    )


def _check_image_encoder(transformer: DiTConfig, image_encoder: CLIPConfig | None, where: str):
    width = None if image_encoder is None else image_encoder.hidden_size
    if transformer.image_dim is not None and width != transformer.image_dim:
        raise WanError(
            f"{where}: the transformer sees pictures through CLIP, {transformer.image_dim} wide; the image encoder is "
            f"{'missing' if width is None else f'{width} wide'}"
        )


def model_of(
    transformers: list[DiTConfig],
    vae: VAEConfig,
    text_encoder: UMT5Config,
    where: str,
    image_encoder: CLIPConfig | None = None,
) -> WanConfig:
    """The released model with these transformers, or one called "custom" that is sampled like its nearest relative."""
    if len(set(transformers)) > 1:
        raise WanError(f"{where}: the two transformers have different sizes")
    released = [get_config(name) for name in model_names()]
    same = [c for c in released if c.transformer == transformers[0] and len(c.transformers) == len(transformers)]
    if same:
        return dataclasses.replace(same[0], vae=vae, text_encoder=text_encoder, image_encoder=image_encoder)
    relative = get_config(_nearest(transformers, vae))
    parts = dict(transformer=transformers[0], vae=vae, text_encoder=text_encoder, image_encoder=image_encoder)
    return dataclasses.replace(relative, name="custom", hub_id=None, **parts)


def _nearest(transformers: list[DiTConfig], vae: VAEConfig) -> str:
    """The released model that is sampled as one with these parts."""
    if transformers[0].vace_layers:
        return "wan22_vace_fun_a14b" if len(transformers) == 2 else "wan21_vace_14b"
    if len(transformers) == 2:
        return "wan22_i2v_a14b" if transformers[0].in_channels > vae.z_dim else "wan22_t2v_a14b"
    if transformers[0].image_dim is not None:
        return "wan21_i2v_14b_720p" if transformers[0].pos_embed_seq_len is None else "wan21_flf2v_14b"
    return "wan22_ti2v_5b" if vae.is_residual else "wan21_t2v_14b"


def refuse_other_models(raw: dict[str, Any], where: str):
    """Raises a WanError that names the model, where a transformer's or VAE's config is of one we do not have."""
    kind = raw.get("model_type")
    if "motion_encoder_dim" in raw or kind == "animate":
        model = "Wan2.2-Animate"
    elif kind == "s2v":
        model = "Wan2.2-S2V"
    else:
        return
    raise WanError(f"{where}: this is {model}; it is not supported yet")


def _weight_files(folder: Folder, component: str) -> list[str]:
    """The shards that an index lists, or the files of the usual names; other precisions ("….fp16.…") are passed by."""
    index = [f for f in folder.sizes if re.fullmatch(rf"{component}/\w+\.safetensors\.index\.json", f)]
    if index:
        where = read_json(folder, index[0]).get("weight_map", {})
        files = sorted({f"{component}/{file}" for file in where.values()})
        for file in files:
            if file not in folder.sizes:
                lost = [name for name, f in where.items() if f"{component}/{f}" == file]
                raise WanError(f"{folder.name}: {file} is missing, with {len(lost)} tensors: {', '.join(lost[:3])} …")
    else:
        pattern = rf"{component}/(diffusion_pytorch_)?model(-\d+-of-\d+)?\.safetensors"
        files = sorted(f for f in folder.sizes if re.fullmatch(pattern, f))
    if not files:
        raise WanError(f"{folder.name}: there are no safetensors weights in {component}/")
    return files


def _tokenizer_files(folder: Folder, prefix: str) -> list[str]:
    files = [f for f in folder.sizes if f.startswith(prefix) and "/" not in f.removeprefix(prefix)]
    if not files:
        raise WanError(f"{folder.name}: the tokenizer is missing ({prefix})")
    return files
