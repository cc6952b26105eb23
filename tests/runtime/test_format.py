"""The container: one spelling, every bit accounted for, atomic and reproducible."""

from __future__ import annotations

import hashlib
import io
import json
import os
import random
import struct
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fusewright.core.dtypes import F32
from fusewright.core.errors import BundleRefused, SaveRefused
from fusewright.core.manifest import Manifest, Port, Signature, Symbol, Target
from fusewright.runtime.bundle import load
from fusewright.runtime.format import BLOCK, Container, Entry, Layout, build, save_atomic, tree_hash

Change = Callable[[dict[str, Any]], None]


def _manifest() -> Manifest:
    ports = [Port("x", F32, ("N", 4))], [Port("y", F32, ("N", "2*T + 1"))]
    targets = [Target("cpu-avx2", ["avx2"], "64*N")]
    return Manifest(Signature(*ports), [Symbol("N", 0, 9), Symbol("T")], None, targets, passes=["fuse"], threads=3)


def _small(weights: bytes = b"w" * 1000) -> bytes:
    return bytes(build(_manifest(), {"graph.txt": [b"text"], "weights.bin": [weights], "report.json": [b"{}"]}))


def test_members_are_aligned_and_a_zip_tool_reads_them() -> None:
    data = _small()
    c = Container.open(data)
    assert c.read("graph.txt") == b"text" and bytes(c.weights()) == b"w" * 1000
    assert c.weights().ctypes.data % 4096 == 0
    with zipfile.ZipFile(io.BytesIO(data)) as z:
        assert z.testzip() is None
        assert z.namelist() == ["manifest.json", "graph.txt", "weights.bin", "report.json"]
        assert all(i.compress_type == zipfile.ZIP_STORED and i.date_time[0] == 1980 for i in z.infolist())
        assert json.loads(z.read("manifest.json"))["members"]["graph.txt"]["size"] == 4
    c.check_small()
    c.check_weights(2)


def test_manifest_comes_back() -> None:
    m, again = _manifest(), Container.open(_small()).manifest
    assert again.signature == m.signature and repr(again.signature) == "(x: f32[N, 4]) -> (y: f32[N, 2*T + 1])"
    assert [(s.name, s.low, s.high) for s in again.symbols] == [("N", 0, 9), ("T", 0, None)]
    assert (again.threads, again.passes, again.targets[0].memory, again.tuned) == (3, ("fuse",), "64*N", False)


def test_every_bit_flip_is_seen() -> None:
    data = bytearray(_small(bytes(range(200))))
    end = Container.open(bytes(data)).data
    assert len(end) == len(data)
    accepted = []
    for at in range(len(data)):
        bit = 1 << (at % 8)
        data[at] ^= bit
        try:
            c = Container.open(bytes(data))
            c.check_small()
            c.check_weights(1)
            accepted.append(at)
        except BundleRefused:
            pass
        data[at] ^= bit
    assert accepted == []


