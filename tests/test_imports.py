"""The package stays light, and nothing imports upward."""

import ast
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[1] / "wan_jax"
# Each may import from those before it in the list, and from its own package.
LAYERS = [
    {"errors", "typing"},
    {"config", "precision", "cache", "cluster", "compiler", "executables", "sharding", "chips", "remat", "room"},
    {"kernels", "quantization", "world"},
    {"attention", "checkpoint", "tokenizer", "byte_tokenizer", "video_io", "images", "frames", "metrics", "perceptual"},
    {"models"},
    {"diffusion", "placeholder", "lora", "lora_files"},
    {"experts", "conditioning"},
    {"vcu"},
    {"editing"},
    {"pipelines"},
    {"data"},
    {"train"},
    {"plan", "explain"},
    {"cli", "app"},
    {"__init__", "__main__"},
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}
FILES = sorted(ROOT.rglob("*.py"))


def unit(path: pathlib.Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0]


def imported_units(path: pathlib.Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "wan_jax":
            rest = node.module.split(".")[1:]
            names = [rest[0]] if rest else [alias.name for alias in node.names]
            found |= {name for name in names if name in RANK}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_imports_upward(path):
    above = {name for name in imported_units(path) - {unit(path)} if RANK[name] >= RANK[unit(path)]}
    same_layer = {name for name in above if RANK[name] == RANK[unit(path)]}
    assert above == same_layer, f"{path} imports {above - same_layer}"


def test_neither_torch_nor_tensorflow():
    script = (
        "import sys, wan_jax.cli, wan_jax.pipelines.wan, wan_jax.data.build, wan_jax.data.loader, convert.conversion\n"
        "bad = {'torch', 'tensorflow', 'transformers'} & set(sys.modules)\n"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
