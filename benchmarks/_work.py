"""What each kernel call of a plan cannot do without: multiplications, bytes of weights, bytes that move.

Lowers the program as the compiler does and notes the node behind each call; nothing is compiled or timed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from fusewright.backends.numba_cpu.lower import ConstantStore, CpuLowering
from fusewright.backends.numba_cpu.select.contract import contracts
from fusewright.backends.numba_cpu.select.epilogue import read
from fusewright.backends.numba_cpu.variants import VARIANTS
from fusewright.core.dims import evaluate
from fusewright.ir.graph import Node
from fusewright.ir.program import Program

ROWS = 8  # that meet each weight: with fewer, reading the weights takes as long as multiplying them


@dataclass
class Work:
    """``kind``: dense (``ROWS`` rows or more per weight), rows (fewer; convolutions of few positions too), conv,
    depthwise, winograd, attention, gated or other.

    ``flops`` of one run as the method needs them: taps in the padding are none, Winograd's products are counted alone.
    ``moved``: bytes of operands that are no weights, and of results. ``label``: geometry for readers. ``functions``:
    results that pass through each function of an epilogue.
    """

    kind: str
    flops: int
    moved: int
    label: str
    functions: dict[str, int] = field(default_factory=dict)


class _Noting(CpuLowering):
    """The lowering of the compiler, with the work of every call noted in order."""

    def __init__(self, program: Program, variant: str, env: dict[str, int]) -> None:
        super().__init__(program, VARIANTS[variant], ConstantStore())
        self.env, self.noted = env, list[Work]()

    def _call(self, chosen: Any, node: Node, *rest: Any) -> Any:
        self.noted.append(_work(self, chosen, node))
        return super()._call(chosen, node, *rest)

    def _copy(self, step: Any) -> Any:
        self.noted.append(Work("other", 0, 2 * self.value(step.type.nbytes), "copy"))
        return super()._copy(step)

    def value(self, extent: Any) -> int:
        return evaluate(self.most(extent), self.env)


def works(program: Program, variant: str, env: dict[str, int]) -> list[dict[str, Any]]:
    """One row per kernel call, in the order of the plan."""
    noting = _Noting(program, variant, env)
    noting.run()
    return [asdict(w) for w in noting.noted]


def _work(lowering: _Noting, chosen: Any, node: Node) -> Work:
    fixed = {i for i, v in enumerate(node.operands) if lowering._fixed(v) is not None}
    values = [*(v for i, v in enumerate(node.operands) if i not in fixed), *node.results]
    if node.op.name in ("slice", "gather", "reverse"):
        values = [*node.results, *node.results]  # of the operand they read what they keep
    moved = sum(lowering.value(v.type.nbytes) for v in values)
    flops = lowering.value(chosen.flops)
    shape = "x".join(str(lowering.value(d)) for d in node.results[0].shape)
    label = f"{node.op.name} {node.attrs.get('kind', '')} -> {shape}"
    found = read(node) if contracts(node) else None
    if chosen.name.startswith(("attention", "gated")):
        return Work(chosen.name.split("_")[0], flops, moved, label)
    if found is None or chosen.name == "pack":
        return Work("other", 0, moved, f"{chosen.name} {shape}" if chosen.name == "pack" else label)
    work = _contraction(lowering, found.anchor, chosen.name, flops, moved)
    results = math.prod(lowering.value(d) for d in node.results[0].shape)
    work.functions = {
        n: c * results for n, c in Counter(s.text for s in found.epilogue.stages if s.kind == "form").items()
    }
    return work


def _contraction(lowering: _Noting, anchor: Node, name: str, flops: int, moved: int) -> Work:
    if anchor.op.name == "matmul":
        out = [lowering.value(d) for d in anchor.results[0].shape]
        a = anchor.operands[0]
        k = lowering.value(a.shape[-2 if anchor.attrs["transpose_a"] else -1])
        rows = out[-2]
        if all(d == 1 for d in anchor.operands[1].shape[:-2]) and not anchor.attrs["transpose_a"]:
            for d in out[:-2]:
                rows *= d  # rows of all batches meet the same weights
        return Work("dense" if rows >= ROWS else "rows", flops, moved, f"matmul {rows}x{k}x{out[-1]}")
    return _conv(lowering, anchor, moved, name)


def _conv(lowering: _Noting, anchor: Node, moved: int, name: str) -> Work:
    x, w = anchor.operands
    attrs, blocked = anchor.attrs, anchor.op.name.endswith("_blocked")
    transposed = anchor.op.name.startswith("conv_transpose")
    taps = [int(d) for d in w.shape]
    if transposed:
        taps[-2:] = taps[-1] // attrs["groups"], taps[-2] * attrs["groups"]
    spatial = taps[:-2]
    # Blocked results are [N, K/16, spatial..., 16], blocked operands likewise.
    x_shape, y_shape = ([lowering.value(d) for d in v.shape] for v in (x, anchor.results[0]))
    size = x_shape[2:-1] if blocked and attrs["x_blocked"] else x_shape[1:-1]
    out = y_shape[2:-1] if blocked else y_shape[1:-1]
    per_point = 2 * y_shape[0] * taps[-2] * taps[-1]
    kernel, stride = "x".join(map(str, spatial)), "x".join(map(str, attrs["strides"]))
    label = f"{kernel}/{stride} {taps[-2] * attrs['groups']}->{taps[-1]}, {'x'.join(map(str, out))}"
    if name.startswith("winograd"):  # a mark permits: the variant at hand may sum directly, or in smaller tiles
        m = int(name.removeprefix("winograd").partition("_")[0])
        tiles = -(-out[0] // m) * -(-out[1] // m)
        return Work("winograd", per_point * tiles * (m + 2) ** 2, moved, f"F{m} {label}")
    if transposed:
        inside = 1
        for n, t in zip(size, spatial, strict=True):
            inside *= n * t
        return Work("conv", per_point * inside, moved, f"transposed {label}")
    inside = _inside(size, out, spatial, attrs)
    deep = attrs["groups"] > 1 and taps[-2] == 1
    few = y_shape[0] * math.prod(out) < ROWS
    return Work("depthwise" if deep else "rows" if few else "conv", per_point * inside, moved, label)


def _inside(size: Sequence[int], out: Sequence[int], taps: Sequence[int], attrs: Any) -> int:
    """Pairs of an output position and a tap that falls on the input."""
    total = 1
    for n, o, t, s, d, (low, _) in zip(
        size, out, taps, attrs["strides"], attrs["dilations"], attrs["pads"], strict=True
    ):
        total *= sum(0 <= i * s + j * d - low < n for i in range(o) for j in range(t))
    return total
