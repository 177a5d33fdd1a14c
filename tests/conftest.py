"""What all tests share.  `make test` leaves out tests/parity, which needs PyTorch and Diffusers."""

import importlib.util
import os

import jax
import pytest

# Programs of tests run for moments; to compile them well takes longer.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

# Meshes are tested on virtual devices.  Their number is fixed once the backend starts, so this runs at import.
jax.config.update("jax_num_cpu_devices", 16)


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory):
    """Tests neither read nor fill the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAN_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def pytest_collection_modifyitems(items):
    if importlib.util.find_spec("libtpu") is None:
        for item in items:
            if item.get_closest_marker("libtpu"):
                item.add_marker(pytest.mark.skip(reason="needs the TPU compiler: make tpu"))
