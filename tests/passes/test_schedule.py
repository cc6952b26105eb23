"""Places, in-place decisions and lifetimes, replayed against the interpreter by hand."""

import numpy as np
import pytest

from fusewright.ir import Builder
from fusewright.ir.program import Copy, Loop, Run, walk
from fusewright.passes.memory.schedule import schedule


class Anything:
    """A target whose kernels overwrite whatever the op allows."""

    name, block, cache_bytes = "fake", 16, (1 << 15,)

    def workspace(self, node):
        return (64,) if node.op.name == "matmul" else ()

    def may_overwrite(self, node, operand):
        return operand in node.op.overwrites


def placed(graph):
    program = schedule(graph, Anything())
    program.verify()
    return program


def test_a_chain_works_in_one_buffer():
    b = Builder()
    x = b.input("x", "f32", ("N", 8))
    y = b.tanh(b.relu(b.exp(x)))
    program = placed(b.build(b.add(y, 1.0)))
    assert len(program.buffers) == 1
    assert program.outputs[0].kind == "output"


def test_a_value_read_later_is_not_overwritten():
    b = Builder()
    x = b.input("x", "f32", (8,))
    y = b.exp(x)
    z = b.relu(y)
    program = placed(b.build(b.mul(z, y)))
    assert program.places[y] != program.places[z]


def test_a_view_keeps_its_base_alive():
    # Two views of one value: computing over the first while the second is read later (a TVM bug of 2024).
    b = Builder()
    x = b.input("x", "f32", (4, 2))
    y = b.exp(x)
    first, second = b.reshape(y, shape=(8,)), b.reshape(y, shape=(2, 4))
    doubled = b.add(first, 1.0)
    program = placed(b.build(b.concat(b.reshape(doubled, shape=(2, 4)), second, axis=0)))
    assert program.places[doubled] != program.places[y] == program.places[second]


def test_one_storage_in_two_shapes_is_not_overwritten():
    b = Builder()
    x = b.input("x", "f32", (4, 1))
    y = b.exp(x)
    z = b.add(y, b.reshape(y, shape=(1, 4)))
    program = placed(b.build(b.relu(z)))
    assert program.places[z] != program.places[y]


def test_inputs_constants_and_outputs_are_never_overwritten():
    b = Builder()
    x = b.input("x", "f32", (4,))
    c = b.constant(np.ones(4, np.float32))
    y = b.relu(x)
    program = placed(b.build(y, b.relu(c), b.neg(y)))
    assert [p.kind for p in program.outputs] == ["output"] * 3
    assert len({p.index for p in program.outputs}) == 3


def test_an_output_returned_twice_and_an_input_returned():
    b = Builder()
    x = b.input("x", "f32", (4,))
    y = b.relu(x)
    program = placed(b.build(y, y, x, names=["a", "b", "c"]))
    assert str(program.outputs[0]) == str(program.outputs[1]) == "output0"
    assert str(program.outputs[2]) == "input0"


def test_workspace_lives_during_its_step_only():
    b = Builder()
    x = b.input("x", "f32", (4, 4))
    y = b.matmul(b.matmul(x, x), x)
    program = placed(b.build(b.relu(y)))
    spare = [buffer for buffer in program.buffers if buffer.value.startswith("workspace")]
    assert [(s.first, s.last) for s in spare] == [(0, 0), (1, 1)]


def swap_scan(length):
    """Carried values that trade places: a copy in the wrong order loses one."""
    b = Builder()
    x = b.input("x", "f32", (3,))
    y = b.input("y", "f32", (3,))
    region = b.region([x.type, y.type], lambda r, p, q: (q, p))
    return b.build(*b.scan(x, y, n_carry=2, length=length, regions=[region]))


def test_carried_values_that_swap_go_through_a_spare():
    program = placed(swap_scan(3))
    loop = next(s for s in program.steps if isinstance(s, Loop))
    copies = [s for s in walk(loop.body) if isinstance(s, Copy)]
    assert len(copies) == 4
    memory = {"output0": "x", "output1": "y"}
    for c in copies:
        memory[str(c.target)] = memory[str(c.source)]
    assert (memory["output0"], memory["output1"]) == ("y", "x")


def test_a_buffer_read_in_a_loop_lives_through_it():
    b = Builder()
    x = b.input("x", "f32", ("T", 4))
    weights = b.exp(b.input("w", "f32", (4,)))
    start = b.full((4,), 0.0, "f32")
    region = b.region(
        [start.type, x.type.with_shape((4,)), weights.type],
        lambda r, h, s, w: (r.add(h, r.mul(s, w)), r.neg(r.relu(r.add(h, s)))),
    )
    out = b.scan(start, x, weights, n_carry=1, n_xs=1, regions=[region])
    program = placed(b.build(*out))
    steps = list(program.walk())
    at = next(i for i, s in enumerate(steps) if isinstance(s, Loop))
    buffer = program.buffers[program.places[weights].index]
    assert buffer.first < at and buffer.last >= at + len(list(walk(steps[at].body)))
    runs = [s.node.op.name for s in walk(steps[at].body) if isinstance(s, Run)]
    assert runs == ["mul", "add", "add", "relu", "neg"]


@pytest.mark.parametrize("nested", [False, True])
def test_scan_over_a_slice_of_a_scan(nested):
    b = Builder()
    x = b.input("x", "f32", (5, 3, 2))

    def outer(r, total, row):
        if not nested:
            return r.add(total, r.reduce_sum(row, axes=0))
        inner = r.region([total.type, total.type], lambda q, t, s: q.add(t, s))
        return r.scan(total, row, n_carry=1, n_xs=1, regions=[inner])

    start = b.full((2,), 0.0, "f32")
    region = b.region([start.type, x.type.with_shape((3, 2))], outer)
    program = placed(b.build(b.scan(start, x, n_carry=1, n_xs=1, regions=[region])))
    trips = {p.trip.loop for s in program.walk() if isinstance(s, Copy) for p in (s.source, s.target) if p.trip}
    assert (len(trips) == 1) is nested
