"""What built-in passes that are no sets of rules look for: patterns to draw around them.

Owns one list of patterns per pass name; ``check_pass`` and the volume runner add them to a rule's own left-hand sides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..passes.engine.pattern import op

Patterns = Sequence[Callable[..., Any]]
CONV: dict[str, Any] = {"strides": ..., "pads": ..., "dilations": ..., "groups": ...}
POOL: dict[str, Any] = {"window": ..., "strides": ..., "pads": ..., "dilations": ...}
MATMUL: dict[str, Any] = {"transpose_a": ..., "transpose_b": ...}
PAD: dict[str, Any] = {"low": ..., "high": ..., "mode": ...}
CUT: dict[str, Any] = {"starts": ..., "stops": ..., "steps": ...}
REDUCE: dict[str, Any] = {"axes": ..., "keepdims": ...}


def _turned(*args: Any) -> Any:
    return op.transpose(*args, perm=...)


MOVES: Patterns = [
    lambda x: _turned(_turned(x)),
    lambda x: op.slice(op.slice(x, **CUT), **CUT),
    lambda x: op.reverse(op.reverse(x, axes=...), axes=...),
    lambda x, y, z: op.concat(op.concat(x, y, axis=...), z, axis=...),
    lambda x: op.cast(op.cast(x, to=...), to=...),
    lambda x: op.reshape(op.reshape(x, shape=...), shape=...),
    lambda x, y: op.broadcast_to(x, shape=...) + y,
]
PADS: Patterns = [
    lambda x, w: op.conv(op.pad(x, **PAD), w, **CONV),
    lambda x, v, w: op.conv(op.pad(x, v, **PAD), w, **CONV),
    lambda x: op.max_pool(op.pad(op.relu(x), **PAD), **POOL),
    lambda x: op.max_pool(op.pad(x, **PAD), **POOL),
]
WINDOWS: Patterns = [
    lambda x: op.slice(op.pad(x, **PAD), **CUT),
    lambda x, v: op.slice(op.pad(x, v, **PAD), **CUT),
    lambda x: op.max_pool(x, **POOL),
    lambda x: op.avg_pool(x, count_include_pad=..., **POOL),
]
TURNS: Patterns = [
    lambda x: op.relu(_turned(x)),
    lambda x, y: _turned(x) + y,
    lambda x: op.reduce_sum(_turned(x), **REDUCE),
    lambda x: op.reduce_max(_turned(x), **REDUCE),
    lambda x, y: op.concat(_turned(x), _turned(y), axis=...),
    lambda x: op.slice(_turned(x), **CUT),
    lambda x: op.pad(_turned(x), **PAD),
    lambda x, w: op.matmul(x, _turned(w), **MATMUL),
]
CHAINS: Patterns = [
    lambda x, w, c: op.matmul(x, w, **MATMUL) * c,
    lambda x, w, c: c - op.matmul(x, w, **MATMUL) * 2.0,
    lambda x, w, c: op.conv(x, w, **CONV) * c + 1.0,
    lambda x, w, c: -op.conv(x, w, **CONV) / c,
    lambda x, w, c: op.matmul(x * c, w, **MATMUL),
    lambda x, m, v: op.batch_norm(x, m, v, axis=..., epsilon=..., has_gamma=False),
    lambda x, w, c: op.matmul(x, w, **MATMUL) * 2.0 - c,
    lambda x, w, c: op.conv(x * c, w, **CONV),
    lambda x, w, c: op.conv_transpose(x, w, output_padding=..., **CONV) * c,
]
BLOCKS: Patterns = [
    lambda x, w: op.relu(op.conv(x, w, **CONV)),
    lambda x, w: op.max_pool(op.conv(x, w, **CONV), **POOL),
    lambda x, w: op.slice(op.conv(x, w, **CONV), **CUT),
    lambda x, w, v: op.concat(op.conv(x, w, **CONV), op.conv(x, v, **CONV), axis=...),
    lambda x, w: op.reduce_mean(op.conv(x, w, **CONV), **REDUCE),
    lambda x, w: op.pad(op.conv(x, w, **CONV), **PAD),
    lambda x, w, c: op.conv(x, w, **CONV) + c,
]
EPILOGUES: Patterns = [
    lambda x, w, c: op.relu(op.matmul(x, w, **MATMUL) + c),
    lambda x, y: op.relu(op.exp(x) + y) * y,
    lambda x: op.neg(op.relu(x) * x),
]
PAIRS: Patterns = [
    lambda x, y: (x - y) * (y - x),
    lambda x, y: op.reciprocal(op.maximum(x, y)) + op.reciprocal(op.maximum(y, x)),
    lambda x, y: x / y - y / x,
    lambda x, y: op.logical_and(x < y, y < x),
    lambda c, x, y: op.where(c, x, y) - op.where(c, y, x),
    lambda x: op.cumsum(x, axis=..., exclusive=..., reverse=...),
    lambda x: op.reduce_sum(x, **REDUCE),
    lambda x, y: op.maximum(x, y) - op.minimum(x, y),
    lambda x: op.floor(x) + op.ceil(x) * op.relu(x),
]
CONSTANTS: Patterns = [lambda x: _turned(x), lambda x, y: op.concat(x, y, axis=...), lambda x, y: x * y + x]
# By the name of the pass.
LIKES: dict[str, Patterns] = {
    "canonicalise": [*MOVES, *PADS], "simplify": PADS, "sink": TURNS, "scale": CHAINS, "layout": BLOCKS,
    "fuse": [*EPILOGUES, *BLOCKS], "cse": PAIRS, "fold": CONSTANTS, "tidy": MOVES, "windows": WINDOWS,
}  # fmt: skip
__all__ = [
    "BLOCKS", "CHAINS", "CONSTANTS", "EPILOGUES", "LIKES", "MATMUL", "MOVES", "PADS", "PAIRS", "REDUCE", "TURNS",
    "WINDOWS",
]  # fmt: skip
