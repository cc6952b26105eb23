"""Recurrent layers as ``scan``: SimpleRNN, LSTM, GRU, RNN over cells, StackedRNNCells.

Owns the cells' step formulas, states, time direction and masks. Never unrolls. ConvLSTM adds its cells from convlstm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ....core.dims import Extent
from ....ir.builder import Builder
from ....ir.graph import Value
from ..call import CELLS, Call, Tensor, layer
from ..model import LayerSpec
from .activation import activate

Step = Callable[[Call, "Value", "list[Value]", "list[Value]"], "tuple[Value, list[Value]]"]


@dataclass
class Cell:
    """A cell ready to run.

    ``project`` maps the whole input sequence [T, N, ...] to what one step takes (the input's share of the gates,
    computed in one product for all steps); ``consts`` are read by every step; ``step(call, x, states, consts)`` gives
    the output and new states; ``states`` are the shapes of one sample's states.
    """

    call: Call
    project: Callable[[Value], Value]
    step: Step
    consts: list[Value]
    states: list[tuple[Extent, ...]]
    nested: list[Cell] = field(default_factory=list)


CellMaker = Callable[[Call, Value], Cell]


def cell(*names: str) -> Callable[[CellMaker], CellMaker]:
    """Add a cell class: ``fn(call, x)`` with x the sequence [T, N, ...]."""

    def add(fn: CellMaker) -> CellMaker:
        for name in names:
            CELLS[name] = fn
        return fn

    return add


def split(b: Builder, x: Value, parts: int) -> list[Value]:
    """Equal parts of the last axis."""
    width = x.shape[-1] // parts
    lead = (None,) * (x.rank - 1)
    return [b.slice(x, starts=(*lead, i * width), stops=(*lead, (i + 1) * width)) for i in range(parts)]


def inner(c: Call, b: Builder) -> Call:
    """The same call, building into a region."""
    return Call(c.lowerer, c.spec, [], b)


def _features(x: Value) -> int | None:
    return x.shape[-1] if isinstance(x.shape[-1], int) else None


def _projected(c: Call, x: Value, gates: int, bias: Value | None) -> Callable[[Value], Value]:
    kernel = c.w("kernel", (_features(x), gates))

    def project(v: Value) -> Value:
        y = c.b.matmul(v, kernel)
        return y if bias is None else c.b.add(y, bias)

    return project


@cell("SimpleRNNCell", "SimpleRNN")
def _simple(c: Call, x: Value) -> Cell:
    units = c.integer("units")
    bias = c.w("bias", (units,)) if c.has("bias") else None

    def step(i: Call, v: Value, states: list[Value], consts: list[Value]) -> tuple[Value, list[Value]]:
        y = i.b.add(v, i.b.matmul(states[0], consts[0]))
        h = activate(i, y, i.config.get("activation", "tanh"))
        return h, [h]

    return Cell(c, _projected(c, x, units, bias), step, [c.w("recurrent_kernel", (units, units))], [(units,)])


def _gate_default(c: Call) -> str:
    """recurrent_activation's default: hard_sigmoid until tf.keras 2."""
    return "hard_sigmoid" if c.version < (2, 3) else "sigmoid"


@cell("LSTMCell", "LSTM")
def _lstm(c: Call, x: Value) -> Cell:
    units = c.integer("units")
    bias = c.w("bias", (4 * units,)) if c.has("bias") else None

    def step(i: Call, v: Value, states: list[Value], consts: list[Value]) -> tuple[Value, list[Value]]:
        b, (h, memory) = i.b, states
        gate, act = i.config.get("recurrent_activation", _gate_default(c)), i.config.get("activation", "tanh")
        zi, zf, zc, zo = split(b, b.add(v, b.matmul(h, consts[0])), 4)
        kept = b.mul(activate(i, zf, gate), memory)
        memory = b.add(kept, b.mul(activate(i, zi, gate), activate(i, zc, act)))
        h = b.mul(activate(i, zo, gate), activate(i, memory, act))
        return h, [h, memory]

    recurrent = c.w("recurrent_kernel", (units, 4 * units))
    return Cell(c, _projected(c, x, 4 * units, bias), step, [recurrent], [(units,), (units,)])


