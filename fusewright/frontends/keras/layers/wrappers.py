"""Wrappers: Bidirectional, TimeDistributed, SpectralNormalization.

Owns how they call what they wrap. Must not know the wrapped layers' formulas.
"""

from __future__ import annotations

from typing import Any

from ....ir.graph import Value
from ...registry import registered_layer
from ..call import LAYERS, Call, Tensor, layer
from ..model import LayerSpec, leaves
from .rnn import initial_states, recur, steps_mask, time_major


@layer("Bidirectional")
def _bidirectional(c: Call, x: Any, initial_state: Any = None, **ignored: Any) -> Any:
    forward, backward = c.spec.children.get("layer"), c.spec.children.get("backward_layer")
    if forward is None or backward is None:
        raise c.refuse("the wrapped layer is missing")
    value, states = initial_states(c, x, initial_state)
    half = None if states is None else len(states) // 2
    mask = c.masks[0] if c.masks else None
    steps = steps_mask(c, states)
    sequences = bool(forward.config.get("return_sequences"))
    # tf.keras zeroes masked steps of both directions whenever it returns sequences; Keras 3 records the option.
    zero = sequences if c.version[0] < 3 else None
    b = c.b
    runs = []
    for spec, part in ((forward, slice(None, half)), (backward, slice(half, None))):
        runs.append(recur(c, spec, value, None if states is None else states[part], steps, None, zero))
    (one, one_back), (two, two_back) = runs
    if sequences:
        # The backward sequence is turned round twice, by the layer and by the wrapper: only the positions remain.
        left = time_major(b, b.reverse(one.sequence, axes=(0,)) if one_back else one.sequence)
        right = time_major(b, two.sequence if two_back else b.reverse(two.sequence, axes=(0,)))
    else:
        left, right = one.last, two.last
    left, right = c.float(left), c.float(right)
    mode = c.config.get("merge_mode", "concat")
    kept = mask if sequences else None
    merged: list[Tensor]
    if mode == "concat":
        merged = [Tensor(b.concat(left, right, axis=left.rank - 1), kept)]
    elif mode == "sum":
        merged = [Tensor(b.add(left, right), kept)]
    elif mode == "ave":
        merged = [Tensor(b.div(b.add(left, right), 2.0), kept)]
    elif mode == "mul":
        merged = [Tensor(b.mul(left, right), kept)]
    elif mode is None:
        merged = [Tensor(left, kept), Tensor(right, kept)]
    else:
        raise c.refuse(f"merge_mode={mode!r} is not known")
    if forward.config.get("return_state"):
        return [*merged, *(Tensor(s) for s in (*one.states, *two.states))]
    return merged if len(merged) > 1 else merged[0]


_PER_FEATURE = frozenset({"Dense", "Activation", "Dropout", "ReLU", "LeakyReLU", "ELU", "Identity", "Rescaling"})
_LAST_AXIS = frozenset({"BatchNormalization", "LayerNormalization", "UnitNormalization", "RMSNormalization"})


def _needs_no_folding(spec: LayerSpec, rank: int) -> bool:
    """Does the layer only look at the last axis, so that it may take [N, T, ...] as it is?"""
    if spec.custom or registered_layer(spec.class_name) is not None:
        return False
    if spec.class_name in _PER_FEATURE:
        return True
    return spec.class_name in _LAST_AXIS and spec.config.get("axis", -1) in (-1, [-1], rank - 2, [rank - 2])


def _couples_steps(spec: LayerSpec) -> bool:
    """Would folding time into the batch mix samples? Only user code could; built-in layers work row by row."""
    return spec.custom or spec.class_name not in LAYERS and spec.model is None


@layer("TimeDistributed", autocast=False, mask="pass")
def _time_distributed(c: Call, x: Value, **ignored: Any) -> Any:
    spec = c.spec.children.get("layer")
    if spec is None:
        raise c.refuse("the wrapped layer is missing")
    if not isinstance(x, Value) or x.rank < 2:
        raise c.refuse("takes one input of rank 2 or more")
    if _couples_steps(spec):
        raise c.refuse("folding time into the batch is only known to be right for built-in layers")
    if x.rank > 2 and _needs_no_folding(spec, x.rank):
        if spec.config.get("axis") not in (None, -1, [-1]):
            config = {**spec.config, "axis": -1}
            spec = LayerSpec(spec.class_name, spec.name, spec.path, config, spec.version, weights=spec.weights)
        return c.lowerer.call(spec, [Tensor(x, c.mask)], {}, c.b)
    batch, steps = x.shape[0], x.shape[1]
    b = c.b
    flat = b.reshape(x, shape=(batch * steps, *x.shape[2:]))
    mask = c.mask
    inner_mask = b.reshape(mask, shape=(batch * steps, *mask.shape[2:])) if mask is not None and mask.rank > 2 else None
    result = c.lowerer.call(spec, [Tensor(flat, inner_mask)], {}, b)
    found = list(leaves(result))
    unfolded = []
    for t in found:
        y = b.reshape(t.value, shape=(batch, steps, *t.value.shape[1:]))
        unfolded.append(Tensor(y, mask if mask is None or mask.rank == 2 else None))
    return unfolded if len(unfolded) > 1 else unfolded[0]


@layer("SpectralNormalization")
def _spectral(c: Call, x: Value, **ignored: Any) -> Any:
    """At inference the wrapped layer runs with the kernel as it was stored."""
    spec = c.spec.children.get("layer")
    if spec is None:
        raise c.refuse("the wrapped layer is missing")
    return c.lowerer.call(spec, [Tensor(x, c.mask)], {}, c.b)
