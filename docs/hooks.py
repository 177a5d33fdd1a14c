"""For mkdocs: README.md is the first page, and links out of docs/ lead to the repository."""

import re
import tomllib
from pathlib import Path, PurePosixPath

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]
_TARGET = re.compile(r"(?<=\]\()(?!https?:|#)([^)\s]+)(?=\))")


def on_files(files, config):
    text = _TARGET.sub(_from_root, (ROOT / "README.md").read_text(encoding="utf-8"))
    files.append(File.generated(config, "index.md", content=text))
    return files


def on_page_markdown(markdown, page, config, files):
    return _TARGET.sub(_to_repository, markdown)


def _from_root(match: re.Match) -> str:
    """A link in README.md, as one in docs/."""
    target = match[0]
    return target.removeprefix("docs/") if target.startswith("docs/") else f"../{target}"


def _to_repository(match: re.Match) -> str:
    target = match[0]
    if not target.startswith("../"):
        return target
    kind = "tree" if (ROOT / PurePosixPath(target.removeprefix("../")).as_posix()).is_dir() else "blob"
    return f"{REPOSITORY}/{kind}/main/{target.removeprefix('../')}"
