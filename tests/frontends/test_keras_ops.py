"""Every supported ``keras.ops`` class against live Keras, over element types. The calls are in keras_ops_cases."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from fusewright.core.errors import ImportRefused
from fusewright.frontends.keras import import_keras
from fusewright.frontends.keras.call import OPERATIONS, REFUSED_OPERATIONS

_found = importlib.util.spec_from_file_location("keras_ops_cases", Path(__file__).with_name("keras_ops_cases.py"))
assert _found is not None and _found.loader is not None
_module = importlib.util.module_from_spec(_found)
_found.loader.exec_module(_module)
CASES = _module.CASES

KINDS = ("float32", "int32", "bool", "float16", "uint8", "int8")
SPEC = re.compile(r"([a-z]+\d?)\[(.*)\]")
# Names from before Keras 3 settled them: saved models carry them, the installed Keras makes no such node. ConvTranspose
# it makes but cannot run (3.15 loses its padding); the lowering is that of the layers.
OLDER = {"Abs", "Amax", "Amin", "Arange", "Conj", "ConvTranspose", "Identity", "SparsePlus"}
# Their extents depend on values: compared in test_dependent_extents.py.
DEPENDENT = {"Nonzero", "Unique"}


def draw(spec: str, kind: str, rng: np.random.Generator) -> np.ndarray:
    match = SPEC.match(spec)
    assert match is not None
    what, shape = match[1], tuple(int(v) for v in match[2].split(",") if v)
    floating = kind if kind.startswith("float") else "float32"
    whole = kind if kind[0] in "iu" else "int32"
    if what == "x" and kind == "bool" or what == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if what == "x" and kind[0] in "iu":
        return rng.integers(0 if kind[0] == "u" else -3, 6, shape).astype(kind)
    if what == "p" and kind == "bool":
        return np.ones(shape, bool)
    if what in ("i", "i1"):
        return rng.integers(int(what == "i1"), 5, shape).astype(whole)
    if what == "n":
        return rng.integers(0 if whole[0] == "u" else -9, 10, shape).astype(whole)
    if what == "spd":
        a = rng.standard_normal(shape)
        return (a @ a.swapaxes(-1, -2) + 2 * np.eye(shape[-1])).astype(floating)
    drawn = {
        "x": lambda: rng.standard_normal(shape) * 2, "f": lambda: rng.standard_normal(shape) * 2,
        "p": lambda: rng.uniform(1, 3, shape), "u": lambda: rng.uniform(0.05, 0.95, shape),
        "big": lambda: rng.standard_normal(shape) * 300, "coord": lambda: rng.uniform(0, 4, shape),
        "nan": lambda: np.where(rng.random(shape) < 0.3, np.nan, rng.standard_normal(shape)),
        "inf": lambda: rng.choice([np.nan, np.inf, -np.inf, 0.0, -0.0, 1.5], shape),
    }[what]()  # fmt: skip
    if what == "nan":
        drawn[:, 0] = 1.0
    return drawn.astype(kind if what == "p" else floating)


def flat(tree: Any) -> list[np.ndarray]:
    return [a for t in tree for a in flat(t)] if isinstance(tree, (list, tuple)) else [np.asarray(tree)]


def same(got: list[np.ndarray], want: list[np.ndarray], where: str) -> None:
    assert len(got) == len(want), where
    for g, w in zip(got, want, strict=True):
        assert (g.shape, g.dtype) == (w.shape, w.dtype), where
        if w.dtype.kind != "f":
            np.testing.assert_array_equal(g, w, err_msg=where)
            continue
        near = 4e-3 if w.dtype == np.float16 else 2e-5
        scale = float(np.abs(w[np.isfinite(w)]).max(initial=1.0))
        np.testing.assert_allclose(g, w, rtol=near, atol=near * scale, err_msg=where)


def live(case: Any, arrays: list[np.ndarray]) -> tuple[Any, list[np.ndarray]] | None:
    """(model, its outputs), or None where Keras itself does not take these types."""
    inputs = [keras.Input(batch_shape=a.shape, dtype=a.dtype.name) for a in arrays]
    try:
        model = keras.Model(inputs, case(*inputs))
        return model, flat(model(arrays if len(arrays) > 1 else arrays[0]))
    except Exception:  # of any kind: TensorFlow, Keras and NumPy each have their own
        return None


def run(model: Any, arrays: list[np.ndarray]) -> list[np.ndarray]:
    graph = import_keras(model)
    return list(graph.run({v.name: a for v, a in zip(graph.inputs, arrays, strict=True)}).values())


@pytest.mark.parametrize("name", CASES)
def test_operation(name: str, tmp_path: Path) -> None:
    compared, saved = 0, False
    for n, (case, specs) in enumerate(CASES[name]):
        seen = set()
        for kind in KINDS:
            arrays = [draw(s, kind, np.random.default_rng(n)) for s in specs]
            types = tuple(a.dtype for a in arrays)
            found = None if types in seen else live(case, arrays)
            seen.add(types)
            if found is None:
                continue
            same(run(found[0], arrays), found[1], f"{name} {n} {kind}")
            compared += 1
            if not saved:
                path = tmp_path / "model.keras"
                found[0].save(path)
                same(run(path, arrays), found[1], f"{name} {n} {kind} saved")
                saved = True
    assert compared


def operation_classes() -> set[str]:
    names = set()
    for family in ("core", "math", "nn", "numpy", "linalg", "image"):
        module = importlib.import_module(f"keras.src.ops.{family}")
        base = importlib.import_module("keras.src.ops.operation").Operation
        names |= {
            n
            for n, v in vars(module).items()
            if inspect.isclass(v) and issubclass(v, base) and v.__module__ == module.__name__
        }
    return names


def test_every_class_is_supported_or_refused_with_a_reason() -> None:
    assert operation_classes() <= set(OPERATIONS) | set(REFUSED_OPERATIONS)
    assert not set(OPERATIONS) & set(REFUSED_OPERATIONS)


def test_every_supported_class_is_compared() -> None:
    made = set()
    for name, cases in CASES.items():
        for n, (case, specs) in enumerate(cases):
            for kind in ("float32", "int32"):
                found = live(case, [draw(s, kind, np.random.default_rng(n)) for s in specs])
                if found is not None:
                    made |= {entry["class_name"] for entry in found[0].get_config()["layers"]}
        assert name
    assert set(OPERATIONS) & operation_classes() - made <= OLDER | DEPENDENT


# TensorFlow's backend of Keras 3.15 departs from NumPy here, whose meaning keras.ops documents; ours is NumPy's.
NUMPY = {
    "half turn": (lambda x: keras.ops.rot90(x, k=2), lambda x: np.rot90(x, k=2)),
    "half turn of two axes": (lambda x: keras.ops.rot90(x, k=2, axes=(0, 1)), lambda x: np.rot90(x, k=2, axes=(0, 1))),
    "unravel": (
        lambda x: keras.ops.unravel_index(keras.ops.cast(x > 0, "int32") * 5, (3, 4))[0],
        lambda x: np.unravel_index((x > 0) * 5, (3, 4))[0].astype(np.int32),
    ),
}


@pytest.mark.parametrize("name", NUMPY)
def test_where_backends_disagree_numpy_decides(name: str) -> None:
    case, reference = NUMPY[name]
    x = np.random.default_rng(0).standard_normal((2, 3)).astype(np.float32)
    given = keras.Input(batch_shape=x.shape)
    np.testing.assert_array_equal(run(keras.Model(given, case(given)), [x])[0], reference(x))


def test_a_refused_operation_says_why() -> None:
    x = keras.Input(batch_shape=(4, 4))
    with pytest.raises(ImportRefused, match="iterates until it converges") as caught:
        import_keras(keras.Model(x, keras.ops.linalg.svd(x)))
    assert caught.value.code == "unsupported-op"
