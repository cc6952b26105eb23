"""The on-disk kernel cache: hits, damage, foreign folders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from fusewright.backends import workers
from fusewright.backends.numba_cpu import toolchain
from fusewright.backends.numba_cpu.cache import Cache
from fusewright.backends.numba_cpu.toolchain import KernelSource, build_image
from fusewright.backends.numba_cuda import toolchain as cuda

TEXT = """
def k(args, start, stop, scratch):
    pi64(args[0])[0] = start + 12345
"""
VARIANT = "cpu-avx2"


LOADED = """
import importlib, sys
importlib.import_module(sys.argv[1])
importlib.import_module("fusewright.backends.numba_cpu.registry").load_all()
own = (m for name, m in sys.modules.items() if name.split(".")[0] == "fusewright")
print(*(m.__file__ for m in own), sep="\\n")
"""


@pytest.mark.parametrize("family", ["numba_cpu", "numba_cuda"])
def test_every_module_of_a_compiling_process_is_part_of_the_key(family: str) -> None:
    """Else a kernel compiled before a change would be taken for one compiled after it."""
    ask = [sys.executable, "-c", LOADED, f"fusewright.backends.{family}.worker"]
    ran = subprocess.run(ask, capture_output=True, text=True, check=True, timeout=600)
    loaded = {Path(line) for line in ran.stdout.split()}
    keyed = {*toolchain.code_files(), *(cuda.code_files() if family == "numba_cuda" else ())}
    # What machine code does not depend on: plain Python in place of kernels, and what only that or refusals need.
    others = {"__init__.py", "twins.py", "dtypes.py", "errors.py"}
    assert {f.name for f in loaded - keyed} == others


def test_round_trip_and_private_folder(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "deep" / "cache")
    assert cache.get("key") is None
    cache.put("key", b"payload")
    assert cache.get("key") == b"payload" and cache.get("other") is None
    assert (tmp_path / "deep" / "cache").stat().st_mode & 0o777 == 0o700
    assert all(f.stat().st_mode & 0o077 == 0 for f in (tmp_path / "deep" / "cache").iterdir())


@pytest.mark.parametrize("at", [0, 5, 20, 50, -1])
def test_a_damaged_entry_is_a_miss(tmp_path: Path, at: int) -> None:
    cache = Cache(tmp_path)
    cache.put("some key", b"some payload")
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    assert cache.get("some key") is None
    file.write_bytes(bytes(data)[:-3])
    assert cache.get("some key") is None
    cache.put("some key", b"some payload")
    assert cache.get("some key") == b"some payload"


def test_the_key_is_compared_in_full(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put("some key", b"some payload")
    (file,) = tmp_path.iterdir()
    path = cache._path(b"another one")
    assert path is not None
    file.rename(path)  # what a collision of hashes would look like
    assert cache.get("another one") is None


def test_a_folder_that_others_may_write_is_not_used(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    cache = Cache(tmp_path)
    cache.put("key", b"payload")
    assert cache.get("key") is None and not list(tmp_path.iterdir())


def test_links_and_loose_files_are_misses(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "cache")
    cache.put("key", b"payload")
    (file,) = (tmp_path / "cache").iterdir()
    file.chmod(0o666)
    assert cache.get("key") is None
    file.chmod(0o600)
    assert cache.get("key") == b"payload"
    moved = file.rename(tmp_path / "elsewhere")
    file.symlink_to(moved)
    assert cache.get("key") is None


def test_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEWRIGHT_CACHE", "off")
    assert Cache.default().folder is None
    monkeypatch.setenv("FUSEWRIGHT_CACHE", str(tmp_path / "mine"))
    assert Cache.default().folder == tmp_path / "mine"
    monkeypatch.delenv("FUSEWRIGHT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Cache.default().folder == tmp_path / "fusewright"
    monkeypatch.setenv("FUSEWRIGHT_CACHE", "/proc/nowhere")
    assert Cache.default().folder is None


def test_a_second_build_starts_no_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FUSEWRIGHT_CACHE", str(tmp_path / "cache"))
    first = build_image([KernelSource("a", TEXT)], VARIANT)

    def refuse(variant: str) -> workers.Worker:
        raise AssertionError("a worker was wanted")

    monkeypatch.setattr(workers.WORKERS, "take", refuse)
    assert build_image([KernelSource("a", TEXT)], VARIANT) == first
    with pytest.raises(AssertionError, match="a worker was wanted"):
        build_image([KernelSource("a", TEXT)], "cpu-avx512")
    for file in (tmp_path / "cache").iterdir():
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(AssertionError, match="a worker was wanted"):
        build_image([KernelSource("a", TEXT)], VARIANT)