def test_cuts_extensions_and_rewrites_are_refused(tmp_path: Path) -> None:
    data = _small()
    rng = random.Random(3)
    broken = [data[:n] for n in (0, 1, 4, 100, len(data) // 2, len(data) - 1)]
    broken += [data + b"\0", b"\0" + data, data + data, data[:-4096] + bytes(4096), bytes(len(data)), b"PK\3\4" * 999]
    for _ in range(100):
        a, b = sorted(rng.randrange(len(data)) for _ in range(2))
        broken += [data[:a] + data[b:], data[:a] + rng.randbytes(b - a) + data[b:]]
    with zipfile.ZipFile(io.BytesIO(data)) as z:
        for mode in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            again = io.BytesIO()
            with zipfile.ZipFile(again, "w", mode) as out:
                for name in z.namelist():
                    out.writestr(name, z.read(name))
                out.comment = z.comment
            broken.append(again.getvalue())
    for case in broken:
        if case == data:
            continue
        with pytest.raises(BundleRefused):
            c = Container.open(case)
            c.check_small()
            c.check_weights(1)
        path = tmp_path / "x.fwb"
        path.write_bytes(case)
        with pytest.raises(BundleRefused, match=r"x\.fwb"):
            load(path)


@pytest.mark.parametrize("name", ["../x", "/abs", "a//b", "a/./b", "C:\\x", "a\0b", "x" * 300, "", "manifest.json"])
def test_bad_member_names(name: str) -> None:
    members = {"graph.txt": [b"t"], "weights.bin": [b""], name: [b"1"]}
    if name == "manifest.json":
        entries = [Entry("manifest.json", 0, 0), Entry("manifest.json", 0, 0)]
        layout = Layout(entries, "0" * 64)
        data = b"".join(layout.headers) + layout.tail
    else:
        data = bytes(build(_manifest(), members))
    with pytest.raises(BundleRefused, match="name"):
        Container.open(data)


def _with_manifest(change: Change | bytes) -> bytes:
    """A well-formed container around an altered manifest."""
    c = Container.open(_small())
    if isinstance(change, bytes):
        text = change
    else:
        raw = json.loads(bytes(c.raw("manifest.json")))
        change(raw)
        text = json.dumps(raw, sort_keys=True, separators=(",", ":")).encode()
    names = ["manifest.json", "graph.txt", "weights.bin", "report.json"]
    parts = [text] + [bytes(c.raw(n)) for n in names[1:]]
    layout = Layout([Entry(n, len(p), 0) for n, p in zip(names, parts)], hashlib.sha256(text).hexdigest())
    return b"".join(h + p for h, p in zip(layout.headers, parts)) + layout.tail


_NO_PORTS: dict[str, Any] = {"inputs": [], "outputs": []}


def _ports_of(manifest: dict[str, Any], extent: str) -> None:
    for port in manifest["signature"]["inputs"] + manifest["signature"]["outputs"]:
        port["shape"] = [extent]


def test_an_unchanged_manifest_is_accepted() -> None:
    assert Container.open(_with_manifest(lambda m: None)).manifest.symbols[0].high == 9
    assert Container.open(_with_manifest(lambda m: m.update(x_note=1))).manifest.threads == 3


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda m: m.update(version=999), "version 999"),
        (lambda m: m.update(version="1"), "version"),
        (lambda m: m.update(format="other"), "does not describe"),
        (lambda m: m.update(requires=["teleport"]), "teleport"),
        (lambda m: m.update(surprise=1), "unknown keys"),
        (lambda m: m.pop("signature"), "missing keys"),
        (lambda m: m.update(threads=-1), "size"),
        (lambda m: m.update(threads=True), "size"),
        (lambda m: m["members"]["graph.txt"].update(size=5), "members"),
        (lambda m: m["members"].pop("graph.txt"), "members"),
        (lambda m: m["members"].update({"../x": {"size": 1, "sha256": "0" * 64}}), "members"),
        (lambda m: m["members"]["graph.txt"].update(sha256="00"), "member entry"),
        (lambda m: m["members"]["graph.txt"].update(tree="0" * 64), "member entry"),
        (lambda m: m["signature"]["inputs"][0].update(dtype="string"), "element type"),
        (lambda m: m["signature"]["inputs"][0].update(shape=[-1]), "size"),
        (lambda m: m["signature"]["inputs"][0].update(shape=["Q"]), "undeclared"),
        (lambda m: m["signature"]["inputs"][0].update(shape=["(" * 9999]), "malformed"),
        (lambda m: m["signature"]["inputs"].append(m["signature"]["inputs"][0]), "twice"),
        (lambda m: m["symbols"][0].update(low=10), "no value"),
        (lambda m: m.update(batch={"symbol": "N", "row_independent": True, "x": 1}), None),
        (lambda m: m.update(batch={"symbol": "T", "row_independent": True}), "batch symbol"),
        (lambda m: (m.update(batch={"symbol": "2*N", "row_independent": True}), _ports_of(m, "2*N")), "batch symbol"),
        (lambda m: m.update(batch={"symbol": "Q", "row_independent": True}, signature=_NO_PORTS), "batch symbol"),
        (lambda m: m.update(targets=3), "malformed"),
        (b"{", "JSON"),
        (b'{"a":1,"a":1}', "canonical"),
        (b'{"a":1.0}', "JSON"),
        (b'{"a":NaN}', "JSON"),
        (b"[" * 100000, "JSON"),
        (b"\xff\xfe", "JSON"),
        (b'{"a": 1}', "canonical"),
        (b"7", "describe"),
    ],
)
def test_manifests_that_cannot_be_honoured(change: Change | bytes, why: str | None) -> None:
    data = _with_manifest(change)
    if why is None:
        assert Container.open(data).manifest.batch == "N"
        return
    with pytest.raises(BundleRefused, match=why):
        Container.open(data)


def test_tree_hash_is_of_blocks_and_threads_do_not_matter() -> None:
    data = memoryview(np.random.default_rng(0).bytes(3 * BLOCK + 5))
    digests = [hashlib.sha256(data[i : i + BLOCK]).digest() for i in range(0, len(data), BLOCK)]
    want = hashlib.sha256(b"".join(digests)).hexdigest()
    assert {tree_hash(data, n) for n in (1, 2, 3, 9)} == {want}
    assert tree_hash(memoryview(b""), 2) == hashlib.sha256(b"").hexdigest()


