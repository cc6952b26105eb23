"""Copies left out of unrolled loops: which reads are turned, which copies go, and what keeps them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from fusewright.core.plan import Call, Launch, Plan
from fusewright.runtime.cuda.copies import Queued, without_copies
from fusewright.runtime.cuda.nodes import unroll

ARENA = ("b", 0)


@dataclass
class Fake:
    """A launch by name; ``words`` are the places that its parameters name."""

    name: str
    words: list[Any] = field(default_factory=list)


def launch(name: str, reads: list[tuple[int, int]], writes: list[tuple[int, int]], copy: bool = False) -> Queued:
    spans = [(*r, False) for r in reads] + [(*w, True) for w in writes]
    accesses = [(ARENA, low, high, writing) for low, high, writing in spans]
    return Queued(Fake(name, [low for low, _, _ in spans]), list(range(len(spans))), accesses, copy)


def copy(source: tuple[int, int], target: tuple[int, int]) -> Queued:
    return launch("copy", [source], [target], True)


def steps(trips: int, start: int = 1024, size: int = 64) -> list[Queued]:
    """A loop: each trip reads the state at 0 and leaves the new one in a slice, from where it is copied."""
    out = []
    for t in range(trips):
        slice_ = (start + t * size, start + (t + 1) * size)
        out += [launch(f"step{t}", [(0, size)], [slice_]), copy(slice_, (0, size))]
    return out


def names(run: list[Queued]) -> list[str]:
    return [q.launch.name for q in run]


def test_a_step_reads_the_slice_of_the_step_before_and_the_last_copy_stays() -> None:
    run = without_copies(steps(4))
    assert names(run) == ["step0", "step1", "step2", "step3", "copy"]
    assert [q.launch.words[0] for q in run] == [0, 1024, 1088, 1152, 1216]
    assert run[2].accesses is not None and run[2].accesses[0] == (ARENA, 1088, 1152, False)


def test_a_reader_of_part_of_the_state_keeps_the_copy_before_it() -> None:
    run = steps(3)
    run.insert(4, launch("part", [(0, 16)], [(4096, 4112)]))
    assert names(without_copies(run)) == ["step0", "step1", "copy", "part", "step2", "copy"]


@pytest.mark.parametrize("low", [1032, 1028])
def test_what_does_not_begin_where_kernels_read_wide_stays(low: int) -> None:
    assert names(without_copies(steps(2, low))) == ["step0", "copy", "step1", "copy"]


def test_a_source_that_is_written_again_is_not_read_later() -> None:
    run = [copy((64, 128), (0, 64)), launch("over", [], [(100, 104)]), launch("reads", [(0, 64)], [(512, 576)])]
    assert without_copies(run)[2].launch.words[0] == 0


def test_a_target_that_is_written_again_is_no_copy_any_more() -> None:
    run = [copy((64, 128), (0, 64)), launch("over", [], [(0, 4)]), launch("reads", [(0, 64)], [(512, 576)])]
    assert without_copies(run)[2].launch.words[0] == 0


def test_a_launch_does_not_read_what_it_writes_itself() -> None:
    """It read a copy so as to write over the original: it has promised nothing about reading there."""
    run = [copy((64, 128), (0, 64)), launch("in place", [(0, 64)], [(64, 128)])]
    assert without_copies(run)[1].launch.words[0] == 0


def test_a_launch_of_which_nothing_is_known_ends_all_of_it() -> None:
    run = steps(2)
    run.insert(2, Queued(Fake("unknown"), [], None, False))
    assert names(without_copies(run)) == ["step0", "copy", "unknown", "step1", "copy"]


def test_copies_of_copies_lead_to_the_first() -> None:
    run = [copy((64, 128), (0, 64)), copy((0, 64), (256, 320)), launch("reads", [(256, 320)], [(512, 576)])]
    kept = without_copies(run)
    assert kept[-1].launch.words[0] == 64 and kept[1].launch.words[0] == 64


def test_a_copy_before_a_launch_of_which_nothing_is_known_stays() -> None:
    run = [copy((64, 128), (0, 64)), Queued(Fake("unknown"), [], None, False), copy((64, 128), (0, 64))]
    assert names(without_copies(run)) == ["copy", "unknown", "copy"]


@pytest.mark.parametrize("odd", ["two targets", "two sources", "a source that no parameter names"])
def test_a_copy_that_is_not_one_place_to_another_is_neither_read_past_nor_left_out(odd: str) -> None:
    one = copy((64, 128), (0, 64))
    if odd == "two targets":
        one = launch("copy", [], [(64, 128), (0, 64)], True)
    elif odd == "two sources":
        one = launch("copy", [(64, 128), (0, 64)], [], True)
    else:
        one.places[0] = -1
    run = [one, launch("reads", [(0, 64)], [(512, 576)]), copy((128, 192), (0, 64))]
    kept = without_copies(run)
    assert names(kept) == ["copy", "reads", "copy"] and kept[1].launch.words[0] == 0
    both = launch("copy", [], [(0, 64), (256, 320)], True)
    assert names(without_copies([both, copy((128, 192), (0, 64))])) == ["copy", "copy"]


def test_what_is_read_and_then_written_in_one_place_is_read() -> None:
    """A kernel that takes a state and leaves the next one there keeps the copy that made it, and its own place."""
    plan = Plan((), 0)
    kernels = [plan.add_kernel(name, name, name, launch=Launch(64, 64)) for name in ("copy", "pop")]
    source, state, out = (plan.address("b", plan.add_buffer(64, 0, 2)) for _ in range(3))
    step = lambda kernel, args, access: Call(
        kernels[kernel], args, plan.expr(1), 1, "", access, [-1, -1], [plan.expr(64)] * 2
    )
    plan.steps = [step(0, [source, state], "rw"), step(1, [state, out], "mw"), step(0, [source, state], "rw")]
    (run,) = unroll(plan, plan.evaluate({}), [0, 64, 128], 192)
    assert isinstance(run, list) and [launch.kernel for launch in run] == [0, 1, 0]
    assert run[1].words[0] == ("b", 1, 64) and [launch.after for launch in run] == [[], [0], [1]]
