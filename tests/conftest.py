"""`tests/parity/` needs PyTorch and Diffusers; everything else runs with requirements-test.txt."""

import pathlib

import pytest

PARITY = pathlib.Path(__file__).parent / "parity"


def pytest_collection_modifyitems(items):
    for item in items:
        if PARITY in item.path.parents:
            item.add_marker(pytest.mark.parity)


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory):
    """Tests neither read nor fill the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAN_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
