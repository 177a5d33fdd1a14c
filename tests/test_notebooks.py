"""What can be told of the notebooks without running them; `make notebooks` runs them."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = ROOT / "notebooks"
FIGURES = ROOT / "docs" / "figures"


def load(name: str):
    """A module of the notebooks' folder, which is no package."""
    spec = importlib.util.spec_from_file_location(f"notebooks_{name}", NOTEBOOKS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


build = load("build")


@pytest.mark.parametrize("name", build.NAMES)
def test_notebook_holds_the_cells_of_its_source(name):
    assert build.is_fresh(name), "run `make notebooks`"


@pytest.mark.parametrize("name", build.NAMES)
def test_outputs_are_clean(name):
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    assert outputs and not [output for output in outputs if output["output_type"] == "error"]
    text = json.dumps([output.get("text", output.get("data", {}).get("text/plain")) for output in outputs])
    assert not re.search(r"/(root|home|tmp|work)/|Traceback|Warning", text)


def test_outputs_are_small():
    assert sum(path.stat().st_size for path in NOTEBOOKS.glob("*.ipynb")) < 500_000
    assert sum(path.stat().st_size for path in FIGURES.iterdir()) < 300_000


def test_every_figure_has_a_caption_and_a_notebook():
    captions = re.findall(r"^- \[(.+)\]\(\1\.png\): .+$", (FIGURES / "README.md").read_text(), re.MULTILINE)
    assert captions == sorted(path.stem for path in FIGURES.glob("*.png"))
    sources = "".join((NOTEBOOKS / f"{name}.py").read_text() for name in build.NAMES)
    assert [name for name in captions if f'"{name}"' not in sources] == []


def test_every_notebook_is_listed_with_its_time():
    text = (NOTEBOOKS / "README.md").read_text()
    listed = re.findall(r"^\| \[(\w+)\]\(\1\.ipynb\) \|.*\| [1-9]\d* \|$", text, re.MULTILINE)
    assert listed == list(build.NAMES)


def test_percent_format():
    text = '# %% [markdown]\n# # Title\n#\n# text\n\n# %% tags=["install"]\nx = 1\n\n\n# %%\n# a comment\nf(x)\n'
    expected = [
        ("markdown", [], "# Title\n\ntext"),
        ("code", ["install"], "x = 1"),
        ("code", [], "# a comment\nf(x)"),
    ]
    assert list(build.cells_of(text)) == expected


def test_new_text_keeps_outputs(tmp_path, monkeypatch):
    name, here = build.NAMES[0], tmp_path / "notebooks"
    here.mkdir()
    for file in ("pyproject.toml", f"notebooks/{name}.py", f"notebooks/{name}.ipynb", "notebooks/install_cell.py"):
        (tmp_path / file).write_bytes((ROOT / file).read_bytes())
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "HERE", here)
    source, notebook = here / f"{name}.py", here / f"{name}.ipynb"
    before = notebook.read_bytes()
    build.update_text(name)
    assert notebook.read_bytes() == before

    source.write_text(source.read_text().replace("# ## Install\n", "# ## Installing\n"))
    assert not build.is_fresh(name)
    build.update_text(name)
    assert build.is_fresh(name)
    assert notebook.read_text() == before.decode().replace("## Install\\n", "## Installing\\n")

    source.write_text(source.read_text() + "\n# %%\nx = 1\n")
    with pytest.raises(ValueError, match="its code changed"):
        build.update_text(name)


def test_imports_are_followed(tmp_path):
    notebook = tmp_path / "notebook.py"
    notebook.write_text("def later():\n    from wan_jax.diffusion import euler\nimport figures, runtime, numpy\n")
    found = {str(path.relative_to(ROOT)) for path in build.imported_files(notebook) - {notebook}}
    assert {"wan_jax/diffusion/euler.py", "wan_jax/diffusion/__init__.py", "notebooks/runtime.py"} <= found
    assert "notebooks/figures.py" not in found  # only the looks
    assert "wan_jax/diffusion/solvers.py" in found  # which euler imports
    assert "wan_jax/cli/train.py" not in found and "convert/conversion.py" in found  # through wan_jax/__init__.py


def test_changed_files_have_their_notebook_run(tmp_path, monkeypatch):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "HERE", tmp_path / "notebooks")
    for name, text in {
        "notebooks/one.py": "import wan_jax.part\n",
        "notebooks/one.ipynb": "{}",
        "wan_jax/__init__.py": "",
        "wan_jax/part.py": "from wan_jax import deep\n",
        "wan_jax/deep.py": "",
        "wan_jax/other.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    def commit(path: str, text: str):
        (tmp_path / path).write_text(text)
        git("add", "-A")
        git("commit", "-m", path)

    git("init")
    assert build.has_changed("one")  # never committed
    commit("notebooks/one.ipynb", "{}\n")
    assert not build.has_changed("one")
    commit("wan_jax/other.py", "x = 1\n")
    assert not build.has_changed("one")
    commit("wan_jax/deep.py", "x = 1\n")
    assert build.has_changed("one")
    commit("notebooks/one.ipynb", "{} \n")
    assert not build.has_changed("one")
    (tmp_path / "notebooks/one.py").write_text("import wan_jax.part  # edited\n")
    assert build.has_changed("one")


SESSION = """
import sys
import runtime
dtype = runtime.prepare(sys.argv[1])
import convert.conversion
from wan_jax import WanPipeline, executables
converted = []
work = convert.conversion._convert_weights
convert.conversion._convert_weights = lambda *a: converted.append(1) or work(*a)
pipe = WanPipeline.from_pretrained(sys.argv[2], dtype=dtype, cache_dir=sys.argv[1] + "/models")
pipe("a prompt", num_frames=5, height=32, width=32, num_inference_steps=2, output_type="latent")
print("converted", len(converted), "built", executables.tally.built)
"""


def test_a_second_session_with_the_same_folder_converts_and_compiles_nothing(tmp_path):
    from wan_jax import placeholder

    model = str(placeholder.folder())
    paths = os.pathsep.join([str(ROOT), str(NOTEBOOKS)])

    def session() -> str:
        command = [sys.executable, "-c", SESSION, str(tmp_path / "folder"), model]
        environment = os.environ | {"PYTHONPATH": paths, "JAX_PLATFORMS": "cpu"}
        environment.pop("JAX_COMPILATION_CACHE_DIR", None)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout

    first, second = session(), session()
    assert re.search(r"converted 1 built [1-9]", first)
    assert "converted 0 built 0" in second


def test_pictures_are_small_and_captions_sorted(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("IPython")
    import numpy as np

    figures = load("figures")
    monkeypatch.setattr(figures, "FOLDER", tmp_path)
    noise = np.random.default_rng(0).random((64, 64, 3))
    for name, caption in (("b", "Noise"), ("a", "Other noise"), ("b", "The same noise")):
        figures.save(noise, name, caption)
    lines = [line for line in (tmp_path / "README.md").read_text().splitlines() if line.startswith("- ")]
    assert lines == ["- [a](a.png): Other noise", "- [b](b.png): The same noise"]
    with pytest.raises(ValueError, match="more than one line"):
        figures.save(noise, "c", "two\nlines")
    with pytest.raises(ValueError, match="show less"):
        figures.save(np.random.default_rng(0).random((512, 512, 3)), "c", "too much")
    assert not Path(tmp_path, "c.png").exists()
