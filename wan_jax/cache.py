"""The user's own cache: converted models and compiled programs."""

import hmac
import os
import secrets
import tempfile
import warnings
from contextlib import suppress
from pathlib import Path

import jax

from wan_jax.errors import WanError

_OTHERS_MAY_WRITE = 0o022
_KEY = "key"
_KEY_BYTES = 32
_SEAL_BYTES = 32


def cache_dir(*parts: str) -> Path:
    """A private folder below $WAN_JAX_CACHE (default `~/.cache/wan_jax`), created if need be.

    Raises:
        WanError: the cache belongs to somebody else.
    """
    root = Path(os.environ.get("WAN_JAX_CACHE", "~/.cache/wan_jax")).expanduser()
    folder = root.joinpath(*parts)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        root.chmod(0o700)  # compiled programs run as the user: nobody else may place them
    except PermissionError as error:
        raise WanError(f"the cache {root} is not yours to use; let WAN_JAX_CACHE name a folder that is") from error
    return folder


def enable_compilation_cache():
    """Keeps compiled programs between runs, small ones too, unless the user chose a place or switched it off."""
    if jax.config.jax_compilation_cache_dir is None and jax.config.jax_enable_compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(cache_dir("xla")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


class SealedFolder:
    """Files that are given back only if this user wrote them, under the same name and unaltered.

    For what is dangerous to open otherwise, such as pickles.  Each file starts with its HMAC-SHA256, made with a random
    key that lies beside the files.  A folder or file that others could have written is not read at all: they may have
    placed the key as well.

    It is a help and no duty: what cannot be written is not, and the least recently used files beyond `limit_bytes` are
    deleted.
    """

    def __init__(self, folder: Path, limit_bytes: int):
        self._folder = folder
        self._limit_bytes = limit_bytes

    def read(self, name: str) -> memoryview | None:
        """The bytes written under `name`, or None."""
        key = self._key()
        sealed = memoryview(_read_private(self._folder / name) or b"")
        seal, data = sealed[:_SEAL_BYTES], sealed[_SEAL_BYTES:]
        if key is None or not self._is_private() or not hmac.compare_digest(seal, _seal(key, name, data)):
            return None
        with suppress(OSError):  # another process may have deleted it meanwhile
            os.utime(self._folder / name)
        return data

    def write(self, name: str, data: bytes):
        """Puts `data` under `name`, all of it or nothing."""
        if not self._is_private():
            warnings.warn(f"{self._folder} is open to others and not used; chmod 700 makes it safe", stacklevel=2)
            return
        with suppress(OSError):  # a full disk need not end the run
            if self._key() is None:
                write_private(self._folder / _KEY, secrets.token_bytes(_KEY_BYTES))  # older files are void now
            write_private(self._folder / name, _seal(self._key(), name, data), data)
            self._trim()

    def _is_private(self) -> bool:
        return all(_is_private(folder.lstat()) for folder in (self._folder, self._folder.parent.resolve()))

    def _key(self) -> bytes | None:
        key = _read_private(self._folder / _KEY)
        return key if key is not None and len(key) == _KEY_BYTES else None

    def _trim(self):
        files = [(path.stat(), path) for path in self._folder.iterdir() if path.name != _KEY]
        size = 0
        for status, path in sorted(files, key=lambda file: file[0].st_mtime, reverse=True):
            size += status.st_size
            if size > self._limit_bytes:
                path.unlink(missing_ok=True)


def _seal(key: bytes, name: str, data: bytes | memoryview) -> bytes:
    seal = hmac.new(key, name.encode() + b"\0", "sha256")
    seal.update(data)
    return seal.digest()


def _is_private(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_MAY_WRITE


def _read_private(path: Path) -> bytes | None:
    """The content of a file that only the user can have written; None if there is no such file."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as file:
            return file.read() if _is_private(os.fstat(file.fileno())) else None
    except OSError:
        return None


def write_private(path: Path, *parts: bytes):
    """All of a file that only the user can read, or nothing."""
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:  # mode 0600
        try:
            file.writelines(parts)
            file.flush()
            os.replace(file.name, path)
        except BaseException:
            os.unlink(file.name)
            raise
