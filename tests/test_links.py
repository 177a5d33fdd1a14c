"""Links in the documentation lead somewhere: to a file, to a heading of it, to the line that is meant."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\[([^\]]*)\]\((?!https?:|mailto:)([^)\s]+)\)")
_FENCED = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def pages() -> list[Path]:
    tracked = subprocess.run(["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True).stdout.split()
    return [ROOT / name for name in tracked] or sorted(ROOT.glob("*.md")) + sorted(ROOT.glob("docs/**/*.md"))


def anchors(page: Path) -> set[str]:
    """Those that GitHub and mkdocs give to headings."""
    headings = re.findall(r"^#+ (.*)$", _FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def fault(page: Path, text: str, target: str) -> str | None:
    """What is wrong with a link; None if nothing is."""
    path, _, anchor = target.partition("#")
    file = (page.parent / path).resolve() if path else page
    if not file.exists():
        return f"{target}: no such file"
    if line := re.fullmatch(r"L(\d+)", anchor):
        lines = file.read_text(encoding="utf-8").splitlines()[int(line[1]) - 1 :]
        meant = re.search(r"`(\w+(?: \w+)*)", text)
        return None if meant and lines and meant[1] in lines[0] else f"{target}: {text} is not in that line"
    if anchor and anchor not in anchors(file):
        return f"{target}: no such heading"
    return None


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_links(page):
    text = _FENCED.sub("", page.read_text(encoding="utf-8"))
    assert [f for words, target in _LINK.findall(text) if (f := fault(page, words, target))] == []


def test_from_readme_to_the_switch_of_experts():
    """README to a video by one command, to how it works by one link, and from there to the line."""
    assert "make video" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](docs/how_it_works.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert "](../wan_jax/experts.py#L" in (ROOT / "docs" / "how_it_works.md").read_text(encoding="utf-8")


def test_faults_are_found(tmp_path):
    (tmp_path / "code.py").write_text("import os\n\ndef run():\n")
    page = tmp_path / "page.md"
    page.write_text("# A heading, here\n")
    assert fault(page, "`run`", "code.py#L3") is None and fault(page, "", "#a-heading-here") is None
    assert fault(page, "`run`", "code.py#L2") and fault(page, "", "#another") and fault(page, "", "gone.md")
