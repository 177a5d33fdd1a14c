"""What all tests share.  `make test` leaves out tests/parity, which needs PyTorch and Diffusers."""

import pytest


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory):
    """Tests neither read nor fill the user's own cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WAN_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
