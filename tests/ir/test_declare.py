"""Ops, kernels and lowerings of users: what does not hold together is refused where it is declared."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.core.errors import CompileRefused, FusewrightError, TypeRefused
from fusewright.ir.opdef import OPS, Cost


def same(types: Any, attrs: Any, regions: Any) -> Any:
    """The type of x, for numbers."""
    return OPS["neg"].infer(types[:1], attrs, regions)


WHOLE = fw.OpDef(
    "declared", ("x", "y?"), "opaque", same, lambda arrays, attrs, ctx: arrays[0] * 2,
    attrs={"alpha": 1.0}, cost=lambda node: Cost(1, 2), doc="Twice x.",
)  # fmt: skip


@pytest.fixture(autouse=True)
def table() -> Iterator[None]:
    yield
    OPS.pop("declared", None)


@pytest.mark.parametrize("kept", [WHOLE, replace(WHOLE, eval=None, decompose=lambda b, v, a: b.add(v[0], v[0]))])
def test_what_holds_together_is_taken(kept: fw.OpDef) -> None:
    fw.define_op(kept)
    b: Any = fw.Builder()
    assert str(b.declared(b.input("x", "f32", ("N", 2))).type) == "f32[N, 2]"


def row_sums(types: Any, attrs: Any, regions: Any) -> Any:
    return [fw.TensorType(types[0].dtype, types[0].shape[:-1])]


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"kind": "pointwise"}, r"kind: 'pointwise' is none of 'elementwise', .*'opaque' assumes nothing"),
        ({"eval": None}, "eval, decompose: an op needs one of them"),
        ({"infer": lambda types: types}, r"infer: is called with \(operand types, .*, but takes \(types\)"),
        ({"infer": None}, "infer: is None, not a function of"),
        ({"eval": lambda arrays: arrays[0]}, "eval: is called with"),
        ({"cost": lambda: 1}, "cost: is called with"),
        ({"bound": lambda a: a}, "bound: is called with"),
        ({"operands": "x"}, r"operands: 'x' is not a tuple of names, such as \('x',\)"),
        ({"operands": ("x", "x")}, "are not distinct"),
        ({"operands": ("x*", "y")}, r"only the last one may stand for any number"),
        ({"operands": ("x?", "y")}, r"that may be left out \(\?\) come last"),
        ({"operands": ("x y",)}, "is not a name"),
        ({"overwrites": (2,)}, r"overwrites: there is no operand 2; x, y\? are 0 to 1"),
        ({"overwrites": ("x",)}, "overwrites: there is no operand 'x'"),
        ({"overwrites": 0}, "not a tuple of operand indices"),
        ({"views": {0: 5}}, "views"),
        ({"commutative": True, "operands": ("x",)}, "commutative: it has 1 operands, not two"),
        ({"attrs": {"alpha": object()}}, "attrs: the default of 'alpha': an attribute cannot hold object"),
        ({"attrs": {"x": 1}}, "attrs: 'x' is the name of an operand"),
        ({"attrs": {"the alpha": 1}}, "not an identifier"),
        ({"attrs": ["alpha"]}, "not a mapping from name to default"),
        ({"scalar": "a + "}, "scalar"),
        ({"name": "build"}, "taken by the Builder"),
        ({"name": "my op"}, "not an identifier"),
        # found by trying it on a few types
        ({"infer": lambda t, a, r: t[0]}, "infer: "),
        ({"infer": lambda t, a, r: [t[0].shape]}, "infer: gave .* not a list of TensorType"),
        ({"infer": lambda t, a, r: [t[7]]}, "infer: raised IndexError .* raises TypeRefused for what the op"),
        ({"cost": lambda node: Cost(node.operands[2].type.rank, 0)}, "cost: raised IndexError"),
        ({"cost": lambda node: Cost(node.attrs["beta"], 0)}, r"cost: raised KeyError \('beta'\).* node.attrs alpha"),
        ({"cost": lambda node: 5}, r"cost: gave 5 .* not Cost\(flops, bytes\)"),
        ({"eval": lambda a, at, c: a[0].sum(-1)}, r"eval: gives float32\[2\] for \(f32\[2, 4\]\), infer says f32"),
        ({"eval": lambda a, at, c: a[0] > 0}, "eval: gives bool"),
        ({"eval": lambda a, at, c: (a[0], a[0])}, "eval: gives float32.*, float32"),
        ({"eval": lambda a, at, c: a[1]}, "eval: raised IndexError"),
        ({"decompose": lambda b, v, a: b.reduce_sum(v[0], axes=-1)}, r"decompose: gives f32\[2\] .* infer says f32"),
        ({"decompose": lambda b, v, a: (v[0], v[0])}, "decompose: gives f32.*, f32"),
        ({"decompose": lambda b, v, a: 3.0}, "decompose: gave 3.0, not values made with the builder"),
        ({"decompose": lambda b, v, a: b.no_such_op(v[0])}, "decompose: raised NoSuchOp .there is no op"),
        ({"infer": row_sums, "eval": None, "decompose": lambda b, v, a: v[0]}, "decompose: gives f32"),
    ],
)  # fmt: skip
def test_what_does_not_is_refused_with_what_to_do(changed: dict[str, Any], says: str) -> None:
    with pytest.raises(TypeRefused, match=says):
        fw.define_op(replace(WHOLE, **changed))
    assert "declared" not in OPS


def test_all_faults_are_listed_at_once() -> None:
    with pytest.raises(TypeRefused) as refused:
        fw.define_op(replace(WHOLE, kind="pointwise", eval=None, overwrites=(9,)))
    assert len(str(refused.value).splitlines()) == 4


def test_a_hint_how_to_draw_is_tried() -> None:
    """Without it nothing is known of an attribute that has no default."""

    def infer(types: Any, attrs: Any, regions: Any) -> Any:
        if attrs["k"] > 3:
            raise TypeRefused("too many")
        return [fw.TensorType(types[0].dtype, (*types[0].shape, attrs["k"]))]

    def sample(draw: Any, value: Any) -> Any:
        return [value(ranks=(1, 2))], {"k": draw.integer(1, 3)}

    op = replace(WHOLE, operands=("x",), attrs={"k": fw.REQUIRED}, infer=infer, sample=sample, cost=None)
    wrong = replace(op, eval=lambda arrays, attrs, ctx: arrays[0])
    with pytest.raises(TypeRefused, match="eval: gives"):
        fw.define_op(wrong)
    with pytest.raises(TypeRefused, match="sample: raised KeyError"):
        fw.define_op(replace(wrong, sample=lambda draw, value: ([value()], {}["k"])))
    fw.define_op(replace(op, eval=lambda arrays, attrs, ctx: np.stack([arrays[0]] * attrs["k"], -1)))


def test_a_name_that_is_taken() -> None:
    fw.define_op(WHOLE)
    with pytest.raises(TypeRefused, match="defined already"):
        fw.define_op(WHOLE)
    with pytest.raises(TypeRefused, match="takes an OpDef, not a str"):
        fw.define_op("declared")  # type: ignore[arg-type]


def test_kernels_and_lowerings_take_what_they_are_given() -> None:
    with pytest.raises(CompileRefused, match=r"kernel of 'add' is called with \(node, variant\), but takes \(node\)"):
        fw.register_kernel("add")(lambda node: None)
    with pytest.raises(CompileRefused, match="is 5, not a function"):
        fw.register_kernel("add")(5)  # type: ignore[type-var]
    with pytest.raises(FusewrightError, match=r"lowering of 'Mine' is called with \(layer, operand 0\)"):
        fw.register_layer("Mine")(lambda: None)
    with pytest.raises(FusewrightError, match="takes a name first"):
        fw.register_layer(lambda layer, x: x)  # type: ignore[arg-type]
    with pytest.raises(FusewrightError, match="lowering of tf op 'Mine' is called with"):
        fw.register_op("tf", "Mine")(lambda node, *, x: x)
    with pytest.raises(FusewrightError, match="takes a name first"):
        fw.register_op("tf", lambda node, x: x)  # type: ignore[arg-type]


def test_whether_there_is_an_op_can_be_asked() -> None:
    """hasattr and getattr with a default work as on any object, and the name of another op is still suggested."""
    for place in (fw.op, fw.Builder()):
        assert hasattr(place, "relu") and not hasattr(place, "relv")
        assert getattr(place, "no_such_op", None) is None
        with pytest.raises(TypeRefused, match="there is no op 'relv'; did you mean relu"):
            _ = place.relv
