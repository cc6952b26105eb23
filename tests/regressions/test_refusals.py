"""Graphs that once passed as typed and were compiled to something else: now they are refused."""

from __future__ import annotations

import numpy as np
import pytest

from fusewright.core.errors import InputRefused, TypeRefused
from fusewright.ir import Builder


@pytest.mark.parametrize("name", ["layer_norm", "rms_norm", "group_norm", "batch_norm"])
def test_norms_take_no_more_vectors_than_they_use(name: str) -> None:
    b = Builder()
    x, v = b.input("x", "f32", ("N", 4)), b.input("v", "f32", (4,))
    attrs = {"groups": 2} if name == "group_norm" else {}
    given = [x, v, v] if name == "batch_norm" else [x]
    b.apply(name, [*given, v], {**attrs, "has_gamma": False})
    with pytest.raises(TypeRefused, match="beta"):
        b.apply(name, [*given, v, v], {**attrs, "has_gamma": False})
    with pytest.raises(TypeRefused, match="beta"):
        b.apply(name, [*given, v, v, v], attrs)


def test_inputs_that_no_window_fits_are_refused_by_the_interpreter() -> None:
    b = Builder()
    x = b.input("x", "f32", ("N", "H", 2))
    graph = b.build(b.conv(x, b.constant(np.ones((3, 2, 2), np.float32)), strides=(1,)))
    assert graph.run({"x": np.ones((1, 3, 2), np.float32)})[graph.output_names[0]].shape == (1, 1, 2)
    with pytest.raises(InputRefused, match="do not fit the model"):
        graph.run({"x": np.ones((1, 1, 2), np.float32)})