@cell("GRUCell", "GRU")
def _gru(c: Call, x: Value) -> Cell:
    units = c.integer("units")
    after = c.flag("reset_after", c.version[0] >= 3)
    bias, recurrent_bias = None, None
    if c.has("bias"):
        array = c.raw("bias")
        if array.ndim == 2:
            whole = c.w("bias", (2, 3 * units))
            bias, recurrent_bias = (
                c.b.reshape(c.b.slice(whole, starts=(k, None), stops=(k + 1, None)), shape=(3 * units,)) for k in (0, 1)
            )
        else:
            bias = c.w("bias", (3 * units,))
        if after != (array.ndim == 2):
            raise c.refuse(f"reset_after={after} does not fit a bias of shape {array.shape}")
    consts = [c.w("recurrent_kernel", (units, 3 * units))]
    if not after:
        gates, candidate = (
            c.b.slice(consts[0], starts=(None, lo), stops=(None, hi))
            for lo, hi in ((0, 2 * units), (2 * units, 3 * units))
        )
        consts = [gates, candidate]
    elif recurrent_bias is not None:
        consts.append(recurrent_bias)

    def step(i: Call, v: Value, states: list[Value], w: list[Value]) -> tuple[Value, list[Value]]:
        b, h = i.b, states[0]
        gate, act = i.config.get("recurrent_activation", _gate_default(c)), i.config.get("activation", "tanh")
        xz, xr, xh = split(b, v, 3)
        if after:
            inner_gates = b.matmul(h, w[0])
            rz, rr, rh = split(b, b.add(inner_gates, w[1]) if len(w) > 1 else inner_gates, 3)
            z, r = activate(i, b.add(xz, rz), gate), activate(i, b.add(xr, rr), gate)
            candidate = activate(i, b.add(xh, b.mul(r, rh)), act)
        else:
            rz, rr = split(b, b.matmul(h, w[0]), 2)
            z, r = activate(i, b.add(xz, rz), gate), activate(i, b.add(xr, rr), gate)
            candidate = activate(i, b.add(xh, b.matmul(b.mul(r, h), w[1])), act)
        h = b.add(b.mul(z, h), b.mul(b.sub(1.0, z), candidate))
        return h, [h]

    return Cell(c, _projected(c, x, 3 * units, bias), step, consts, [(units,)])


@cell("StackedRNNCells")
def _stacked(c: Call, x: Value) -> Cell:
    """Cells one above the other. Only the lowest sees the sequence at once; the others project inside the step."""
    specs = list(c.spec.children.values())
    cells: list[Cell] = []
    lengths: list[tuple[int, int]] = []
    probe = x
    for n, spec in enumerate(specs):
        made = make_cell(c, spec, probe)
        cells.append(made)
        lengths.append((len(made.states), len(made.consts)))
        if n + 1 < len(specs):
            probe = _Shaped(made.states[0], x)  # type: ignore[assignment]
    extra = [made.call.w("kernel") for made in cells[1:]]
    biases = [_input_bias(made) for made in cells[1:]]
    consts = [v for made in cells for v in made.consts] + extra + [v for v in biases if v is not None]

    def step(i: Call, v: Value, states: list[Value], w: list[Value]) -> tuple[Value, list[Value]]:
        at_state = at_const = 0
        kernels = w[sum(k for _, k in lengths) :]
        at_bias = len(extra)
        new: list[Value] = []
        for n, (made, (n_states, n_consts)) in enumerate(zip(cells, lengths, strict=True)):
            if n:
                v = i.b.matmul(v, kernels[n - 1])
                if biases[n - 1] is not None:
                    v = i.b.add(v, kernels[at_bias])
                    at_bias += 1
            v, after = made.step(
                inner(made.call, i.b), v, states[at_state : at_state + n_states], w[at_const : at_const + n_consts]
            )
            new += after
            at_state, at_const = at_state + n_states, at_const + n_consts
        return v, new

    return Cell(c, cells[0].project, step, consts, [s for made in cells for s in made.states], cells)


