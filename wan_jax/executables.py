"""Compiled programs that outlive the process: a second start compiles, and even traces, nothing.

JAX's own compilation cache saves the compiler's work but not the tracing before it, and knows a program only once it is
traced.  Here a program is known by everything that went into it, so it can be looked up first.

An executable is stored as a pickle, and opening a pickle runs whatever it says.  So they are kept in the user's private
cache alone, and none is opened before its seal was checked (`wan_jax.cache.SealedFolder`).
"""

import functools
import hashlib
import importlib.metadata
import os
import pickle
import platform
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.experimental import serialize_executable
from jax.extend.backend import get_backend
from jax.sharding import Mesh, Sharding

from wan_jax import compiler
from wan_jax.cache import SealedFolder, cache_dir

_LIMIT_BYTES = 8 * 2**30
# What the names begin with of packages that make programs or serve them, and of variables that steer the compiler.
_PACKAGES = ("jax", "flax", "libtpu", "nvidia-")
_VARIABLES = ("JAX_", "XLA_", "LIBTPU_")


@dataclass
class Tally:
    """What was done so far: programs traced and compiled, programs read from the disk, and the seconds of both."""

    built: int = 0
    restored: int = 0
    seconds: float = 0.0


tally = Tally()
_loaded: dict[str, jax.stages.Compiled] = {}  # by key


def call(jitted, static: dict[str, Any], **arguments):
    """`jitted(**arguments, **static)` on the ambient mesh, through an executable that is kept for the next start.

    Without a mesh, or where the call itself is being traced, it is just that call.

    Args:
        jitted: a function under `jax.jit`, without callbacks to Python.
        static: its static arguments: values whose `repr` tells all about them, such as frozen dataclasses.
        arguments: the others, all by name.
    """
    if any(isinstance(x, jax.core.Tracer) for x in jax.tree.leaves(arguments)) or jax.sharding.get_mesh().empty:
        return jitted(**arguments, **static)
    name = key(jitted, static, arguments)
    if name not in _loaded:
        started = time.monotonic()
        _loaded[name] = _restore(name) or _build(name, jitted, static, arguments)
        tally.seconds += time.monotonic() - started
    return _loaded[name](**arguments)


def key(jitted, static: dict[str, Any], arguments: dict[str, Any]) -> str:
    """64 hex digits that change whenever the program might."""
    leaves, tree = jax.tree.flatten(arguments)
    mesh = jax.sharding.get_mesh()
    program = (
        machine(),
        [(name, value) for name, value in sorted(jax.config.values.items()) if "cache" not in name],
        (jitted.__module__, jitted.__qualname__, sorted(static.items())),
        (mesh.axis_names, mesh.axis_types, mesh.devices.shape, [device.id for device in mesh.devices.flat]),
        str(tree),
        [_describe(leaf) for leaf in leaves],
    )
    return hashlib.sha256(repr(program).encode()).hexdigest()


@functools.cache
def machine() -> str:
    """What all programs of this process have in common: their source, the software and the devices."""
    return repr(
        (
            source_digest(Path(__file__).parent),
            _versions(),
            (sys.version, platform.machine(), _cpu_features()),
            sorted(item for item in os.environ.items() if item[0].startswith(_VARIABLES) and "CACHE" not in item[0]),
            (get_backend().platform, get_backend().platform_version, jax.process_index(), jax.process_count()),
            [(device.id, device.device_kind, device.process_index) for device in jax.devices()],
            [getattr(device, "coords", None) for device in jax.devices()],  # of TPUs: how they are linked
        )
    )


def source_digest(folder: Path) -> str:
    """The SHA-256 of all Python files and tables below a folder."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".py", ".json"))
    contents = [(str(path.relative_to(folder)), hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]
    return hashlib.sha256(repr(contents).encode()).hexdigest()


def _versions() -> list[tuple[str, str]]:
    found = ((package.name.lower(), package.version) for package in importlib.metadata.distributions())
    return sorted(package for package in found if package[0].startswith(_PACKAGES))


def _cpu_features() -> str:
    """What a program for the CPU may rely on; a home folder may be shared by unlike machines."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _describe(x) -> tuple:
    """What the compiler sees of an argument."""
    kind = jax.typeof(x)
    place = (x.committed, _place(x.sharding, x.shape)) if isinstance(x, jax.Array) else None
    return kind.shape, str(kind.dtype), kind.weak_type, str(kind.sharding), place


@functools.lru_cache(maxsize=4096)
def _place(sharding: Sharding, shape: tuple[int, ...]) -> str:
    """Which device holds which part; two ways to write one sharding give the same."""
    pieces = [(device.id, index) for device, index in sharding.devices_indices_map(shape).items()]
    return repr((sharding.memory_kind, pieces))


def _build(name: str, jitted, static: dict[str, Any], arguments: dict[str, Any]) -> jax.stages.Compiled:
    kind = jax.sharding.get_mesh().devices.flat[0].device_kind
    with _cache_hits() as hits:
        compiled = compiler.compile(jitted.lower(**arguments, **static), kind, jitted.__name__)
    tally.built += 1
    # One that JAX's cache had stays there: on the CPU, a program that was read back cannot be written again; it loads,
    # and fails when it runs.
    if _keeps() and not hits:
        try:
            data = pickle.dumps(serialize_executable.serialize(compiled))
        except Exception:  # not every backend can, and each says so with an error of its own
            return compiled
        _folder().write(name, data)
    return compiled


@contextmanager
def _cache_hits() -> Iterator[list[str]]:
    """Collects what JAX's compilation cache had for this thread."""
    hits, thread = [], threading.get_ident()

    def listen(event: str, **_):
        if event == "/jax/compilation_cache/cache_hits" and threading.get_ident() == thread:
            hits.append(event)

    jax.monitoring.register_event_listener(listen)
    try:
        yield hits
    finally:
        jax.monitoring.unregister_event_listener(listen)


def _restore(name: str) -> jax.stages.Compiled | None:
    data = _folder().read(name) if _keeps() else None
    if data is None:
        return None
    mesh: Mesh = jax.sharding.get_mesh()
    try:
        executable = serialize_executable.deserialize_and_load(
            *pickle.loads(data), execution_devices=list(mesh.devices.flat)
        )
    except Exception:  # it is ours, but the backend cannot use it after all
        return None
    tally.restored += 1
    return executable


def _keeps() -> bool:
    """Whether executables go to the disk.  Those of several processes belong together, which nothing here ensures."""
    return jax.config.jax_enable_compilation_cache and jax.process_count() == 1


def _folder() -> SealedFolder:
    return SealedFolder(cache_dir("executables"), _LIMIT_BYTES)
