"""Runs the notebooks from top to bottom and writes their outputs: `python notebooks/build.py [NAME …]`.

The sources are the `.py` files, in jupytext's percent format.  Badge and install cell of each are written from
`install_cell.py` and the address in pyproject.toml, which stands nowhere else.  What runs nothing needs no packages:
`--check` fails where a notebook does not hold the cells of its source, `--text` takes over what was changed between
cells of code, and `--changed` names the notebooks that are to be run again, as they or what they import changed since
the last commit that wrote their outputs.
"""

import argparse
import ast
import json
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NAMES = (
    "text_to_video",
    "conditioned",
    "inside_the_vae",
    "flow_matching",
    "two_experts",
    "sharding",
    "lora",
    "pod_slice",
)
LIMIT_S = 300  # for a whole notebook
_OURS = ("wan_jax", "convert", "configs")
_LOOKS = "figures"  # lays out and stores pictures; what they show does not depend on it
_LINK = re.compile(r"(?<=^# \[colab\]: ).*", re.MULTILINE)  # of the badge
_INSTALL = re.compile(r'(?<=# %% tags=\["install"\]\n).*?(?=\n# %%)', re.DOTALL)
_CELL = re.compile(r"^# %%(?P<kind> \[markdown\])?(?: tags=(?P<tags>\[.*\]))?\n", re.MULTILINE)
_METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
    "jupytext": {"formats": "ipynb,py:percent"},
    "accelerator": "TPU",
    "colab": {"gpuType": "V5E1"},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"some of {', '.join(NAMES)} (default: all)")
    parser.add_argument("--check", action="store_true", help="run nothing; fail where a notebook is not of its source")
    parser.add_argument(
        "--text", action="store_true", help="run nothing; write new text into notebooks of the same code"
    )
    parser.add_argument("--changed", action="store_true", help="run nothing; print the notebooks to run again")
    parser.add_argument(
        "--limit", type=float, default=LIMIT_S, metavar="SECONDS", help="for a notebook (default: %(default)s)"
    )
    asked = parser.parse_args()
    if unknown := set(asked.names) - set(NAMES):
        parser.error(f"no such notebook: {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    names = asked.names or NAMES
    if asked.changed:
        print(*filter(has_changed, names))
    elif asked.text:
        for name in names:
            update_text(name)
    elif asked.check:
        stale = [name for name in names if not is_fresh(name)]
        sys.exit(f"run `make notebooks` for {', '.join(stale)}" if stale else None)
    else:
        for name in dict.fromkeys(names):
            print(f"{name}: {run(name, asked.limit):.0f} s", flush=True)


# ---- Running --------------------------------------------------------------------------------------------------------


def run(name: str, limit_s: float = LIMIT_S) -> float:
    """Runs a notebook and writes it with its outputs; returns the seconds it took.

    It works in an empty folder inside the checkout, as if for the first time: its own `files` may hold earlier runs.
    """
    import nbformat
    from nbclient import NotebookClient

    (HERE / f"{name}.py").write_text(source(name), encoding="utf-8")
    notebook = nbformat.from_dict(unrun(name))
    (ROOT / "build").mkdir(exist_ok=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=limit_s, kernel_name="python3", resources=resources).execute()
    seconds = time.monotonic() - started
    if seconds > limit_s:
        raise TimeoutError(f"{name} took {seconds:.0f} s; the limit is {limit_s:.0f} s")
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # clock times, which differ each run
    notebook.metadata = _METADATA
    nbformat.write(notebook, HERE / f"{name}.ipynb")
    return seconds


def update_text(name: str):
    """Writes a notebook's cells of text anew, and keeps the outputs of its code.

    Raises:
        ValueError: the code differs from what was run.
    """
    path, notebook = HERE / f"{name}.ipynb", unrun(name)
    held = json.loads(path.read_text(encoding="utf-8"))
    ran, code = ([cell for cell in each["cells"] if cell["cell_type"] == "code"] for each in (held, notebook))
    if ["".join(cell["source"]) for cell in ran] != [cell["source"] for cell in code]:
        raise ValueError(f"{name}: its code changed; run it")
    for cell, before in zip(code, ran):
        cell |= {key: before[key] for key in ("outputs", "execution_count")}
    for cell in notebook["cells"]:
        cell["source"] = cell["source"].splitlines(keepends=True)
    (HERE / f"{name}.py").write_text(source(name), encoding="utf-8")
    notebook["metadata"] = held["metadata"]
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def source(name: str) -> str:
    """The text of a notebook's `.py` file, with badge and install cell as they have to be."""
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
    install = (HERE / "install_cell.py").read_text().replace("{repository}", address).rstrip() + "\n"
    page = address.replace("https://github.com", "https://colab.research.google.com/github")
    link = f"{page}/blob/main/notebooks/{name}.ipynb"
    text = (HERE / f"{name}.py").read_text(encoding="utf-8")
    return _INSTALL.sub(lambda _: install, _LINK.sub(link, text), count=1)


def unrun(name: str) -> dict:
    """A notebook without outputs.  Cells are numbered, so that equal sources give equal files."""
    cells = []
    for number, (kind, tags, text) in enumerate(cells_of(source(name))):
        cell = {"cell_type": kind, "id": f"{name.replace('_', '-')}-{number}", "metadata": {}, "source": text}
        if tags:
            cell["metadata"] = {"tags": tags}
        cells.append(cell if kind == "markdown" else cell | {"execution_count": None, "outputs": []})
    return {"nbformat": 4, "nbformat_minor": 5, "metadata": _METADATA, "cells": cells}


def cells_of(text: str) -> Iterator[tuple[str, list[str], str]]:
    """Kind, tags and text of the cells in percent format."""
    marks = list(_CELL.finditer(text))
    for mark, end in zip(marks, [after.start() for after in marks[1:]] + [len(text)]):
        body, kind = text[mark.end() : end].strip("\n"), "markdown" if mark["kind"] else "code"
        if kind == "markdown":
            body = re.sub(r"^# ?", "", body, flags=re.MULTILINE)
        yield kind, json.loads(mark["tags"] or "[]"), body


# ---- What is out of date --------------------------------------------------------------------------------------------


def is_fresh(name: str) -> bool:
    """Whether the committed notebook holds the cells of its source, and the source what `source` would make of it."""
    path = HERE / f"{name}.ipynb"
    if not path.exists() or (HERE / f"{name}.py").read_text(encoding="utf-8") != source(name):
        return False
    held = json.loads(path.read_text(encoding="utf-8"))["cells"]
    wanted = unrun(name)["cells"]
    return [(cell["cell_type"], "".join(cell["source"])) for cell in held] == [
        (cell["cell_type"], cell["source"]) for cell in wanted
    ]


def has_changed(name: str) -> bool:
    """Whether a notebook, or any file that it imports, differs from the last commit that touched its outputs."""
    outputs = f"notebooks/{name}.ipynb"
    commit = _git("log", "-1", "--format=%H", "--", outputs).stdout.strip()
    files = [outputs, *(str(file.relative_to(ROOT)) for file in imported_files(HERE / f"{name}.py"))]
    return not commit or _git("diff", "--quiet", commit, "--", *files).returncode != 0


def imported_files(path: Path) -> set[Path]:
    """A Python file and all files of ours that it imports, at any depth and anywhere in their code.

    A notebook that calls the command line in another process, by "-m" and a package, imports that package's `__main__`.
    """
    found, waiting = set(), [path]
    while waiting:
        file = waiting.pop()
        if file in found:
            continue
        found.add(file)
        text = file.read_text(encoding="utf-8")
        names = {f"{name}.__main__" for name in _OURS if re.search(rf'-m",? "?{name}\b', text)}
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        waiting += [file for name in names for file in _files_of(name)]
    return found


def _files_of(name: str) -> list[Path]:
    """The files that importing a module of ours runs, those of the packages around it too; none for other modules."""
    parts = name.split(".")
    if parts[0] not in _OURS:
        beside = HERE / f"{name}.py"
        return [beside] if beside.exists() and name != _LOOKS else []
    places = [ROOT.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return [file for place in places for file in (place / "__init__.py", place.with_suffix(".py")) if file.exists()]


def _git(*arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)


if __name__ == "__main__":
    main()