class _Shaped:
    """Stands for a sequence that only exists inside the step: cells look at its last extent alone."""

    def __init__(self, state: Sequence[Extent], like: Value) -> None:
        self.shape = (*like.shape[:2], *state)
        self.rank, self.dtype = len(self.shape), like.dtype


def _input_bias(made: Cell) -> Value | None:
    c = made.call
    if not c.has("bias"):
        return None
    whole = c.w("bias")
    if whole.rank == 2:
        return c.b.reshape(c.b.slice(whole, starts=(0, None), stops=(1, None)), shape=(whole.shape[1],))
    return whole


def make_cell(c: Call, spec: LayerSpec, x: Value) -> Cell:
    """The cell that ``spec`` describes, over the sequence x [T, N, ...]."""
    maker = CELLS.get(spec.class_name)
    if maker is None or spec.custom:
        raise spec.refuse("this class is not a cell that can be lowered", "unsupported-layer")
    made: Cell = maker(Call(c.lowerer, spec, [], c.b), x)
    return made


# -- the loop --------------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """What a recurrence gives: output of the last step, of all steps [T, N, ...] by position, and final states."""

    last: Value
    sequence: Value
    states: list[Value]


def run(
    c: Call, made: Cell, x: Value, initial: list[Value] | None, mask: Value | None, backwards: bool, zero: bool
) -> Run:
    """Scan ``made`` over x [T, N, ...]; ``mask`` is [T, N]."""
    b, batch = c.b, x.shape[1]
    states = initial if initial is not None else [c.zeros((batch, *s)) for s in made.states]
    if len(states) != len(made.states):
        raise c.refuse(f"{len(states)} initial states for {len(made.states)} states")
    states = [c.cast(s, c.dtype) for s in states]
    projected = made.project(x)
    n = len(states)
    # With a mask that repeats the last output, that output is carried too: it starts as zeros, unlike the state.
    hold = mask is not None and not zero
    carried = [*states, c.zeros((batch, *made.states[_top(made)]))] if hold else states
    xs = [projected] if mask is None else [projected, mask]
    operands = [*carried, *xs, *made.consts]

    def body(i: Builder, *args: Value) -> list[Value]:
        old, rest = list(args[:n]), args[len(carried) :]
        call = inner(made.call, i)
        out, new = made.step(call, rest[0], old, list(rest[len(xs) :]))
        if mask is None:
            return [*new, out]
        keep = rest[1]
        new = [i.where(c_expand(i, keep, s.rank), s, o) for s, o in zip(new, old, strict=True)]
        before = args[n] if hold else i.constant(0, out.dtype)
        out = i.where(c_expand(i, keep, out.rank), out, before)
        return [*new, *([out] if hold else []), out]

    types = [v.type for v in carried] + [v.type.with_shape(v.shape[1:]) for v in xs] + [v.type for v in made.consts]
    region = b.region(types, body)
    results = b.apply("scan", operands, {"n_carry": len(carried), "n_xs": len(xs), "reverse": backwards}, [region])
    final, sequence = list(results[:n]), results[-1]
    if hold:
        last = results[n]
    elif mask is None:
        last = final[_top(made)]
    else:
        end = 0 if backwards else x.shape[0] - 1
        last = b.slice(
            sequence, starts=(end, *(None,) * (sequence.rank - 1)), stops=(end + 1, *(None,) * (sequence.rank - 1))
        )
        last = b.reshape(last, shape=sequence.shape[1:])
    return Run(last, sequence, final)


def _top(made: Cell) -> int:
    """Index of the state that is the cell's output: the first, or the first of the uppermost stacked cell."""
    return sum(len(m.states) for m in made.nested[:-1]) + (_top(made.nested[-1]) if made.nested else 0)


def c_expand(b: Builder, m: Value, rank: int) -> Value:
    """A mask [N] with axes of 1 up to ``rank``."""
    return b.reshape(m, shape=(*m.shape, *([1] * (rank - m.rank))))


def time_major(b: Builder, x: Value) -> Value:
    """Axes 0 and 1 exchanged."""
    return b.transpose(x, perm=(1, 0, *range(2, x.rank)))


