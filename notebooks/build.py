"""Runs the notebooks from top to bottom and writes their outputs: `python notebooks/build.py [NAME …]`.

The sources are the `.py` files.  Badge and install cell of each are written from `install_cell.py` and the address in
pyproject.toml, which stands nowhere else.  `--check` runs nothing and tells which notebooks are not of their sources.
"""

import argparse
import re
import sys
import time
import tomllib
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
NAMES = ("text_to_video", "flow_matching", "two_experts")
LIMIT_S = 300  # for a whole notebook
_LINK = re.compile(r"(?<=^# \[colab\]: ).*", re.MULTILINE)  # of the badge
_INSTALL = re.compile(r'(?<=# %% tags=\["install"\]\n).*?(?=\n# %%)', re.DOTALL)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--check", action="store_true", help="run nothing; fail where a notebook is not of its source")
    parser.add_argument(
        "--limit", type=float, default=LIMIT_S, metavar="SECONDS", help="for a notebook (default: %(default)s)"
    )
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(NAMES):
        parser.error(f"no such notebook: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    names = asked.names or NAMES
    if asked.check:
        stale = [name for name in names if not is_fresh(name)]
        sys.exit(f"run `make notebooks` for {', '.join(stale)}" if stale else None)
    for name in names:
        print(f"{name}: {run(name, asked.limit):.0f} s", flush=True)


def run(name: str, limit_s: float = LIMIT_S) -> float:
    """Runs a notebook and writes it with its outputs; returns the seconds it took."""
    (HERE / f"{name}.py").write_text(source(name), encoding="utf-8")
    notebook = parse(name)
    started = time.monotonic()
    client = NotebookClient(notebook, timeout=limit_s, kernel_name="python3", resources={"metadata": {"path": HERE}})
    client.execute()
    seconds = time.monotonic() - started
    if seconds > limit_s:
        raise TimeoutError(f"{name} took {seconds:.0f} s; the limit is {limit_s:.0f} s")
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # clock times, which differ each run
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "jupytext": {"formats": "ipynb,py:percent"},
        "accelerator": "TPU",
        "colab": {"gpuType": "V5E1"},
    }
    nbformat.write(notebook, HERE / f"{name}.ipynb")
    return seconds


def source(name: str) -> str:
    """The text of a notebook's `.py` file, with badge and install cell as they have to be."""
    address = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    install = (HERE / "install_cell.py").read_text().replace("{repository}", address).rstrip() + "\n"
    page = address.replace("https://github.com", "https://colab.research.google.com/github")
    link = f"{page}/blob/main/notebooks/{name}.ipynb"
    text = (HERE / f"{name}.py").read_text(encoding="utf-8")
    return _INSTALL.sub(lambda _: install, _LINK.sub(link, text), count=1)


def parse(name: str) -> nbformat.NotebookNode:
    """A notebook without outputs.  Cells are numbered, so that equal sources give equal files."""
    notebook = jupytext.reads(source(name), fmt="py:percent")
    for number, cell in enumerate(notebook.cells):
        cell.id = f"{name.replace('_', '-')}-{number}"
    return notebook


def is_fresh(name: str) -> bool:
    """Whether the committed notebook holds the cells of its source."""
    path = HERE / f"{name}.ipynb"
    if not path.exists():
        return False
    cells = [(cell.cell_type, cell.source) for cell in nbformat.read(path, 4).cells]
    return cells == [(cell.cell_type, cell.source) for cell in parse(name).cells]


if __name__ == "__main__":
    main()
