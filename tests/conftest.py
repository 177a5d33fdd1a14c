"""What all tests share.  `make test` leaves out tests/parity, which needs PyTorch and Diffusers."""

import importlib.util
import os
import shutil

import jax
import pytest

# Programs of tests run for moments; to compile them well takes longer.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

# Meshes are tested on virtual devices.  Their number is fixed once the backend starts, so this runs at import.
jax.config.update("jax_num_cpu_devices", 16)


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory):
    """Tests neither read nor fill the user's own cache; what workers compile they share."""
    workers = os.environ.get("PYTEST_XDIST_WORKER") is not None
    folder = tmp_path_factory.getbasetemp().parent / "cache" if workers else tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAN_JAX_CACHE", str(folder))
        yield


@pytest.fixture(scope="module", autouse=True)
def compiled_programs():
    """Each program holds memory, and some of the 65,530 mappings that Linux grants a process: a file's go with it."""
    yield
    jax.clear_caches()


def pytest_addoption(parser):
    parser.addoption("--screenshots", metavar="DIR", help="where the browser's tests write pictures of the Explorer")


def pytest_collection_modifyitems(items):
    if not _installed("libtpu"):
        _skip(items, "libtpu", "needs the TPU compiler: make tpu")
    if not _installed("playwright", "gradio") or shutil.which("chromium") is None:
        _skip(items, "browser", "needs Gradio, Playwright and Chromium: make app")


def _installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) for module in modules)


def _skip(items, marker: str, reason: str):
    for item in items:
        if item.get_closest_marker(marker):
            item.add_marker(pytest.mark.skip(reason=reason))
