"""The command line: what each command prints and writes, exit codes, refusals without tracebacks."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest

import fusewright as fw
from fusewright.cli import main


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two inputs, two outputs: total = a + b, double = a * 2."""
    b = fw.Builder()
    x, y = b.input("a", "f32", ("N", 3)), b.input("b", "f32", ("N", 3))
    path = tmp_path_factory.mktemp("cli") / "two.fwb"
    fw.compile(b.build({"total": b.add(x, y), "double": b.add(x, x)})).save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    keras.utils.set_random_seed(1)
    net = keras.Sequential([keras.Input((8,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2)])
    path = tmp_path_factory.mktemp("cli") / "net.keras"
    net.save(path)
    return path


def cli(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fusewright", *map(str, arguments)], capture_output=True, text=True, env=dict(os.environ)
    )


def test_compile_then_run(model: Path, tmp_path: Path) -> None:
    done = cli("compile", model, "-o", tmp_path / "net.fwb", "--threads", 1)
    assert done.returncode == 0, done.stderr
    assert "input" in done.stdout and "arena" in done.stdout and done.stderr == ""
    np.save(tmp_path / "x.npy", np.ones((5, 8), np.float32))
    done = cli("run", tmp_path / "net.fwb", "--input", tmp_path / "x.npy", "-o", tmp_path / "y.npy")
    assert done.returncode == 0, done.stderr
    assert np.load(tmp_path / "y.npy").shape == (5, 2)
    exact = fw.load(tmp_path / "net.fwb", native=False)(np.ones((5, 8), np.float32))
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), exact, rtol=1e-5, atol=1e-6)


