"""RNN, GRU and LSTM as scans over time.

Owns ONNX's gate orders, directions, peepholes and sequence lengths.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ....core.dtypes import I64
from ....ir.builder import Builder
from ....ir.graph import Value
from ..call import Call, op
from .indexing import reversed_rows

Activation = Callable[[Builder, Value], Value]
_GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
_DEFAULTS = {"RNN": ("Tanh",), "GRU": ("Sigmoid", "Tanh"), "LSTM": ("Sigmoid", "Tanh", "Tanh")}
# name -> (default alpha, default beta, function)
_ACTIVATIONS: dict[str, tuple[float, float, Any]] = {
    "relu": (0, 0, lambda b, x, p, q: b.relu(x)),
    "tanh": (0, 0, lambda b, x, p, q: b.tanh(x)),
    "sigmoid": (0, 0, lambda b, x, p, q: b.sigmoid(x)),
    "affine": (1.0, 0.0, lambda b, x, p, q: b.add(b.mul(x, p), q)),
    "leakyrelu": (0.01, 0, lambda b, x, p, q: b.leaky_relu(x, alpha=p)),
    "thresholdedrelu": (1.0, 0, lambda b, x, p, q: b.where(b.gt(x, p), x, b.mul(x, 0.0))),
    "scaledtanh": (1.0, 1.0, lambda b, x, p, q: b.mul(b.tanh(b.mul(x, q)), p)),
    "hardsigmoid": (0.2, 0.5, lambda b, x, p, q: b.hard_sigmoid(x, alpha=p, beta=q)),
    "elu": (1.0, 0, lambda b, x, p, q: b.elu(x, alpha=p)),
    "softsign": (0, 0, lambda b, x, p, q: b.softsign(x)),
    "softplus": (0, 0, lambda b, x, p, q: b.softplus(x)),
}
_TAKES = {"affine": 2, "leakyrelu": 1, "thresholdedrelu": 1, "scaledtanh": 2, "hardsigmoid": 2, "elu": 1}


def _activations(c: Call, directions: int) -> list[list[Activation]]:
    """Per direction, the activations f, g, h; alphas and betas are taken in the order of those that need them."""
    per = len(_DEFAULTS[c.type])
    names = c.strs("activations", _DEFAULTS[c.type] * directions)
    alphas, betas = list(c.floats("activation_alpha", ())), list(c.floats("activation_beta", ()))
    if len(names) != per * directions:
        raise c.refuse(f"activations {names} for {directions} directions", "malformed")
    found: list[Activation] = []
    for name in names:
        key = name.lower()
        if key not in _ACTIVATIONS:
            raise c.refuse(f"the activation {name!r}")
        alpha, beta, fn = _ACTIVATIONS[key]
        takes = _TAKES.get(key, 0)
        alpha = alphas.pop(0) if takes >= 1 and alphas else alpha
        beta = betas.pop(0) if takes >= 2 and betas else beta
        found.append(_bound(fn, alpha, beta))
    return [found[i * per : (i + 1) * per] for i in range(directions)]


def _bound(fn: Any, alpha: float, beta: float) -> Activation:
    return lambda b, x: fn(b, x, alpha, beta)


def _cut(b: Any, x: Value, axis: int, at: int, n: int) -> Value:
    starts: list[Any] = [None] * x.rank
    stops: list[Any] = [None] * x.rank
    starts[axis], stops[axis] = at * n, (at + 1) * n
    return b.slice(x, starts=tuple(starts), stops=tuple(stops))


def _row(b: Any, x: Value, index: int) -> Value:
    return b.reshape(_cut(b, x, 0, index, 1), shape=x.shape[1:])


@op("RNN", "GRU", "LSTM")
def _recurrent(
    c: Call, x: Value, w: Value, r: Value, bias: Value | None = None, lengths: Value | None = None,
    h0: Value | None = None, c0: Value | None = None, peepholes: Value | None = None,
) -> Any:  # fmt: skip
    b, kind = c.b, c.type
    hidden = c.integer("hidden_size", r.shape[-1])
    direction = c.text("direction", "forward")
    layout = c.integer("layout", 0)
    if direction not in ("forward", "reverse", "bidirectional") or x.rank != 3 or w.rank != 3 or r.rank != 3:
        raise c.refuse(f"direction {direction!r} on {x.type}", "malformed")
    directions = 2 if direction == "bidirectional" else 1
    if w.shape[:2] != (directions, _GATES[kind] * hidden) or r.shape != (directions, _GATES[kind] * hidden, hidden):
        raise c.refuse(f"weights {w.type}, {r.type} for hidden_size {hidden}", "malformed")
    if layout:
        x = b.transpose(x, perm=(1, 0, 2))
        h0 = None if h0 is None else b.transpose(h0, perm=(1, 0, 2))
        c0 = None if c0 is None else b.transpose(c0, perm=(1, 0, 2))
    steps, batch = x.shape[:2]
    fns = _activations(c, directions)
    ys, states = [], []
    for d in range(directions):
        backwards = direction == "reverse" or d == 1
        start = [b.full((batch, hidden), 0.0, x.dtype) if v is None else _row(b, v, d) for v in (h0, c0)]
        y, last = _direction(
            c, x, _row(b, w, d), _row(b, r, d), None if bias is None else _row(b, bias, d), lengths, start,
            None if peepholes is None else _row(b, peepholes, d), fns[d], hidden, backwards,
        )  # fmt: skip
        ys.append(b.reshape(y, shape=(steps, 1, batch, hidden)))
        states.append([b.reshape(v, shape=(1, batch, hidden)) for v in last])
    y = ys[0] if len(ys) == 1 else b.concat(*ys, axis=1)
    finals = [v[0] if len(v) == 1 else b.concat(*v, axis=0) for v in zip(*states)]
    if layout:
        y = b.transpose(y, perm=(2, 0, 1, 3))
        finals = [b.transpose(v, perm=(1, 0, 2)) for v in finals]
    return (y, *finals)


def _direction(
    c: Call, x: Value, w: Value, r: Value, bias: Value | None, lengths: Value | None, start: list[Value],
    peepholes: Value | None, fns: list[Activation], hidden: int, backwards: bool,
) -> tuple[Value, list[Value]]:  # fmt: skip
    b, kind = c.b, c.type
    steps, batch, width = x.shape
    gates = _GATES[kind]
    if backwards and lengths is not None:
        x = b.transpose(reversed_rows(c, b.transpose(x, perm=(1, 0, 2)), lengths), perm=(1, 0, 2))
    # All steps' input projections in one product; only the recurrent one stays inside.
    flat = b.reshape(x, shape=(steps * batch, width))
    z = b.reshape(b.matmul(flat, w, transpose_b=True), shape=(steps, batch, gates * hidden))
    rb: Value | None = None
    if bias is not None:
        wb, rb = _cut(b, bias, 0, 0, gates * hidden), _cut(b, bias, 0, 1, gates * hidden)
        z = b.add(z, wb)
        if not (kind == "GRU" and c.integer("linear_before_reset", 0)):
            z, rb = b.add(z, rb), None
    carried = start[: 2 if kind == "LSTM" else 1]
    consts = [r] + [v for v in (rb, peepholes) if v is not None]
    xs = [z]
    if lengths is not None:
        n = lengths if lengths.dtype is I64 else b.cast(lengths, to=I64)
        alive = b.lt(b.iota(shape=(steps, batch, 1), axis=0, dtype=I64), b.reshape(n, shape=(1, batch, 1)))
        xs.append(alive)
    clip = c.number("clip", 0.0) or None

    def body(inner: Any, *args: Value) -> list[Value]:
        state, rest = list(args[: len(carried)]), list(args[len(carried) :])
        zt = rest.pop(0)
        on = rest.pop(0) if lengths is not None else None
        rt = rest.pop(0)
        rbt = rest.pop(0) if rb is not None else None
        pt = rest.pop(0) if peepholes is not None else None
        new = _cell(c, inner, zt, state, rt, rbt, pt, fns, hidden, clip)
        out = new[0]
        if on is not None:
            out = inner.where(on, out, inner.full(out.shape, 0.0, out.dtype))
            new = [inner.where(on, v, old) for v, old in zip(new, state)]
        return [*new, out]

    types = [v.type for v in carried] + [v.type.with_shape(v.shape[1:]) for v in xs] + [v.type for v in consts]
    region = b.region(types, body)
    found = b.scan(
        *carried, *xs, *consts, regions=[region], n_carry=len(carried), n_xs=len(xs),
        reverse=backwards and lengths is None,
    )  # fmt: skip
    *last, y = found
    if backwards and lengths is not None:
        y = b.transpose(reversed_rows(c, b.transpose(y, perm=(1, 0, 2)), lengths), perm=(1, 0, 2))
    return y, list(last)


def _cell(
    c: Call, b: Any, z: Value, state: list[Value], r: Value, rb: Value | None, p: Value | None, fns: list[Activation],
    n: int, clip: float | None,
) -> list[Value]:  # fmt: skip
    h = state[0]

    def bounded(v: Value) -> Value:
        return v if clip is None else b.clip(v, -clip, clip)

    if c.type == "RNN":
        return [fns[0](b, bounded(b.add(z, b.matmul(h, r, transpose_b=True))))]
    if c.type == "LSTM":
        a = b.add(z, b.matmul(h, r, transpose_b=True))
        i, o, f, g = (_cut(b, a, 1, k, n) for k in range(4))
        cell = state[1]
        pi = po = pf = None
        if p is not None:
            pi, po, pf = (_cut(b, p, 0, k, n) for k in range(3))
        i = fns[0](b, bounded(i if pi is None else b.add(i, b.mul(pi, cell))))
        f = (
            b.sub(1.0, i)
            if c.integer("input_forget", 0)
            else fns[0](b, bounded(f if pf is None else b.add(f, b.mul(pf, cell))))
        )
        g = fns[1](b, bounded(g))
        new = b.add(b.mul(f, cell), b.mul(i, g))
        o = fns[0](b, bounded(o if po is None else b.add(o, b.mul(po, new))))
        return [b.mul(o, fns[2](b, new)), new]
    # GRU: update z, reset r, candidate h.
    rz = b.slice(r, starts=(0, None), stops=(2 * n, None))
    rh = b.slice(r, starts=(2 * n, None), stops=(3 * n, None))
    zr = b.slice(z, starts=(None, 0), stops=(None, 2 * n))
    a = b.add(zr, b.matmul(h, rz, transpose_b=True))
    after = bool(c.integer("linear_before_reset", 0))
    if rb is not None:
        a = b.add(a, b.slice(rb, starts=(0,), stops=(2 * n,)))
    a = fns[0](b, bounded(a))
    update, reset = _cut(b, a, 1, 0, n), _cut(b, a, 1, 1, n)
    zh = _cut(b, z, 1, 2, n)
    if after:
        inner = b.matmul(h, rh, transpose_b=True)
        if rb is not None:
            inner = b.add(inner, b.slice(rb, starts=(2 * n,), stops=(3 * n,)))
        candidate = b.add(zh, b.mul(reset, inner))
    else:
        candidate = b.add(zh, b.matmul(b.mul(reset, h), rh, transpose_b=True))
    candidate = fns[1](b, bounded(candidate))
    return [b.add(b.mul(b.sub(1.0, update), candidate), b.mul(update, h))]
