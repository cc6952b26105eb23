"""What all tests of GPU kernels share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def fallback() -> Iterator[None]:
    """The interpreter runs PTX: the loader's word that it falls back to it is no news."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*the driver compiles its PTX.*")
        yield
