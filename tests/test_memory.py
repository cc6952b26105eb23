"""Planned memory of seven networks against the lower bound; benchmarks/memory.py has all of them."""

from __future__ import annotations

import keras
import pytest

import fusewright as fw
from fusewright.ir.program import WHY_NOT

BAR = 1.10


SMALL = ("MobileNet", "MobileNetV2", "MobileNetV3Small", "EfficientNetB0", "DenseNet121", "NASNetMobile", "Xception")


@pytest.mark.parametrize("name", SMALL)
def test_the_arena_is_close_to_the_bound(name: str) -> None:
    size = 299 if name == "Xception" else 224
    model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3))
    planned = fw.plan(model, dims={"N": 1})
    for threads in (1, 2):
        report = planned.report(threads=threads)
        assert 0 < report.arena_bytes <= BAR * report.lower_bound_bytes
        assert report.scratch_bytes < report.arena_bytes
    for row in report.in_place:
        assert (row["how"] == "own") == bool(row["why"])
        for part in filter(None, row["why"].split("; ")):
            assert part.removeprefix("operand ").partition(": ")[2] in WHY_NOT.values() or part in WHY_NOT.values()
    counts = report.in_place_share["residual"]
    # A residual sum is written over one of its terms, but where both are read again (most cells of a NASNet do).
    assert name == "NASNetMobile" or counts["in place"] + counts["output"] >= 0.9 * sum(counts.values())
