"""Graphs that once passed as typed and were compiled to something else: now they are refused."""

from __future__ import annotations

import pytest

from fusewright.core.errors import TypeRefused
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
