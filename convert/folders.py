"""Where a checkpoint lies: a directory, or a repository of the Hugging Face hub that is fetched file by file."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HFValidationError, HTTPError, SafetensorsParsingError

from convert.tensor_files import TensorInfo, tensor_file, tensor_info
from wan_jax import checkpoint
from wan_jax.errors import WanError

_HUB_ERRORS = (HTTPError, HFValidationError, SafetensorsParsingError, OSError)


class Folder(Protocol):
    """A checkpoint's files, by their names with forward slashes."""

    name: str
    revision: str | None
    sizes: dict[str, int]  # of every file, in bytes

    def header(self, name: str) -> dict[str, TensorInfo]:
        """The tensors of a weight file."""

    def fetch(self, name: str) -> Path:
        """The local path of a file."""

    def release(self, name: str):
        """The file at `fetch(name)` is not needed any more."""


def read_json(folder: Folder, name: str) -> dict[str, Any]:
    """A JSON object of the checkpoint.

    Raises:
        WanError: the file is missing, or is something else.
    """
    if name not in folder.sizes:
        raise WanError(f"{folder.name}: there is no {name}")
    return checkpoint.read_json(folder.fetch(name))


class LocalFolder:
    """A directory."""

    revision = None

    def __init__(self, path: Path):
        self._path = path
        self.name = str(path)
        self.sizes = {p.relative_to(path).as_posix(): p.stat().st_size for p in sorted(path.rglob("*")) if p.is_file()}
        if not self.sizes:
            raise WanError(f"{path}: the directory is empty; expected a Wan checkpoint")

    def header(self, name: str) -> dict[str, TensorInfo]:
        return tensor_file(self._path / name).header

    def fetch(self, name: str) -> Path:
        return self._path / name

    def release(self, name: str):
        """Nothing: the user's files stay."""


class HubFolder:
    """A repository at a pinned commit.  HF_ENDPOINT and HF_TOKEN are honoured by huggingface_hub.

    Args:
        repo: "owner/name".
        revision: a branch, tag or commit; None for the main branch.
        downloads: where weight files are fetched to and, once released, deleted from.  None keeps everything in the
            cache that all tools of the hub share.

    Raises:
        WanError: the repository cannot be reached or read.
    """

    def __init__(self, repo: str, revision: str | None = None, downloads: Path | None = None):
        self.name = repo
        self._downloads = downloads
        info = self._call(HfApi().model_info, repo, revision=revision, files_metadata=True)
        self.revision = info.sha
        self.sizes = {file.rfilename: file.size for file in info.siblings}

    def header(self, name: str) -> dict[str, TensorInfo]:
        # Kept beside the downloads: a `.pth` that was converted and deleted is not fetched again to ask its sizes.
        kept = self._downloads and self._downloads / "headers" / f"{name}.json"
        if kept and kept.exists():
            return {key: tensor_info(key, *entry, self.name) for key, entry in json.loads(kept.read_text()).items()}
        header = self._remote_header(name) if name.endswith(".safetensors") else tensor_file(self.fetch(name)).header
        if kept:
            kept.parent.mkdir(parents=True, exist_ok=True)
            temporary = kept.with_suffix(".tmp")
            temporary.write_text(json.dumps({key: info.words() for key, info in header.items()}))
            temporary.replace(kept)
        return header

    def fetch(self, name: str) -> Path:
        where = {} if self._downloads is None else {"local_dir": self._downloads}
        return Path(self._call(hf_hub_download, self.name, name, revision=self.revision, **where))

    def release(self, name: str):
        if self._downloads is not None:
            (self._downloads / name).unlink(missing_ok=True)

    def _remote_header(self, name: str) -> dict[str, TensorInfo]:
        """Read through a range request, so that a wrong checkpoint is refused before gigabytes are fetched."""
        metadata = self._call(HfApi().parse_safetensors_file_metadata, self.name, name, revision=self.revision)
        where = f"{self.name}/{name}"
        return {key: tensor_info(key, info.shape, info.dtype, where) for key, info in metadata.tensors.items()}

    def _call(self, function: Callable, *args, **kwargs):
        try:
            return function(*args, **kwargs)
        except _HUB_ERRORS as error:
            reason = (str(error) or type(error).__name__).strip().splitlines()[0]
            raise WanError(
                f"{self.name}: neither a directory here nor readable from the hub ({type(error).__name__}: {reason})"
            ) from error


def open_folder(src: str, revision: str | None = None, downloads: Path | None = None) -> Folder:
    """A directory if there is one of that name, a hub repository if it could be one.

    Raises:
        WanError: it is neither, or cannot be read.
    """
    path = Path(src).expanduser()
    if path.is_dir():
        return LocalFolder(path)
    if path.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", src):
        raise WanError(f"{src}: no such directory, and not a hub id of the form owner/name")
    return HubFolder(src, revision, downloads)
