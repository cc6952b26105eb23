"""What every test shares: a quiet TensorFlow, a private kernel cache, Hypothesis profiles and golden files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Before anything imports TensorFlow (only references do): no log, no GPU, one thread per worker process.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")

# Reports come together in the process that started the workers, which reads no other conftest.py.
pytest_plugins = ("kill_table",)

_SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]
# Kernels compile on first use, so the time of one example says nothing: no deadline. `ci` draws the same examples
# every time; `explore` draws new ones (HYPOTHESIS_PROFILE=explore).
settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=_SLOW, print_blob=True)
settings.register_profile("explore", deadline=None, max_examples=1000, suppress_health_check=_SLOW, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="rewrite the files under tests/golden")


_CACHE = pytest.StashKey[tempfile.TemporaryDirectory[str]]()


def pytest_configure(config: pytest.Config) -> None:
    # One cache for the whole run, shared by the xdist workers, and never the user's own.
    if "FUSEWRIGHT_CACHE" not in os.environ:
        config.stash[_CACHE] = folder = tempfile.TemporaryDirectory(prefix="fusewright-test-cache-")
        os.environ["FUSEWRIGHT_CACHE"] = folder.name


def pytest_unconfigure(config: pytest.Config) -> None:
    folder = config.stash.get(_CACHE, None)
    if folder is not None:
        os.environ.pop("FUSEWRIGHT_CACHE", None)
        folder.cleanup()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture
def golden(request: pytest.FixtureRequest, repository: Path) -> Iterator[Callable[[str, str], None]]:
    """``golden(name, text)``: ``text`` equals the file tests/golden/<name>, which --update-golden rewrites."""

    def check(name: str, text: str) -> None:
        path = repository / "tests" / "golden" / name
        if request.config.getoption("--update-golden"):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        assert path.exists(), f"no golden file {name}: run pytest --update-golden and read what it wrote"
        assert text == path.read_text(), f"{name} changed; if that is meant, run pytest --update-golden"

    yield check
