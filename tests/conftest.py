"""`tests/parity/` needs PyTorch and Diffusers; everything else runs with requirements-test.txt."""

import pathlib

import pytest

PARITY = pathlib.Path(__file__).parent / "parity"


def pytest_collection_modifyitems(items):
    for item in items:
        if PARITY in item.path.parents:
            item.add_marker(pytest.mark.parity)
