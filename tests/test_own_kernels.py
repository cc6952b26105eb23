"""A kernel that somebody registered runs, whatever the kind of its op: decomposition and fusion leave it alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import fusewright as fw
from fusewright.backends.numba_cpu.templates.template import Template, TextBuilder
from fusewright.backends.registry import unregister_kernel
from fusewright.core.dims import product
from fusewright.ir.opdef import OPS
from fusewright.testing.kernels import check_kernels


def kernel(factor: float) -> Any:
    """x * factor, said to be the kernel of an op that means x * 2."""

    def generate(node: Any, variant: Any) -> Template:
        t = TextBuilder("twice")
        t.pointer("x", "operand", 0)
        t.pointer("y", "output", 0)
        t.add(0, "a = pf32(x)\nb = pf32(y)\nfor i in range(start, stop):")
        t.add(1, f"b[i] = a[i] * f32({factor})")
        return Template(t.source(), t.entry, tuple(t.args), product(node.operands[0].shape), 64)

    return generate


@pytest.fixture(params=["elementwise", "opaque"])
def twice(request: pytest.FixtureRequest) -> Iterator[str]:
    name = f"twice_{request.param}"
    if name not in OPS:
        fw.define_op(
            fw.OpDef(name, ("x",), request.param, OPS["neg"].infer, decompose=lambda b, v, a: b.add(v[0], v[0]),
                     doc="x + x.")
        )  # fmt: skip
    yield name
    unregister_kernel(name)


def graph(name: str) -> fw.Graph:
    b: Any = fw.Builder()
    x = b.input("x", "f32", ("N", 4))
    return b.build({"y": b.neg(getattr(b, name)(b.exp(x)))})


@pytest.mark.parametrize(("factor", "right"), [(2.0, True), (2.5, False)])
def test_a_registered_kernel_is_the_one_that_runs(twice: str, factor: float, right: bool) -> None:
    fw.register_kernel(twice)(kernel(factor))
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)
    bundle = fw.compile(graph(twice))
    assert "twice" in [k["name"] for k in bundle.report().kernels]
    assert np.allclose(bundle(x), -np.exp(x) * factor, rtol=1e-5)
    verdicts = [v.ok for v in check_kernels(graph(twice), {"x": x})]
    assert all(verdicts) is right
