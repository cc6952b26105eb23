"""The script for a GPU machine runs from build to table; the fake driver is the GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import fusewright as fw

from fake_driver import fake_gpu

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def script() -> Any:
    sys.path.insert(0, str(FOLDER))
    try:
        spec = importlib.util.spec_from_file_location("gpu", FOLDER / "gpu.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(str(FOLDER))


def test_from_build_to_table(script: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert script.main(["build", str(tmp_path), "--only", "softmax"]) == 0
        with fake_gpu() as gpu:
            arguments = ["run", str(tmp_path), "--scale", "8192", "--repeats", "1", "--json", str(tmp_path / "f.json")]
            assert script.main(arguments) == 0
            assert {"cuGraphLaunch", "cuLaunchKernel"} & set(gpu.log) and "cuMemsetD8Async" in gpu.log
    found = json.loads((tmp_path / "f.json").read_text())
    (row,) = found["rows"]
    assert row["right"] and row["same_bits"] and row["error"] < 1e-6 and row["code"] == "kernels.ptx"
    assert row["n"] == 8 and row["ms"] == 1.0 and row["of_bandwidth"] > 0
    printed = capsys.readouterr().out
    assert "| softmax 1024 | strict | 8 | kernels.ptx |" in printed and "Paper GPU" in printed


def test_attention_from_build_to_table(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(c for c in script.CASES if c.kind == "attention" and "128 tokens" in c.name)
    b: Any = fw.Builder()
    small = b.build(b.attention(*(b.input(n, "f32", ("N", 1, 20, 64)) for n in "qkv")))
    monkeypatch.setattr(case, "graph", lambda: small)
    monkeypatch.setattr(script, "peers", lambda *_: {"torch": 1.0, "torch.compile": 9e-4})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert script.build(tmp_path, "12 heads of 64, 128 tokens") == 0
        with fake_gpu():
            monkeypatch.setattr(case, "time", (1,))
            found = script.run(tmp_path, "12 heads of 64, 128 tokens", repeats=1, scale=4096)
    strict, fast = found["rows"]
    assert strict["right"] and fast["right"] and strict["error"] < 1e-6 < fast["error"] and strict["kernels"] == 1
    assert (strict["bar"], fast["bar"]) == (1.0, 0.6) and strict["ms"] == 1.0
    assert script.met(strict) == "no" and script.met(fast) == "yes"  # the best peer takes 0.9 of our time
    assert script.table(found).count("(torch.compile)") == 2


def test_every_case_has_a_bar_that_says_of_what(script: Any) -> None:
    lines = script.bars().splitlines()[2:]
    assert len(lines) == sum(len(c.modes) for c in script.CASES)
    for case in script.CASES:
        for mode in case.modes:
            assert 0 < case.asked(mode) <= 1.5
            (line,) = [x for x in lines if x.startswith(f"| {case.name} | {mode} |")]
            assert ("copy bandwidth" in line) == (case.kind == "memory")
    large = next(c for c in script.CASES if c.name == "dense 4096x4096")
    assert (large.asked("strict"), large.asked("fast")) == (1.3, 0.55)
    assert script.met({"kind": "memory", "bar": 0.5, "of_bandwidth": 0.6, "peers_ms": {}}) == "yes"
    assert script.met({"kind": "matrix", "bar": 0.5, "of_bandwidth": 0.6, "peers_ms": {}, "ms": 1}) == ""


def test_a_wrong_result_and_a_refused_bundle_fail(script: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(c for c in script.CASES if c.name == "softmax 1024")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert script.build(tmp_path, "softmax") == 0
        with fake_gpu() as gpu:
            honest = gpu.execute

            def skewed(launch: Any) -> None:
                honest(launch)
                words = launch[4]
                gpu.memory.fill(words[1], 0x3F, 4)

            monkeypatch.setattr(gpu, "execute", skewed)
            found = script.run(tmp_path, "softmax", numerics_only=True)
            assert gpu.memory.size < 16 << 20 and "Paper GPU" in script.table(found)
        assert [r["right"] for r in found["rows"]] == [False]
        with fake_gpu((7, 5)):
            assert script.main(["run", str(tmp_path), "--only", "softmax", "--numerics-only"]) == 1
    assert script.file_of(tmp_path, case, "strict").exists()


def test_every_case_makes_a_graph_with_one_symbol(script: Any) -> None:
    for case in script.CASES:
        if case.kind != "model":
            assert case.graph().symbols == ("N",), case.name
    assert len({script.file_of(Path(), c, "strict") for c in script.CASES}) == len(script.CASES)