def test_no_more_threads_hash_than_there_are_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bundle may ask for any number of threads."""
    started: list[threading.Thread] = []
    start = threading.Thread.start
    monkeypatch.setattr(threading.Thread, "start", lambda t: (started.append(t), start(t)))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1, 2})
    tree_hash(memoryview(bytes(9 * BLOCK)), 1 << 40)
    assert len(started) == 2


def test_huge_members_use_zip64(tmp_path: Path) -> None:
    """Over 4 GiB, as a sparse file that only its headers are read of."""
    entries = [Entry("manifest.json", 10, 1), Entry("weights.bin", (1 << 32) + 7, 2), Entry("report.json", 3, 3)]
    layout = Layout(entries, "0" * 64)
    path = tmp_path / "huge.zip"
    with open(path, "wb") as f:
        for start, header in zip(layout.starts, layout.headers):
            f.seek(start)
            f.write(header)
        f.seek(layout.tail_at)
        f.write(layout.tail)
    with zipfile.ZipFile(path) as z:
        infos = {i.filename: i for i in z.infolist()}
        assert infos["weights.bin"].file_size == (1 << 32) + 7
        assert infos["report.json"].header_offset == layout.starts[2] > 1 << 32
        with z.open("report.json") as member:
            assert member.read(0) == b""
    with open(path, "rb") as f, pytest.raises(BundleRefused, match="manifest"):
        Container.open(path)
        f.close()
    assert layout.offsets[1] % 4096 == 0


def test_links_pipes_and_folders(tmp_path: Path) -> None:
    real, link, pipe = tmp_path / "a.fwb", tmp_path / "b.fwb", tmp_path / "p.fwb"
    real.write_bytes(_small())
    link.symlink_to(real)
    os.mkfifo(pipe)
    assert Container.open(link).read("graph.txt") == b"text"
    with pytest.raises(BundleRefused, match="regular"):
        Container.open(pipe)
    with pytest.raises(BundleRefused, match="regular"):
        Container.open(tmp_path)
    for family in (FileNotFoundError, BundleRefused):
        with pytest.raises(family, match=r"none\.fwb: there is no such file"):
            Container.open(tmp_path / "none.fwb")
    with pytest.raises(BundleRefused, match="cannot be opened"):
        Container.open("a\0b")


def test_large_files_are_mapped(tmp_path: Path) -> None:
    path = tmp_path / "large.fwb"
    weights = np.random.default_rng(0).bytes(6 << 20)
    save_atomic(_small(weights), path)
    c = Container.open(path)
    c.check_weights(2)
    assert c.weights().ctypes.data % 4096 == 0 and bytes(c.weights()[:100]) == weights[:100]
    assert not c.weights().flags.writeable


def test_save_is_atomic(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "m.fwb"
    save_atomic(b"old", path)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        with pytest.raises(OSError, match="disk full"):
            save_atomic(b"new", path)
    with pytest.raises(SaveRefused, match="cannot be written: No such file"):
        save_atomic(b"new", tmp_path / "none" / "m.fwb")
    assert path.read_bytes() == b"old" and [p.name for p in tmp_path.iterdir()] == ["m.fwb"]
    writers = [threading.Thread(target=save_atomic, args=(bytes([i]) * 100000, path)) for i in range(8)]
    for w in writers:
        w.start()
    for w in writers:
        w.join()
    assert len(set(path.read_bytes())) == 1 and len(list(tmp_path.iterdir())) == 1
    link = tmp_path / "l.fwb"
    link.symlink_to(path)
    save_atomic(b"through", link)
    assert link.is_symlink() and path.read_bytes() == b"through"


def test_saving_to_a_pipe_or_device_writes_into_it(tmp_path: Path) -> None:
    # A new file in its place, which is how regular files are saved, would take /dev/null from everybody.
    path, data, got = tmp_path / "pipe", bytes(range(256)) * 1000, []
    os.mkfifo(path)
    reader = threading.Thread(target=lambda: got.append(path.read_bytes()), daemon=True)
    reader.start()
    save_atomic(data, path)
    reader.join(10)
    assert got == [data] and path.is_fifo() and os.listdir(tmp_path) == ["pipe"]


def test_same_bytes_in_other_processes() -> None:
    here = Path(__file__)
    code = (
        f"import hashlib,sys; sys.path[:0]=[{str(here.parent)!r},{str(here.parents[2])!r}]; import test_format as t;"
        "print(hashlib.sha256(t._small()).hexdigest())"
    )
    seen = set()
    for seed in ("0", "7"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC{seed}"}
        seen.add(
            subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True).stdout
        )
    assert seen == {hashlib.sha256(_small()).hexdigest() + "\n"}


def test_the_headers_of_a_lying_directory() -> None:
    """Offsets and sizes that point elsewhere are refused before anything is read through them."""
    data = bytearray(_small())
    at = data.rindex(b"PK\1\2")
    for field in (20, 24, 42):
        changed = data[:]
        struct.pack_into("<I", changed, at + field, 0xFFFFFFF0)
        with pytest.raises(BundleRefused):
            Container.open(bytes(changed))
    end = len(data) - 64 - len(b"fusewright-bundle/1 sha256:") - 22
    assert data[end : end + 4] == b"PK\5\6"
    for field, value in ((12, 1 << 31), (16, 5), (16, 0xFFFFFFFF), (8, 0xFFFF)):
        changed = data[:]
        struct.pack_into("<I" if field >= 12 else "<H", changed, end + field, value)
        with pytest.raises(BundleRefused):
            Container.open(bytes(changed))
