"""The executable plan of one target: `plan.json`.

Owns its schema: steps, buffers with lifetimes, constants, size expressions and their validation.
Must not know how offsets are chosen, how a step table is laid out, or what a kernel computes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union

from . import dims
from .dtypes import DTYPES
from .errors import BundleRefused, VerifyError
from .layout import Layout

VERSION = 1
DEVICE_ALIGN = 256  # bytes: every array in a GPU's memory starts at a multiple
MOST_GROWTH = 64  # a layout made at load pads at most this much: the bytes of a hostile plan stay bounded

# One argument word of a kernel:
#   ("b", buffer, offset_expr)   address in the arena          ("c", constant, byte_offset)  address in weights.bin
#   ("i", input, offset_expr)    address in an input           ("o", output, offset_expr)    address in an output
#   ("x", expr)                  integer parameter
Arg = tuple[Any, ...]


class Launch:
    """How a GPU runs a kernel: ``block`` threads per block, ``units`` of the extent per block, bytes of dynamic
    ``shared`` memory; ``max_blocks`` caps the grid (0: no cap), a block then goes on with the units beyond it."""

    __slots__ = ("block", "units", "shared", "max_blocks")

    def __init__(self, block: int, units: int, shared: int = 0, max_blocks: int = 0) -> None:
        self.block, self.units, self.shared, self.max_blocks = block, units, shared, max_blocks

    def verify(self) -> None:
        """In the limits that every GPU has. Raises VerifyError."""
        values = [getattr(self, s) for s in self.__slots__]
        if any(type(v) is not int or not 0 <= v < 1 << 31 for v in values) or self.shared > 1 << 20:
            raise VerifyError(f"a launch of {values}")
        if not 32 <= self.block <= 1024 or self.block % 32 or self.units < 1:
            raise VerifyError(f"a launch of {self.block} threads for {self.units} units")


class Kernel:
    """A native function of the image; ``flops``, ``bytes`` moved and ``scratch`` bytes are expressions.

    Scratch is per thread on a CPU and per launch on a GPU, whose kernels have a ``launch``.
    """

    __slots__ = ("name", "symbol", "kind", "flops", "bytes", "scratch", "launch")

    def __init__(
        self, name: str, symbol: str, kind: str, flops: int, bytes: int, scratch: int, launch: Launch | None = None
    ) -> None:
        self.name, self.symbol, self.kind = name, symbol, kind
        self.flops, self.bytes, self.scratch, self.launch = flops, bytes, scratch, launch

    def to_json(self) -> dict[str, Any]:
        """The kernel as JSON data."""
        out = {s: getattr(self, s) for s in self.__slots__[:-1]}
        if self.launch is not None:
            out["launch"] = {s: getattr(self.launch, s) for s in Launch.__slots__}
        return out

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Kernel:
        """The kernel that ``to_json`` gave."""
        launch = Launch(**raw["launch"]) if "launch" in raw else None
        return cls(**{k: v for k, v in raw.items() if k != "launch"}, launch=launch)


class Buffer:
    """A storage class in the arena: ``bytes`` expression, live from step ``first`` to ``last``, both included."""

    __slots__ = ("bytes", "first", "last")

    def __init__(self, bytes: int, first: int, last: int) -> None:
        self.bytes, self.first, self.last = bytes, first, last


class Constant:
    """A range of weights.bin. With ``wanted``, the runtime makes that layout of it at load, from ``stored``."""

    __slots__ = ("offset", "bytes", "dtype", "stored", "wanted")

    def __init__(
        self, offset: int, bytes: int, dtype: str = "", stored: Layout | None = None, wanted: Layout | None = None
    ) -> None:
        self.offset, self.bytes, self.dtype, self.stored, self.wanted = offset, bytes, dtype, stored, wanted

    @property
    def size(self) -> int:
        """Bytes as kernels see it."""
        if self.wanted is None:
            return self.bytes
        return math.prod(self.wanted.packed_shape) * (2 if self.wanted.rounds else DTYPES[self.dtype].size)

    def to_json(self) -> dict[str, Any]:
        """The constant as JSON data."""
        out: dict[str, Any] = {"offset": self.offset, "bytes": self.bytes}
        if self.stored is not None and self.wanted is not None:
            out.update(dtype=self.dtype, stored=self.stored.to_json(), wanted=self.wanted.to_json())
        return out

    @classmethod
    def of(cls, raw: Mapping[str, Any]) -> Constant:
        """The constant that ``to_json`` gave."""
        if "wanted" not in raw:
            return cls(raw["offset"], raw["bytes"])
        layouts = [Layout.from_json(raw[k]) for k in ("stored", "wanted")]
        return cls(raw["offset"], raw["bytes"], raw["dtype"], *layouts)

    def verify(self) -> None:
        """Aligned, and its layouts are of one array. Raises VerifyError."""
        whole = type(self.offset) is int and type(self.bytes) is int
        if not whole or min(self.offset, self.bytes) < 0 or self.offset % 64:
            raise VerifyError(f"constant at {self.offset} of {self.bytes} bytes")
        if self.stored is not None and self.wanted is not None:
            floats = ("f32",) if self.wanted.rounds else ("f32", "f64")
            if self.stored.derived or (self.wanted.derived and self.dtype not in floats):
                raise VerifyError(f"constant at {self.offset}: its stored layout has no inverse, or is of no float")
            size = math.prod(self.stored.packed_shape) * DTYPES[self.dtype].size
            if self.stored.shape != self.wanted.shape or size != self.bytes or self.size > MOST_GROWTH * max(64, size):
                raise VerifyError(f"constant at {self.offset}: its layouts do not fit each other")


class Call:
    """One kernel call over ``extent`` units of work, at least ``grain`` per chunk.

    For the checker, one entry per argument: ``access`` is a string of ``r`` ``w`` ``m`` (read, then written) and ``-``;
    ``values`` names the content (views and the parts of one concatenation share a name; -1 none);
    ``spans`` is an expression for the bytes touched from the argument's address on (-1: to the end of the storage).
    """

    __slots__ = ("kernel", "args", "extent", "grain", "origin", "access", "values", "spans")

    def __init__(
        self,
        kernel: int,
        args: Sequence[Arg],
        extent: int,
        grain: int = 1,
        origin: str = "",
        access: str = "",
        values: Sequence[int] = (),
        spans: Sequence[int] = (),
    ) -> None:
        self.kernel, self.args, self.extent, self.grain = kernel, tuple(args), extent, grain
        self.origin, self.access, self.values, self.spans = origin, access, tuple(values), tuple(spans)


class Bump:
    """An argument word that moves by ``delta`` (expression) each trip; ``reverse``: it starts at the far end and falls.

    ``step`` is the flattened number of a call inside the loop, ``pos`` the place of the argument in it.
    """

    __slots__ = ("step", "pos", "delta", "reverse")

    def __init__(self, step: int, pos: int, delta: int, reverse: bool = False) -> None:
        self.step, self.pos, self.delta, self.reverse = step, pos, delta, reverse


class Carry:
    """At the end of a trip the value ``made`` over the bytes (expression) at ``arg`` becomes ``state`` of the next."""

    __slots__ = ("arg", "span", "made", "state")

    def __init__(self, arg: Arg, span: int, made: int, state: int) -> None:
        self.arg, self.span, self.made, self.state = tuple(arg), span, made, state


class Loop:
    """``body`` run ``count`` (expression) times."""

    __slots__ = ("count", "bumps", "body", "carried")

    def __init__(self, count: int, bumps: Sequence[Bump], body: Sequence[Step], carried: Sequence[Carry] = ()) -> None:
        self.count, self.bumps, self.body, self.carried = count, tuple(bumps), tuple(body), tuple(carried)


class If:
    """``then`` when the byte at address ``cond`` is not 0, else ``orelse``; ``value`` as in Call.values."""

    __slots__ = ("cond", "then", "orelse", "value")

    def __init__(self, cond: Arg, then: Sequence[Step], orelse: Sequence[Step], value: int = -1) -> None:
        self.cond, self.then, self.orelse, self.value = cond, tuple(then), tuple(orelse), value


class While:
    """``cond_steps``, then ``body`` and again as long as the byte at ``cond`` is not 0."""

    __slots__ = ("cond_steps", "cond", "body", "value", "carried")

    def __init__(
        self, cond_steps: Sequence[Step], cond: Arg, body: Sequence[Step], value: int = -1,
        carried: Sequence[Carry] = (),
    ) -> None:  # fmt: skip
        self.cond_steps, self.cond, self.body, self.value = tuple(cond_steps), cond, tuple(body), value
        self.carried = tuple(carried)


class RunSymbol:
    """A symbol that a Bind step sets: from ``low`` to ``high`` (expression over the symbols set before it). Sizes are
    laid out for ``most``, an expression over the plan's own symbols."""

    __slots__ = ("name", "low", "high", "most")

    def __init__(self, name: str, low: int, high: int, most: int) -> None:
        self.name, self.low, self.high, self.most = name, low, high, most


