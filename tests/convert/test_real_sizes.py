"""Every released model's parameter tree against the tensor lists of the released checkpoints, under both names.

The lists are those of the reference classes at full size (diffusers' models on the meta device, and the original
classes of Wan2.2); nothing is allocated here either.
"""

import json
from pathlib import Path

import numpy as np
import pytest

from convert.components import components
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
        row[layout].replace("{i}", str(i)): tuple(row["shape"])
        for row in golden["tensors"]
        for i in (range(layers(row)) if "{i}" in row[layout] else [0])
    }


def vae_list(name: str, layout: str) -> dict[str, tuple[int, ...]]:
    shapes = {key: tuple(shape) for key, shape in json.loads((KEYS / f"{name}.json").read_text()).items()}
    if layout == "diffusers":
        return shapes
    return {key: shapes[theirs] for key, theirs in json.loads((KEYS / f"{name}_names.json").read_text()).items()}


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
    ],
)
def test_released_checkpoints(model, transformer, tensors, vae, layout):
    parts = components(get_config(model), "bfloat16")
    wanted = {name: stacked_list(transformer, layout) for name in parts if name.startswith("transformer")} | {
        "vae": vae_list(vae, layout),
        "text_encoder": stacked_list("umt5_xxl", layout),
    }
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
