"""A run that looks for stray writes and reads: the third, dynamic check of memory, for tests.

Owns the poisoned arena in which no two buffers share a byte, the guard words and the comparison with the normal run.
Must not know how plans are made; it is slow and imported by nothing that serves calls.
"""

from __future__ import annotations

import copy
import ctypes
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..core.errors import VerifyError
from ..core.plan import Call
from .base import Prepared
from .binding import Binding
from .bundle import Bundle
from .call import Array, convert, ordered
from .memory import Arena

GUARD = 256  # bytes before, between and after everything
# Poison of the arena, and of guards and outputs, for the run on the real plan and for the other one. 0xFF is NaN in
# every float type. All differ, so that copying poison shows, and so does a result that depends on it.
POISONS = (0xFF, 0xA5), (0xEE, 0x5A)


def sanitised_run(bundle: Bundle, inputs: Mapping[str, Any]) -> dict[str, Array]:
    """Outputs as stored (bf16: bit patterns), after a run in which every buffer lies alone in poisoned memory.

    Raises VerifyError when a guard word, an input or a constant changed, when an output was left unwritten in part, or
    when the outputs differ in any bit from those of a run on the real memory plan over a poisoned arena.
    """
    arrays = [convert(s, v) for s, v in zip(bundle._inputs, ordered(bundle._inputs, (), inputs))]
    prepared = bundle._bind_env(bundle._matcher.solve([a.shape for a in arrays]), 1 << 62)
    plain = _Run(bundle, prepared, arrays, *POISONS[0])
    apart = _Run(bundle, _spread(bundle, prepared), arrays, *POISONS[1])
    constants = [c.tobytes() for c in bundle._constants]
    normal, alone = plain.outputs(), apart.outputs()
    if any(c.tobytes() != before for c, before in zip(bundle._constants, constants)):
        raise VerifyError("a step wrote to a constant")
    for spec, a, b in zip(bundle._outputs, normal, alone):
        if a.tobytes() != b.tobytes():
            what = f"output {spec.name!r} differs when no two buffers share memory"
            raise VerifyError(f"{what}: the plan is wrong, or a step reads or leaves bytes that nobody wrote")
    return {s.name: y for s, y in zip(bundle._outputs, alone)}


def _spread(bundle: Bundle, p: Prepared[Binding]) -> Prepared[Binding]:
    """``p`` with each buffer in a place of its own, guards between them, and guarded scratch."""
    template, binding = bundle._template, copy.copy(p.binding)
    offsets, at = [], GUARD
    for size in template.sizes(binding.values):
        offsets.append(at)
        at += ((size + 63) & -64) + GUARD
    binding.offsets, binding.arena = offsets, at
    binding.stride += GUARD if binding.stride else 0  # threads without scratch leave no word there either
    binding.words = template.fill(binding.values, offsets)
    binding.total = at + binding.stride * binding.threads
    return Prepared(p.env, binding, p.out_shapes, 0, False)


class _Run:
    """One run with guarded copies of the inputs and guarded outputs in a poisoned arena."""

    def __init__(self, bundle: Bundle, p: Prepared[Binding], arrays: Sequence[Array], poison: int, guard: int) -> None:
        self.bundle, self.p, self.poison, self.guard = bundle, p, poison, guard
        self.arena = Arena(max(p.total + 2 * GUARD, 64))
        ctypes.memset(self.arena.address, poison, self.arena.size)
        self.blocks: list[tuple[str, Array, Array]] = []
        self.inputs = [self.guarded(f"input {s.name!r}", a.shape, a.dtype) for s, a in zip(bundle._inputs, arrays)]
        for mine, a in zip(self.inputs, arrays):
            mine[...] = a
        self.expected = [a.tobytes() for a in arrays]
        named = zip(bundle._outputs, p.out_shapes)
        self.results = [self.guarded(f"output {s.name!r}", shape, s.stored) for s, shape in named]

    def guarded(self, what: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """A poisoned array with guards around it, at an address that is only element-aligned."""
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        block = np.full(size + 2 * GUARD + 128, self.guard, np.uint8)
        start = GUARD + (-block.ctypes.data) % 64 + dtype.itemsize
        body = block[start : start + size]
        self.blocks.append((what, block, body))
        return body.view(dtype).reshape(shape)

    def outputs(self) -> list[Array]:
        found = self.bundle._once(self.arena, self.p, self.inputs, self.results, True)
        for mine, before, spec in zip(self.inputs, self.expected, self.bundle._inputs):
            if mine.tobytes() != before:
                raise VerifyError(f"a step wrote to input {spec.name!r}")
        for what, block, body in self.blocks:
            start = body.ctypes.data - block.ctypes.data if body.size else GUARD
            if (block[:start] != self.guard).any() or (block[start + body.size :] != self.guard).any():
                raise VerifyError(f"a step wrote outside {what}")
        self.check_arena()
        return self.bundle._trimmed.cut(self.results, {**self.p.env, **found})

    def check_arena(self) -> None:
        """What lies between the buffers (and past the arena) is still poison."""
        binding, template = self.p.binding, self.bundle._template
        used = np.zeros(self.arena.size, np.bool_)
        for offset, size in zip(binding.offsets, template.sizes(binding.values)):
            used[offset : offset + ((size + 63) & -64)] = True  # the padding of a buffer is its own
        scratch = template.scratch(binding.values)
        for lane in range(binding.threads):
            start = binding.arena + lane * binding.stride
            used[start : start + scratch] = True
        memory = self.arena.view(0, self.arena.size)
        stray = np.flatnonzero((memory != self.poison) & ~used)
        if len(stray):
            raise VerifyError(f"a step wrote outside its buffers, {self._near(int(stray[0]))}")

    def _near(self, at: int) -> str:
        before = [(o, i) for i, o in enumerate(self.p.binding.offsets) if o <= at]
        if not before:
            return f"at byte {at} of the arena"
        index = max(before)[1]
        writers = [
            step.origin
            for _, step, _ in self.bundle._plan.walk()
            if isinstance(step, Call) and any(a[:2] == ("b", index) for a in step.args)
        ]
        return f"after buffer {index}, which is used by {', '.join(writers)}"