def test_compile_json(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compile", str(model), "-o", str(tmp_path / "n.fwb"), "--dim", "N=4", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["bytes"] == (tmp_path / "n.fwb").stat().st_size
    assert printed["signature"]["inputs"][0]["shape"] == [4, 8]
    assert {"kernels", "arena_bytes", "lower_bound_bytes", "in_place", "numerics"} <= set(printed["report"])


def test_run_by_name_and_position(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    a, b = np.float32([[1, 2, 3]]), np.float32([[10, 20, 30]])
    np.save(tmp_path / "a.npy", a)
    np.save(tmp_path / "b.npy", b)
    np.savez(tmp_path / "ab.npz", a=a, b=b)
    A, B, AB = (str(tmp_path / name) for name in ("a.npy", "b.npy", "ab.npz"))
    for inputs in (["--input", A, "--input", B], ["--input", f"b={B}", "--input", A], ["--input", AB]):
        assert main(["run", str(bundle), *inputs, "-o", str(tmp_path / "out.npz"), "--json"]) == 0
        printed = json.loads(capsys.readouterr().out)
        assert [row["name"] for row in printed["outputs"]] == ["total", "double"]
        out = np.load(tmp_path / "out.npz")
        np.testing.assert_array_equal(out["total"], a + b)
        np.testing.assert_array_equal(out["double"], a * 2)
    assert main(["run", str(bundle), "--input", AB, "--interpret"]) == 0
    assert "total" in capsys.readouterr().out


def test_inspect_bundle_needs_numpy_only(bundle: Path) -> None:
    script = (
        "import sys\n"
        "class Block:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('numba', 'rich', 'networkx', 'onnx', 'pyfive'): raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "from fusewright.cli import main\n"
        "sys.exit(main(['inspect', sys.argv[1]]))"
    )
    done = subprocess.run([sys.executable, "-c", script, str(bundle)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "total" in done.stdout and "double" in done.stdout and "arena" in done.stdout


def test_inspect_model_and_json(model: Path, bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model)]) == 0
    assert "matmul" in capsys.readouterr().out
    assert main(["inspect", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["kind"] == "graph"
    assert main(["inspect", str(bundle), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["kind"] == "bundle"
    assert [row["name"] for row in printed["signature"]["outputs"]] == ["total", "double"]


def test_check(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(model)]) == 0
    assert capsys.readouterr().out
    assert main(["check", str(model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ok"] is True


def test_bench(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", str(bundle), "--dim", "N=8", "--threads", "1", "--seconds", "0.05", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["inputs"] == {"a": [8, 3], "b": [8, 3]}
    for row in printed["timings"]:
        assert 0 < row["best_us"] <= row["median_us"] <= row["p99_us"]
    assert main(["bench", str(bundle), "--seconds", "0.05"]) == 0
    assert main(["bench", str(bundle), "--dim", "Q=1"]) == 1
    with pytest.raises(SystemExit, match="2"):
        main(["bench", str(bundle), "--dim", "N=-1"])
    assert "median_us" in capsys.readouterr().out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["compile", "m.keras"],
        ["compile", "m.keras", "-o", "x.fwb", "--dim", "N"],
        ["compile", "m.keras", "-o", "x.fwb", "--dim", "N=two"],
        ["compile", "m.keras", "-o", "x.fwb", "--threads", "0"],
        ["compile", "m.keras", "-o", "x.fwb", "--feed", "keep_prob"],
        ["compile", "m.keras", "-o", "x.fwb", "--numerics", "sloppy"],
    ],
)
def test_wrong_usage_is_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err


def test_refusals_are_1_without_traceback(bundle: Path, model: Path, tmp_path: Path) -> None:
    (tmp_path / "junk.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(50))
    (tmp_path / "junk.fwb").write_bytes(bundle.read_bytes()[:-100])
    (tmp_path / "junk.npy").write_bytes(b"not an array")
    np.save(tmp_path / "object.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "wide.npy", np.zeros((1, 4), np.float32))
    out = tmp_path / "out.fwb"
    for arguments in (
        ["compile", tmp_path / "missing.h5", "-o", out],
        ["compile", tmp_path / "junk.h5", "-o", out],
        ["compile", model, "-o", out, "--dim", "Q=4"],
        ["compile", model, "-o", out, "--target", "abacus"],
        ["inspect", tmp_path / "missing.fwb"],
        ["inspect", tmp_path / "junk.fwb"],
        ["run", tmp_path / "junk.fwb", "--input", "x.npy"],
        ["run", bundle, "--input", tmp_path / "missing.npy"],
        ["run", bundle, "--input", tmp_path / "junk.npy"],
        ["run", bundle, "--input", tmp_path / "object.npy"],
        ["run", bundle, "--input", tmp_path / "wide.npy", "--input", tmp_path / "wide.npy"],
        ["run", bundle],
        ["check", tmp_path / "junk.h5"],
        ["bench", tmp_path / "junk.fwb"],
    ):
        done = cli(*arguments)
        assert done.returncode == 1, (arguments, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("error: ") or arguments[0] == "check", done.stderr
    assert not out.exists()


def test_refusal_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "m.h5").write_bytes(b"nothing of the kind")
    assert main(["compile", str(tmp_path / "m.h5"), "-o", str(tmp_path / "m.fwb"), "--json"]) == 1
    streams = capsys.readouterr()
    problem = json.loads(streams.out)["error"]["problems"][0]
    assert problem["code"] and problem["reason"]
    assert "why:" in streams.err


def test_inspect_shows_what_the_passes_did(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model), "--explain"]) == 0
    told = capsys.readouterr().out
    assert [line.split()[0] for line in told.splitlines() if line[0] != " "] == list(fw.default_pipeline().names)
    assert main(["inspect", str(model), "--journal", "fuse #"]) == 0
    assert capsys.readouterr().out.startswith("fuse #1: ")
    assert main(["inspect", str(model), "--journal", "no such layer"]) == 0
    assert capsys.readouterr().out == "no rewrite mentions 'no such layer'\n"


def test_inspect_prints_the_graph_after_a_pass(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", str(model), "--graph", "--after", "scale"]) == 0
    text = capsys.readouterr().out
    assert "matmul" in text and "fused" not in text and "constant ..." in text
    assert main(["inspect", str(model), "--graph", "--after", "fuse"]) == 0
    assert "fused" in capsys.readouterr().out
    assert main(["inspect", str(model), "--after", "nopass"]) == 1
    assert "no pass 'nopass'" in capsys.readouterr().err


@pytest.fixture(scope="module")
def found_during_the_call(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX file whose result has as many columns as x has elements other than zero."""
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 3])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.INT64, [2, None])
    graph = onnx.helper.make_graph([onnx.helper.make_node("NonZero", ["x"], ["y"])], "found", [x], [y])
    path = tmp_path_factory.mktemp("cli") / "found.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_every_symbol_has_a_line_with_its_bounds(
    found_during_the_call: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, compiled = str(found_during_the_call), str(tmp_path / "found.fwb")
    line = re.compile(r"  symbol   \w+ from 0 to 3\*N, found out during the call")
    for command in (["inspect", source], ["compile", source, "-o", compiled], ["inspect", compiled]):
        assert main(command) == 0
        printed = capsys.readouterr().out
        assert len(line.findall(printed)) == 1 and "  symbol   N from" in printed, printed
        assert main([*command, "--json"]) == 0
        data = json.loads(capsys.readouterr().out)
        assert list(data["run_symbols"].values()) == [[0, "3*N"]] and list(data["symbols"]) == ["N"]
    assert main(["compile", source, "-o", compiled, "--dim", "N=4"]) == 0
    assert "found out during the call" in capsys.readouterr().out


def test_an_arena_that_is_empty_is_said_to_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    b = fw.Builder()
    small = tmp_path / "small.fwb"
    fw.compile(b.build({"y": b.neg(b.input("x", "f32", (2, 3)))})).save(small)
    assert main(["inspect", str(small)]) == 0
    printed = capsys.readouterr().out
    assert "arena    none: nothing is kept between kernels\n" in printed and "lower bound" not in printed


def test_an_arena_with_scratch_says_for_how_many_threads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each thread has scratch of its own, so the same bundle needs more with two."""
    b = fw.Builder()
    x = b.input("x", "f32", (1, 14, 14, 32))
    y = b.conv(
        x, b.constant(np.ones((3, 3, 32, 32), np.float32)),
        strides=(1, 1), pads=((1, 1), (1, 1)), dilations=(1, 1), groups=1,
    )  # fmt: skip
    graph, shown = b.build({"y": y}), {}
    for threads in (1, 2):
        path = str(tmp_path / f"{threads}.fwb")
        fw.compile(graph, "cpu-avx2", threads=threads).save(path)
        assert main(["inspect", path]) == 0
        found = re.search(r"arena    (\S+) KiB, (\S+) KiB of it scratch of (\d) threads?, ", capsys.readouterr().out)
        assert found and int(found[3]) == threads
        shown[threads] = float(found[1]), float(found[2])
    assert shown[2][1] == pytest.approx(2 * shown[1][1], abs=0.2)
    assert shown[2][0] - shown[1][0] == pytest.approx(shown[1][1], abs=0.3)


def test_inspect_reports_at_the_extents_asked_for(
    found_during_the_call: Path, bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled = str(tmp_path / "found.fwb")
    assert main(["compile", str(found_during_the_call), "-o", compiled, "--dim", "N=1:64"]) == 0
    sizes = []
    for extent in ("1", "64"):
        capsys.readouterr()
        assert main(["inspect", compiled, "--dim", f"N={extent}", "--json"]) == 0
        report = next(iter(json.loads(capsys.readouterr().out)["reports"].values()))
        assert report["dims"] == {"N": int(extent)}
        sizes.append(report["arena_bytes"])
    assert sizes[0] < sizes[1]
    assert main(["inspect", compiled, "--dim", "N=65"]) == main(["inspect", compiled, "--dim", "M=3"]) == 1
    assert "symbols are N" in capsys.readouterr().err
    fixed = str(tmp_path / "fixed.fwb")
    assert main(["compile", str(found_during_the_call), "-o", fixed, "--dim", "N=4"]) == 0
    assert main(["inspect", fixed, "--dim", "N=4"]) == main(["bench", fixed, "--dim", "N=4"]) == 1
    assert capsys.readouterr().err.count("all sizes of the bundle are fixed: leave it out") == 2
    for wrong in (["inspect", compiled, "--dim", "N=1:8"], ["inspect", str(found_during_the_call), "--dim", "N=1"]):
        with pytest.raises(SystemExit) as stop:
            main(wrong)
        assert stop.value.code == 2
