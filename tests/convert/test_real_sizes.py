"""Every released model's parameter tree against the tensor lists of the released checkpoints, under both names.

The lists are those of the reference classes at full size (diffusers' models on the meta device, and the original
classes of Wan2.2); nothing is allocated here either.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from convert.components import Component, components
from convert.original import dit_config
from convert.rules import check, torch_shapes
from convert.tensor_files import TensorInfo
from wan_jax.config import get_config

KEYS = Path(__file__).parents[1] / "goldens" / "keys"


def stacked_list(name: str, layout: str) -> dict[str, tuple[int, ...]]:
    """From a golden that holds one line for all layers."""
    golden = json.loads((KEYS / f"{name}.json").read_text())

    def layers(row) -> int:
        return golden["vace_layers" if row[layout].startswith("vace_blocks") else "layers"]

    return {
        row[layout].replace("{i}", str(i)): tuple(row.get(f"{layout}_shape", row["shape"]))
        for row in golden["tensors"]
        if layout in row
        for i in (range(layers(row)) if "{i}" in row[layout] else [0])
    }


def vae_list(name: str, layout: str) -> dict[str, tuple[int, ...]]:
    shapes = {key: tuple(shape) for key, shape in json.loads((KEYS / f"{name}.json").read_text()).items()}
    if layout == "diffusers":
        return shapes
    return {key: shapes[theirs] for key, theirs in json.loads((KEYS / f"{name}_names.json").read_text()).items()}


def in_the_table(part: Component, tensors: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Under the names of the rule table, where a file has several tensors in one, or ones that are not read."""
    others = {"textual.token_embedding.weight": (250002, 1024), "log_scale": (), "visual.head": (1280, 1024)}
    others["visual_projection.weight"] = (1024, 1280)
    header = {name: TensorInfo(shape, np.dtype(np.float16)) for name, shape in (tensors | others).items()}
    return {name: info.shape for name, info in part.names.header(header).items()}


@pytest.mark.parametrize("layout", ["diffusers", "original"])
@pytest.mark.parametrize(
    "model, transformer, tensors, vae",
    [
        ("wan22_t2v_a14b", "t2v_a14b", 1095, "vae21"),
        ("wan21_t2v_14b", "t2v_a14b", 1095, "vae21"),
        ("wan21_t2v_1_3b", "t2v_1_3b", 825, "vae21"),
        ("wan22_i2v_a14b", "i2v_a14b", 1095, "vae21"),
        ("wan22_ti2v_5b", "ti2v_5b", 825, "vae22"),
        ("wan21_vace_1_3b", "vace_1_3b", 1264, "vae21"),
        ("wan21_vace_14b", "vace_14b", 1331, "vae21"),
        ("wan22_vace_fun_a14b", "vace_14b", 1331, "vae21"),
        ("wan21_i2v_14b_480p", "i2v21_14b", 1303, "vae21"),
        ("wan21_i2v_14b_720p", "i2v21_14b", 1303, "vae21"),
        ("wan21_flf2v_14b", "flf2v21_14b", 1304, "vae21"),
    ],
)
def test_released_checkpoints(model, transformer, tensors, vae, layout):
    parts = components(get_config(model), "bfloat16")
    wanted = {name: stacked_list(transformer, layout) for name in parts if name.startswith("transformer")} | {
        "vae": vae_list(vae, layout),
        "text_encoder": stacked_list("umt5_xxl", layout),
    }
    if "image_encoder" in parts:
        wanted["image_encoder"] = in_the_table(parts["image_encoder"], stacked_list("clip_vit_h14", layout))
    assert wanted.keys() == parts.keys()
    for name, part in parts.items():
        assert torch_shapes(part.rules, layout, part.shapes) == wanted[name]
        check(part.rules, layout, part.shapes, wanted[name], name)
    assert len(wanted["transformer"]) == tensors


def test_size_of_a_14b_expert():
    part = components(get_config("wan22_t2v_a14b"), "float32")["transformer"]
    assert part.nbytes == 4 * 14_288_491_584


def test_original_config_of_vace():
    """Its blocks are every second one where the file does not say."""
    config = get_config("wan21_vace_1_3b").transformer
    header = {
        name: TensorInfo(shape, np.dtype("float32")) for name, shape in stacked_list("vace_1_3b", "original").items()
    }
    raw = {"dim": 1536, "ffn_dim": 8960, "freq_dim": 256, "in_dim": 16, "out_dim": 16, "num_heads": 12}
    raw |= {"num_layers": 30, "eps": 1e-6, "model_type": "vace", "vace_in_dim": 96}
    for layers in (list(range(0, 30, 2)), None):
        assert dit_config(raw | {"vace_layers": layers}, header, "config.json") == config


def test_size_of_first_and_last_frame_to_video():
    parts = components(get_config("wan21_flf2v_14b"), "float32")
    assert parts["transformer"].nbytes == 4 * 16_395_536_704
    assert parts["image_encoder"].nbytes == 4 * (632_076_800 - 1280 * 1024)  # without CLIP's own projection
