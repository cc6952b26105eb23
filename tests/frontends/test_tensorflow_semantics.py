"""TensorFlow's arithmetic per op against stored values: wrapping, division, rounding, conversion, broadcasting.

The graphs are written in text form here and the values are those of TensorFlow's documentation and of two's complement,
so that nothing needs TensorFlow.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fusewright as fw

NUMBER = {
    "float32": 1, "float64": 2, "int32": 3, "uint8": 4, "int16": 5, "int8": 6, "int64": 9, "bool": 10, "uint16": 17,
    "float16": 19, "uint32": 22, "uint64": 23,
}  # fmt: skip
INF, NAN = np.inf, np.nan
LEAST = {t: np.iinfo(t).min for t in ("int8", "int16", "int32", "int64")}
MOST = {t: np.iinfo(t).max for t in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")}


def run(folder: Path, op: str, arrays: list[np.ndarray], **attrs: Any) -> np.ndarray:
    """One node over placeholders, read from its text form."""
    lines = []
    for i, a in enumerate(arrays):
        dims = " ".join(f"dim {{ size: {d} }}" for d in a.shape)
        lines.append(
            f'node {{ name: "x{i}" op: "Placeholder" attr {{ key: "dtype" value {{ type: {NUMBER[a.dtype.name]} }} }} '
            f'attr {{ key: "shape" value {{ shape {{ {dims} }} }} }} }}'
        )
    texts = {"T": f"type: {NUMBER[arrays[-1].dtype.name]}", **attrs}
    given = " ".join(f'input: "x{i}"' for i in range(len(arrays)))
    own = " ".join(f'attr {{ key: "{k}" value {{ {v} }} }}' for k, v in texts.items())
    lines.append(f'node {{ name: "y" op: "{op}" {given} {own} }}')
    path = folder / "graph.pbtxt"
    path.write_text("\n".join(lines))
    graph = fw.import_model(path, outputs=["y"])
    return graph.run({f"x{i}": a for i, a in enumerate(arrays)})["y"]


# (op, element type, x, y, result)
BINARY: list[tuple[str, str, list[Any], list[Any], list[Any]]] = [
    ("AddV2", "int8", [127, -128], [1, -1], [-128, 127]),
    ("AddV2", "uint8", [255, 250], [1, 10], [0, 4]),
    ("AddV2", "int32", [MOST["int32"]], [1], [LEAST["int32"]]),
    ("AddV2", "uint64", [MOST["uint64"]], [2], [1]),
    ("Sub", "uint8", [0, 3], [1, 5], [255, 254]),
    ("Sub", "int64", [LEAST["int64"]], [1], [MOST["int64"]]),
    ("Mul", "int16", [300, -300], [300, 300], [24464, -24464]),
    ("Mul", "uint32", [65536, 3], [65536, 5], [0, 15]),
    ("Mul", "int32", [65536, -65537], [65537, 65537], [65536, -131073]),
    ("FloorDiv", "int32", [7, -7, 7, -7, 0], [2, 2, -2, -2, -3], [3, -4, -4, 3, 0]),
    ("FloorMod", "int32", [7, -7, 7, -7, 6], [3, 3, -3, -3, -3], [1, 2, -2, -1, 0]),
    ("TruncateDiv", "int32", [7, -7, 7, -7], [2, 2, -2, -2], [3, -3, -3, 3]),
    ("TruncateMod", "int32", [7, -7, 7, -7], [3, 3, -3, -3], [1, -1, 1, -1]),
    ("Div", "int32", [7, -7, 7, -7], [2, 2, -2, -2], [3, -3, -3, 3]),
    ("FloorDiv", "uint8", [255, 7], [2, 8], [127, 0]),
    ("FloorMod", "uint8", [255, 7], [16, 8], [15, 7]),
    ("FloorDiv", "float32", [7, -7, 7, -7, 5.5], [2, 2, -2, -2, 0.5], [3, -4, -4, 3, 11]),
    ("FloorMod", "float32", [7, -7, 7, -7, 5.5], [3, 3, -3, -3, 2], [1, 2, -2, -1, 1.5]),
    ("RealDiv", "float32", [1, -1, 0, 6], [0, 0, 0, 4], [INF, -INF, NAN, 1.5]),
    ("DivNoNan", "float32", [1, 0, 6, INF], [0, 0, 4, 0], [0, 0, 1.5, 0]),
    ("MulNoNan", "float32", [INF, NAN, 2], [0, 0, 3], [0, 0, 6]),
    ("Xlogy", "float32", [0, 0, 2], [0, NAN, 1], [0, 0, 0]),
    ("Xdivy", "float32", [0, 0, 3], [0, NAN, 2], [0, 0, 1.5]),
    ("Xlog1py", "float32", [0, 2], [-1, 0], [0, 0]),
    ("Maximum", "float32", [NAN, 1, -INF], [1, NAN, 3], [NAN, NAN, 3]),
    ("Minimum", "float32", [NAN, 1, -INF], [1, NAN, 3], [NAN, NAN, -INF]),
    ("Pow", "float32", [0, 2, -8, 0], [0, -1, 2, -1], [1, 0.5, 64, INF]),
    ("Pow", "int32", [2, 3, -2], [10, 3, 3], [1024, 27, -8]),
    ("Pow", "int32", [2, 10], [31, 10], [LEAST["int32"], 1410065408]),
    ("LeftShift", "int8", [1, -1, 64], [7, 1, 1], [-128, -2, -128]),
    ("RightShift", "int8", [-128, 127], [7, 3], [-1, 15]),
    ("RightShift", "uint8", [255, 128], [7, 3], [1, 16]),
    ("BitwiseXor", "int16", [-1, 12], [255, 10], [-256, 6]),
    ("Atan2", "float32", [0, 0, 1, -1], [1, -1, 0, 0], [0, np.pi, np.pi / 2, -np.pi / 2]),
    ("Equal", "float32", [NAN, 0, INF], [NAN, -0.0, INF], [False, True, True]),
    ("NotEqual", "float32", [NAN, 0, INF], [NAN, -0.0, INF], [True, False, False]),
    ("Less", "uint8", [0, 255], [255, 0], [True, False]),
    ("GreaterEqual", "float32", [NAN, 2], [1, 2], [False, True]),
    ("LogicalAnd", "bool", [True, True], [True, False], [True, False]),
]


@pytest.mark.parametrize(("op", "kind", "x", "y", "want"), BINARY)
def test_binary(op: str, kind: str, x: Any, y: Any, want: Any, tmp_path: Path) -> None:
    got = run(tmp_path, op, [np.array(x, kind), np.array(y, kind)])
    expected = np.array(want, bool if isinstance(want[0], bool) else kind)
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=1e-6)


UNARY: list[tuple[str, str, list[Any], list[Any]]] = [
    ("Abs", "int8", [-128, -5, 5], [-128, 5, 5]),
    ("Neg", "int8", [-128, 5], [-128, -5]),
    ("Square", "int8", [16, -12], [0, -112]),
    ("Sign", "float32", [-2, 0, NAN, INF], [-1, 0, NAN, 1]),
    ("Round", "float32", [0.5, 1.5, 2.5, -0.5, -1.5], [0, 2, 2, 0, -2]),
    ("Rint", "float32", [0.5, 1.5, -2.5], [0, 2, -2]),
    ("Floor", "float32", [-0.5, 1.5], [-1, 1]),
    ("Ceil", "float32", [-1.5, 1.2], [-1, 2]),
    ("Reciprocal", "float32", [0, 4, -INF], [INF, 0.25, 0]),
    ("Sqrt", "float32", [-1, 0, 4, INF], [NAN, 0, 2, INF]),
    ("Rsqrt", "float32", [0, 4], [INF, 0.5]),
    ("Log", "float32", [-1, 0, 1], [NAN, -INF, 0]),
    ("Log1p", "float32", [-2, -1, 0], [NAN, -INF, 0]),
    ("Exp", "float32", [-INF, 0, 100], [0, 1, INF]),
    ("Expm1", "float32", [-INF, 0], [-1, 0]),
    ("Relu", "float32", [-1, 2, NAN], [0, 2, NAN]),
    ("Relu6", "float32", [-1, 2, 9], [0, 2, 6]),
    ("Softsign", "float32", [-1, 3], [-0.5, 0.75]),
    ("Invert", "int8", [0, 127, -1], [-1, -128, 0]),
    ("Invert", "uint8", [0, 1], [255, 254]),
    ("IsNan", "float32", [NAN, INF, 1], [True, False, False]),
    ("IsInf", "float32", [NAN, -INF, 1], [False, True, False]),
    ("IsFinite", "float32", [NAN, INF, 1], [False, False, True]),
    ("Acos", "float32", [2, 1, -1], [NAN, 0, np.pi]),
    ("Atanh", "float32", [1, 0, -1], [INF, 0, -INF]),
    ("Sigmoid", "float32", [-INF, 0, INF], [0, 0.5, 1]),
    ("Tanh", "float32", [-INF, 0, INF], [-1, 0, 1]),
]


@pytest.mark.parametrize(("op", "kind", "x", "want"), UNARY)
def test_unary(op: str, kind: str, x: Any, want: Any, tmp_path: Path) -> None:
    got = run(tmp_path, op, [np.array(x, kind)])
    expected = np.array(want, bool if isinstance(want[0], bool) else kind)
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=1e-6)


CASTS: list[tuple[str, str, list[Any], list[Any]]] = [
    ("float32", "int32", [1.9, -1.9, 0.5, -0.5], [1, -1, 0, 0]),
    ("float32", "uint8", [1.9, 255.9], [1, 255]),
    ("int32", "int8", [128, -129, 300, -1], [-128, 127, 44, -1]),
    ("int32", "uint8", [256, -1, 300], [0, 255, 44]),
    ("int64", "int32", [2**32 + 5, -(2**31) - 1], [5, MOST["int32"]]),
    ("uint8", "int8", [200, 127], [-56, 127]),
    ("int8", "uint16", [-1, 5], [65535, 5]),
    ("float32", "bool", [0, -0.0, NAN, 0.1], [False, False, True, True]),
    ("bool", "float32", [True, False], [1, 0]),
    ("int32", "bool", [0, -3], [False, True]),
    ("float64", "float32", [1e300, 0.1, -1e300], [INF, np.float32(0.1), -INF]),
    ("float32", "float16", [1e6, 0.1], [INF, np.float16(0.1)]),
    ("int64", "float32", [2**24 + 1, 2**53 + 1], [2**24, 2**53]),
    ("uint32", "int64", [MOST["uint32"]], [2**32 - 1]),
]


@pytest.mark.parametrize(("of", "to", "x", "want"), CASTS)
def test_casts(of: str, to: str, x: Any, want: Any, tmp_path: Path) -> None:
    got = run(tmp_path, "Cast", [np.array(x, of)], SrcT=f"type: {NUMBER[of]}", DstT=f"type: {NUMBER[to]}")
    assert got.dtype == np.dtype(to)
    np.testing.assert_array_equal(got, np.array(want, to))


@pytest.mark.parametrize("op", ["AddV2", "Sub", "Mul", "Maximum", "SquaredDifference"])
@pytest.mark.parametrize(
    ("left", "right"), [((3, 1), (4,)), ((), (2, 3)), ((2, 1, 3), (5, 1)), ((0, 3), (1, 3)), ((1,), ())]
)
def test_operands_broadcast_from_the_last_axis(op: str, left: Any, right: Any, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, y = (rng.integers(-9, 9, s).astype(np.int32) for s in (left, right))
    fn = {"AddV2": np.add, "Sub": np.subtract, "Mul": np.multiply, "Maximum": np.maximum}.get(op)
    want = fn(x, y) if fn else (x - y) ** 2
    got = run(tmp_path, op, [np.asarray(x), np.asarray(y)])
    assert got.shape == want.shape and got.dtype == np.int32
    np.testing.assert_array_equal(got, want)


def test_types_are_never_promoted(tmp_path: Path) -> None:
    with pytest.raises(fw.FusewrightError) as refused:
        run(tmp_path, "AddV2", [np.ones(2, np.int32), np.ones(2, np.float32)])
    assert refused.value.code == "ill-typed"


REDUCTIONS: list[tuple[str, str, list[Any], Any]] = [
    ("Sum", "int8", [100, 100], -56),
    ("Prod", "int16", [300, 300], 24464),
    ("Mean", "int32", [1, 2, -7, 2], 0),
    ("Mean", "int32", [-1, -2, -4], -2),
    ("Mean", "float32", [1, 2], 1.5),
    ("Max", "float32", [1, INF, -2], INF),
    ("Sum", "float32", [], 0),
    ("Prod", "float32", [], 1),
    ("Max", "float32", [], -INF),
    ("Min", "int32", [], MOST["int32"]),
    ("All", "bool", [], True),
    ("Any", "bool", [], False),
    ("Mean", "float32", [], NAN),
]


@pytest.mark.parametrize(("op", "kind", "x", "want"), REDUCTIONS)
def test_reductions(op: str, kind: str, x: Any, want: Any, tmp_path: Path) -> None:
    path = tmp_path / "graph.pbtxt"
    path.write_text(
        f'node {{ name: "x" op: "Placeholder" attr {{ key: "dtype" value {{ type: {NUMBER[kind]} }} }} '
        f'attr {{ key: "shape" value {{ shape {{ dim {{ size: {len(x)} }} }} }} }} }} '
        'node { name: "axis" op: "Const" attr { key: "dtype" value { type: DT_INT32 } } '
        'attr { key: "value" value { tensor { dtype: DT_INT32 tensor_shape { } int_val: 0 } } } } '
        f'node {{ name: "y" op: "{op}" input: "x" input: "axis" attr {{ key: "T" value {{ type: {NUMBER[kind]} }} }} }}'
    )
    got = fw.import_model(path, outputs=["y"]).run({"x": np.array(x, kind)})["y"]
    assert got.dtype == np.dtype(kind)
    np.testing.assert_array_equal(got, np.array(want, kind))