class Bind:
    """Set run-time symbol ``symbol`` to the i64 at ``source``; ``value`` as in Call.values. Ends the run with a refusal
    when the number is out of the symbol's range."""

    __slots__ = ("symbol", "source", "value", "origin")

    def __init__(self, symbol: int, source: Arg, value: int = -1, origin: str = "") -> None:
        self.symbol, self.source, self.value, self.origin = symbol, source, value, origin


class Check:
    """End the run with a refusal unless expressions ``left`` and ``right`` are equal."""

    __slots__ = ("left", "right", "origin")

    def __init__(self, left: int, right: int, origin: str = "") -> None:
        self.left, self.right, self.origin = left, right, origin


Step = Union[Call, Loop, If, While, Bind, Check]


class Plan:
    """Everything the runtime needs to run one target's image.

    ``entries`` maps a symbol of the image to its byte offset in code.bin. ``outputs[i]`` is the place where output i
    lies after the last step: ``("o", i, zero)`` when kernels write it straight into the caller's array, else an input,
    constant, buffer or other output that the runtime copies from.

    Flattened step numbers: every step (loop, if and while too) takes one number in pre-order: a loop before its body,
    an if before ``then`` before ``else``, a while before ``cond_steps`` before ``body``.

    ``windows``: value -> (value of which it is a range of bytes, expression of where it begins), see Call.values.
    """

    __slots__ = (
        "symbols", "exprs", "kernels", "buffers", "constants", "n_inputs", "outputs", "steps", "entries", "_known",
        "bound", "windows",
    )  # fmt: skip

    def __init__(self, symbols: Sequence[str] = (), n_inputs: int = 0) -> None:
        self.symbols: list[str] = list(symbols)
        self.exprs: list[str] = []
        self.kernels: list[Kernel] = []
        self.buffers: list[Buffer] = []
        self.constants: list[Constant] = []
        self.n_inputs = n_inputs
        self.outputs: list[Arg] = []
        self.steps: list[Step] = []
        self.entries: dict[str, int] = {}
        self.bound: list[RunSymbol] = []  # in the order in which they are set
        self.windows: dict[int, tuple[int, int]] = {}
        self._known: dict[str, int] = {}

    # -- building -------------------------------------------------------------------------------------------------
    def expr(self, e: dims.DimLike) -> int:
        """The index of expression ``e``; equal expressions share one."""
        text = e if isinstance(e, str) else str(e)
        index = self._known.get(text)
        if index is None:
            index = self._known[text] = len(self.exprs)
            self.exprs.append(text)
        return index

    def add_kernel(
        self,
        name: str,
        symbol: str,
        kind: str,
        flops: dims.DimLike = 0,
        bytes: dims.DimLike = 0,
        scratch: dims.DimLike = 0,
        launch: Launch | None = None,
    ) -> int:
        """The index of a new kernel entry."""
        self.kernels.append(Kernel(name, symbol, kind, self.expr(flops), self.expr(bytes), self.expr(scratch), launch))
        return len(self.kernels) - 1

    def add_buffer(self, bytes: dims.DimLike, first: int, last: int) -> int:
        """The index of a new arena buffer, live over flattened steps ``first``..``last``."""
        self.buffers.append(Buffer(self.expr(bytes), first, last))
        return len(self.buffers) - 1

    def add_constant(
        self, offset: int, bytes: int, dtype: str = "", stored: Layout | None = None, wanted: Layout | None = None
    ) -> int:
        """The index of a new range of weights.bin. With ``wanted``, the runtime repacks it from ``stored`` at load."""
        made = stored is not None and wanted is not None and stored != wanted
        self.constants.append(Constant(offset, bytes, dtype, stored, wanted) if made else Constant(offset, bytes))
        return len(self.constants) - 1

    def address(self, kind: str, index: int, offset: dims.DimLike = 0) -> Arg:
        """An address argument: ``kind`` is b, c, i or o."""
        return (kind, index, int(dims.extent(offset))) if kind == "c" else (kind, index, self.expr(offset))  # type: ignore[arg-type]

    def parameter(self, e: dims.DimLike) -> Arg:
        """An integer argument."""
        return ("x", self.expr(e))

    # -- looking --------------------------------------------------------------------------------------------------
    def walk(self) -> Iterator[tuple[int, Step, tuple[Loop | While, ...]]]:
        """Every step with its flattened number and the loops around it, outermost first."""
        yield from walk_steps(self.steps, 0, ())

    def evaluate(self, env: Mapping[str, int]) -> list[int]:
        """The value of every expression under ``env``; a run-time symbol left out counts as its greatest value."""
        env = {**{b.name: dims.evaluate(dims.parse(self.exprs[b.most]), env) for b in self.bound}, **env}
        return [dims.evaluate(dims.parse(t), env) for t in self.exprs]

    # -- JSON -----------------------------------------------------------------------------------------------------
    def to_json(self) -> dict[str, Any]:
        """The plan as JSON data."""
        return {
            "version": VERSION,
            "symbols": self.symbols,
            "exprs": self.exprs,
            "kernels": [k.to_json() for k in self.kernels],
            "buffers": [{"bytes": b.bytes, "first": b.first, "last": b.last} for b in self.buffers],
            "constants": [c.to_json() for c in self.constants],
            "inputs": list(range(self.n_inputs)),
            "outputs": [{"storage": list(o)} for o in self.outputs],
            "steps": [_step_json(s) for s in self.steps],
            "entries": dict(sorted(self.entries.items())),
            **({"windows": [[k, *self.windows[k]] for k in sorted(self.windows)]} if self.windows else {}),
            **({"bound": [{s: getattr(b, s) for s in RunSymbol.__slots__} for b in self.bound]} if self.bound else {}),
        }

    def to_bytes(self) -> bytes:
        """The canonical JSON text."""
        return json.dumps(self.to_json(), sort_keys=True, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """Read and validate. Raises VerifyError for anything that is not a valid plan."""
        try:
            raw = json.loads(data)
            if raw["version"] != VERSION:
                raise VerifyError(f"plan version {raw['version']!r} is not {VERSION}")
            plan = cls(raw["symbols"], len(raw["inputs"]))
            plan.exprs = raw["exprs"]
            plan.kernels = [Kernel.of(k) for k in raw["kernels"]]
            plan.buffers = [Buffer(**b) for b in raw["buffers"]]
            plan.constants = [Constant.of(c) for c in raw["constants"]]
            plan.outputs = [tuple(o["storage"]) for o in raw["outputs"]]
            plan.steps = [_step_of(s) for s in raw["steps"]]
            plan.entries = raw["entries"]
            plan.windows = {k: (whole, at) for k, whole, at in raw.get("windows", ())}
            plan.bound = [RunSymbol(**b) for b in raw.get("bound", ())]
            plan.verify()
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, RecursionError, BundleRefused) as e:
            raise VerifyError(f"plan is malformed: {type(e).__name__}: {e}") from None
        return plan

    # -- validation -----------------------------------------------------------------------------------------------
    def verify(self) -> None:
        """Every index in range, every lifetime ordered, every bump inside its loop. Raises VerifyError."""
        check = _Checker(self)
        for text in [*self.exprs, *self.symbols, *self.entries]:
            check.true(isinstance(text, str), f"{text!r} is not text")
        for k in self.kernels:
            check.true(all(isinstance(t, str) for t in (k.name, k.kind, k.symbol)), f"kernel {k.name!r} is malformed")
            check.true(k.symbol in self.entries, f"kernel {k.name!r}: no symbol {k.symbol!r} in the image")
            for e in (k.flops, k.bytes, k.scratch):
                check.expr(e)
            if k.launch is not None:
                k.launch.verify()
        for name, offset in self.entries.items():
            check.true(type(offset) is int and offset >= 0, f"symbol {name!r} at {offset!r}")
        for symbol in self.bound:
            check.true(isinstance(symbol.name, str) and symbol.name not in self.symbols, f"symbol {symbol.name!r}")
            check.true(type(symbol.low) is int and symbol.low >= 0, f"symbol {symbol.name} is at least {symbol.low!r}")
            check.expr(symbol.high)
            check.expr(symbol.most)
        check.steps(self.steps, 0)
        for i, b in enumerate(self.buffers):
            check.expr(b.bytes)
            check.true(
                type(b.first) is type(b.last) is int and 0 <= b.first <= b.last,
                f"buffer {i} lives from step {b.first} to {b.last}",
            )
        for value, (whole, at) in self.windows.items():
            # A range lies in what was numbered before it: no chain of them closes.
            known = type(value) is type(whole) is int and 0 <= whole < value
            check.true(known, f"value {value!r} is no range of {whole!r}")
            check.expr(at)
        for c in self.constants:
            c.verify()
        for o in self.outputs:
            check.arg(o, address=True)


