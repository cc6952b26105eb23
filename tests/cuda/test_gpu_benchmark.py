"""The script for a GPU machine runs from build to table; the fake driver is the GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

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
