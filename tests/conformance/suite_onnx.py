"""Suite ``onnx``: the ONNX package's node cases (CPU, not expanded) whose types the IR has, and its light models."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from case import Case

T = onnx.TensorProto
_TYPES = frozenset(
    (T.FLOAT, T.UINT8, T.INT8, T.UINT16, T.INT16, T.INT32, T.INT64, T.BOOL, T.FLOAT16, T.DOUBLE, T.UINT32, T.UINT64,
     T.BFLOAT16)
)  # fmt: skip
# Operands that decide the shape of a result, or an axis: bound at import.
_SHAPING: dict[str, tuple[int, ...]] = {
    "Reshape": (1,), "Expand": (1,), "Slice": (1, 2, 3, 4), "Pad": (1, 3), "Tile": (1,), "TopK": (1,),
    "Unsqueeze": (1,), "Squeeze": (1,), "Resize": (1, 2, 3), "Upsample": (1,), "OneHot": (1,), "Range": (0, 1, 2),
    "ConstantOfShape": (0,), "Split": (1,), "CumSum": (1,), "CumProd": (1,), "CenterCropPad": (1,), "Col2Im": (1, 2),
    "AffineGrid": (1,), "Trilu": (1,), "Compress": (1,), "DFT": (1, 2), "STFT": (1, 3), "BlackmanWindow": (0,),
    "HannWindow": (0,), "HammingWindow": (0,), "MelWeightMatrix": (0, 1, 2, 3, 4), "MaxUnpool": (2,), "Loop": (0, 1),
    "Dropout": (1, 2), "NonMaxSuppression": (2,), "Scatter": (), "ReduceSum": (1,),
    **{f"Reduce{how}": (1,) for how in ("Max", "Min", "Mean", "Prod", "L1", "L2", "LogSum", "LogSumExp", "SumSquare")},
}  # fmt: skip


@functools.cache
def _cases() -> dict[str, Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from onnx.backend.test.case.node import collect_testcases

        found = collect_testcases(None)
    return {c.name: c for c in found if "_expanded" not in c.name and _typed(c.model.graph)}


def _typed(graph: Any) -> bool:
    return all(
        v.type.WhichOneof("value") == "tensor_type" and v.type.tensor_type.elem_type in _TYPES
        for v in (*graph.input, *graph.output)
    )


def _light() -> dict[str, Path]:
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    return {path.stem: path for path in sorted(folder.glob("light_*.onnx"))}


def keys(corpora: Path) -> list[str]:
    return [*sorted(_cases()), *_light()]


def _plain(array: Any) -> np.ndarray:
    """bf16 crosses the API as float32; its rounding unit is asked for in ``rtol``."""
    array = numpy_helper.to_array(array) if isinstance(array, onnx.TensorProto) else np.asarray(array)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def load(corpora: Path, key: str, scratch: Path) -> Case:
    light = _light()
    if key in light:
        return _load_light(light[key])
    case = _cases()[key]
    given, wanted = ([_plain(a) for a in side] for side in case.data_sets[0])
    names = [v.name for v in case.model.graph.input]
    feeds = dict(zip(names, given))
    bound: dict[str, Any] = {}
    for node in case.model.graph.node:
        for i in _SHAPING.get(node.op_type, ()):
            if i < len(node.input) and node.input[i] in feeds:
                bound[node.input[i]] = feeds[node.input[i]]
    narrow = any(v.type.tensor_type.elem_type == T.BFLOAT16 for v in case.model.graph.output)
    source = scratch / "model.onnx"
    source.write_bytes(case.model.SerializeToString())
    return Case(
        source,
        feeds={n: a for n, a in feeds.items() if n not in bound},
        wants=wanted,
        import_options={"feeds": bound} if bound else {},
        rtol=max(case.rtol, 2.0**-6 if narrow else 0.0),
        atol=case.atol,
    )


def _load_light(path: Path) -> Case:
    model = onnx.load(str(path), load_external_data=False)
    fixed = {t.name for t in model.graph.initializer}
    (value,) = (v for v in model.graph.input if v.name not in fixed)
    shape = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
    # The feed of onnx.backend.test.runner for these models: the numbers up to the size, scaled to one.
    count = int(np.prod(shape))
    x = (np.arange(count).reshape(shape) / np.float32(count)).astype(np.float32)
    output = onnx.TensorProto()
    output.ParseFromString(path.with_name(f"{path.stem}_output_0.pb").read_bytes())
    return Case(path, feeds=[x], wants=[numpy_helper.to_array(output)], rtol=1e-3, atol=1e-7)