class _Checker:
    """Validation of indices; kept apart so that Plan stays a record."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.limits = {"b": len(plan.buffers), "c": len(plan.constants), "i": plan.n_inputs, "o": len(plan.outputs)}
        self.n_exprs = len(plan.exprs)

    def true(self, ok: bool, message: str) -> None:
        if not ok:
            raise VerifyError(message)

    def expr(self, index: Any) -> None:
        if type(index) is not int or not 0 <= index < self.n_exprs:
            raise VerifyError(f"no expression {index!r}")

    def arg(self, arg: Arg, address: bool = False) -> None:
        kind = arg[0]
        if kind == "x":
            self.true(not address and len(arg) == 2, f"argument {arg!r} is not an address")
            self.expr(arg[1])
            return
        if len(arg) != 3 or kind not in self.limits or type(arg[1]) is not int or not 0 <= arg[1] < self.limits[kind]:
            raise VerifyError(f"bad argument {arg!r}")
        if kind == "c":
            self.true(
                type(arg[2]) is int and 0 <= arg[2] <= self.plan.constants[arg[1]].size,
                f"argument {arg!r} lies outside its constant",
            )
        else:
            self.expr(arg[2])

    def steps(self, steps: Sequence[Step], at: int) -> int:
        for s in steps:
            first, at = at, at + 1
            if type(s) is Call:
                self.call(s)
            elif type(s) is Loop:
                self.expr(s.count)
                self.carried(s.carried)
                at = self.steps(s.body, at)
                calls = {n: c for n, c, _ in walk_steps(s.body, first + 1, ())}
                for b in s.bumps:
                    self.expr(b.delta)
                    call = calls.get(b.step)
                    if not isinstance(call, Call) or not 0 <= b.pos < len(call.args):
                        raise VerifyError(f"bump of step {b.step} argument {b.pos} outside its loop")
            elif type(s) is If:
                self.arg(s.cond, address=True)
                at = self.steps(s.orelse, self.steps(s.then, at))
            elif type(s) is While:
                self.arg(s.cond, address=True)
                self.carried(s.carried)
                at = self.steps(s.body, self.steps(s.cond_steps, at))
            elif type(s) is Bind:
                self.arg(s.source, address=True)
                in_range = type(s.symbol) is int and 0 <= s.symbol < len(self.plan.bound)
                self.true(in_range and isinstance(s.origin, str), f"no run-time symbol {s.symbol!r}")
            elif type(s) is Check:
                self.expr(s.left)
                self.expr(s.right)
                self.true(isinstance(s.origin, str), f"origin {s.origin!r} is not text")
        return at

    def carried(self, rows: Sequence[Carry]) -> None:
        for c in rows:
            self.arg(c.arg, address=True)
            self.expr(c.span)
            self.true(type(c.made) is type(c.state) is int, f"a loop carries {c.made!r} as {c.state!r}")

    def call(self, s: Call) -> None:
        self.true(type(s.kernel) is int and 0 <= s.kernel < len(self.plan.kernels), f"no kernel {s.kernel!r}")
        self.expr(s.extent)
        self.true(type(s.grain) is int and 1 <= s.grain < 1 << 48, f"grain {s.grain!r}")
        for a in s.args:
            self.arg(a)
        for extra in (s.access, s.values, s.spans):
            self.true(not extra or len(extra) == len(s.args), f"step {s.origin!r}: one access per argument is needed")
        for span in s.spans:
            self.true(type(span) is int and -1 <= span < self.n_exprs, f"no expression {span!r}")
        self.true(isinstance(s.origin, str), f"origin {s.origin!r} is not text")


def walk_steps(
    steps: Sequence[Step], at: int, loops: tuple[Any, ...] = ()
) -> Iterator[tuple[int, Step, tuple[Any, ...]]]:
    """Every step from flattened number ``at`` on, with the loops around it, outermost first."""
    for s in steps:
        yield at, s, loops
        at += 1
        for inner, around in _regions(s, loops):
            yield from walk_steps(inner, at, around)
            at += count_steps(inner)


def _regions(s: Step, loops: tuple[Any, ...]) -> tuple[tuple[Sequence[Step], tuple[Any, ...]], ...]:
    if type(s) is Loop:
        return ((s.body, (*loops, s)),)
    if type(s) is If:
        return ((s.then, loops), (s.orelse, loops))
    if type(s) is While:
        return ((s.cond_steps, (*loops, s)), (s.body, (*loops, s)))
    return ()


def count_steps(steps: Sequence[Step]) -> int:
    """How many flattened numbers ``steps`` take."""
    return sum(1 + sum(count_steps(inner) for inner, _ in _regions(s, ())) for s in steps)


def _step_json(s: Step) -> dict[str, Any]:
    if isinstance(s, Call):
        out: dict[str, Any] = {"op": "call", "kernel": s.kernel, "args": [list(a) for a in s.args], "extent": s.extent}
        out.update(grain=s.grain, origin=s.origin)
        if s.access:
            out.update(access=s.access, values=list(s.values), spans=list(s.spans))
        return out
    if isinstance(s, Loop):
        bumps = [{"arg": [b.step, b.pos], "delta": b.delta, "reverse": b.reverse} for b in s.bumps]
        body = [_step_json(x) for x in s.body]
        return {"op": "loop", "count": s.count, "bumps": bumps, "body": body, **_carried_json(s)}
    if isinstance(s, If):
        sides = {"then": [_step_json(x) for x in s.then], "else": [_step_json(x) for x in s.orelse]}
        return {"op": "if", "cond": list(s.cond), "value": s.value, **sides}
    if isinstance(s, Bind):
        return {"op": "bind", "symbol": s.symbol, "source": list(s.source), "value": s.value, "origin": s.origin}
    if isinstance(s, Check):
        return {"op": "check", "left": s.left, "right": s.right, "origin": s.origin}
    parts = {"cond_steps": [_step_json(x) for x in s.cond_steps], "body": [_step_json(x) for x in s.body]}
    return {"op": "while", "cond": list(s.cond), "value": s.value, **parts, **_carried_json(s)}


def _carried_json(s: Loop | While) -> dict[str, Any]:
    return {"carried": [[list(c.arg), c.span, c.made, c.state] for c in s.carried]} if s.carried else {}


def _carried_of(raw: dict[str, Any]) -> list[Carry]:
    return [Carry(*row) for row in raw.get("carried", ())]


def _step_of(raw: dict[str, Any]) -> Step:
    op = raw["op"]
    if op == "call":
        args = [tuple(a) for a in raw["args"]]
        more = (raw.get("access", ""), raw.get("values", ()), raw.get("spans", ()))
        return Call(raw["kernel"], args, raw["extent"], raw["grain"], raw["origin"], *more)
    if op == "loop":
        bumps = [Bump(b["arg"][0], b["arg"][1], b["delta"], b["reverse"]) for b in raw["bumps"]]
        return Loop(raw["count"], bumps, [_step_of(s) for s in raw["body"]], _carried_of(raw))
    if op == "if":
        sides = [_step_of(s) for s in raw["then"]], [_step_of(s) for s in raw["else"]]
        return If(tuple(raw["cond"]), *sides, raw.get("value", -1))
    if op == "while":
        parts = [_step_of(s) for s in raw["cond_steps"]], tuple(raw["cond"]), [_step_of(s) for s in raw["body"]]
        return While(*parts, raw.get("value", -1), _carried_of(raw))
    if op == "bind":
        return Bind(raw["symbol"], tuple(raw["source"]), raw.get("value", -1), raw["origin"])
    if op == "check":
        return Check(raw["left"], raw["right"], raw["origin"])
    raise VerifyError(f"unknown step {op!r}")


def memory_expression(plan: Plan) -> str:
    """The peak of live bytes over the steps, as text over the symbols (buffers only, scratch apart)."""
    sizes = [dims.parse(plan.exprs[b.bytes]) for b in plan.buffers]
    sizes = [dims.floordiv(s + 63, 64) * 64 for s in sizes]
    peaks: set[dims.Extent] = set()
    for first in {b.first for b in plan.buffers}:
        total: dims.Extent = 0
        for size, b in zip(sizes, plan.buffers):
            if b.first <= first <= b.last:
                total = total + size
        peaks.add(total)
    kept: list[dims.Extent] = []
    for p in sorted(peaks, key=str):
        if not any(dims.compare_le(p, q) for q in kept):
            kept = [q for q in kept if not dims.compare_le(q, p)] + [p]
    out: dims.Extent = 0
    for p in kept:
        out = dims.maximum(out, p)
    return str(out)


__all__ = [
    "Arg", "Bind", "Buffer", "Bump", "Call", "Carry", "Check", "Constant", "If", "Kernel", "Launch", "Loop", "Plan",
    "RunSymbol", "Step", "VERSION", "While", "count_steps", "memory_expression", "walk_steps",
]  # fmt: skip