def recur(
    c: Call,
    spec: LayerSpec,
    x: Value,
    initial: list[Value] | None,
    mask: Value | None,
    owner: Call | None = None,
    zero: bool | None = None,
) -> tuple[Run, bool]:
    """Run the recurrent layer ``spec`` over x [N, T, ...]. The bool says that the layer runs backwards."""
    o = owner or Call(c.lowerer, spec, [], c.b)
    if o.flag("stateful"):
        raise spec.refuse("stateful layers keep state between calls, which a compiled model does not")
    for key in ("time_major",):
        if o.flag(key):
            raise spec.refuse(f"{key}=True is not supported")
    if x.rank < 3:
        raise spec.refuse(f"takes inputs of rank 3 or more, got {x.type}")
    inner_spec = spec.children.get("cell", spec)
    first = x.rank > 3 and o.channels_first
    if first:
        x = _turn(o, x, 2, to_last=True)
        initial = None if initial is None else [_turn(o, s, 1, to_last=True) for s in initial]
    sequence = time_major(c.b, o.float(x))
    made = make_cell(c, inner_spec, sequence)
    steps = None
    if mask is not None:
        flat = mask if mask.rank == 2 else c.b.reshape(mask, shape=mask.shape[:2])
        steps = time_major(c.b, c.bool_mask(flat))
    backwards = o.flag("go_backwards")
    hold_zero = o.flag("zero_output_for_mask") if zero is None else zero
    result = run(o, made, sequence, initial, steps, backwards, hold_zero)
    if first:
        states = [_turn(o, s, 1, to_last=False) for s in result.states]
        result = Run(_turn(o, result.last, 1, to_last=False), _turn(o, result.sequence, 2, to_last=False), states)
    return result, backwards


def _turn(c: Call, x: Value, lead: int, to_last: bool) -> Value:
    """Move channels between the axis behind ``lead`` axes and the last one."""
    rest = range(lead, x.rank)
    perm = (*range(lead), *rest[1:], lead) if to_last else (*range(lead), x.rank - 1, *rest[:-1])
    return c.b.transpose(x, perm=perm)


def outputs(c: Call, result: Run, backwards: bool, sequences: bool, state: bool, mask: Value | None) -> Any:
    """Keras' outputs: last output or all of them (in the order of computation), then the states if asked for."""
    if sequences:
        steps = c.b.reverse(result.sequence, axes=(0,)) if backwards else result.sequence
        y = Tensor(time_major(c.b, steps), mask)
    else:
        y = Tensor(result.last)
    return [y, *(Tensor(s) for s in result.states)] if state else y


def initial_states(c: Call, given: Any, state: Any) -> tuple[Value, list[Value] | None]:
    """(sequence, initial states): states come as ``initial_state=`` or, in Keras 2, behind the input in one list."""
    if isinstance(given, (list, tuple)):
        given, rest = given[0], list(given[1:])
        state = rest if rest and state is None else state
    if state is None:
        return given, None
    flat = [s for s in (state if isinstance(state, (list, tuple)) else [state])]
    flat = [v for s in flat for v in (s if isinstance(s, (list, tuple)) else [s])]
    if not all(isinstance(s, Value) for s in flat):
        raise c.refuse("initial_state must be tensors")
    return given, flat


def steps_mask(c: Call, states: list[Value] | None) -> Value | None:
    """The mask that the recurrence obeys. Keras 3 fills it in only where the sequence is the one tensor argument: with
    initial states an implicit mask still travels on, but the steps do not see it."""
    if c.version[0] >= 3 and states is not None and not c.explicit_mask:
        return None
    return c.masks[0] if c.masks else None


@layer("SimpleRNN", "LSTM", "GRU", "RNN")
def _recurrent(c: Call, x: Any, initial_state: Any = None, **ignored: Any) -> Any:
    if c.config.get("num_constants"):
        raise c.refuse("constants are not supported")
    value, states = initial_states(c, x, initial_state)
    mask = c.masks[0] if c.masks else None
    result, backwards = recur(c, c.spec, value, states, steps_mask(c, states), c)
    return outputs(c, result, backwards, c.flag("return_sequences"), c.flag("return_state"), mask)
