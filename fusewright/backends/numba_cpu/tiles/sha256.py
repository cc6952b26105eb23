"""SHA-256 of several messages of one length at once, one per vector lane (FIPS 180-4).

Owns its LLVM IR and its twin. Must not know what is hashed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from math import isqrt
from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from ..access import transposed
from ..twins import view
from .emit import Emitter, literal_values

CHUNK = 64  # bytes that one round of compression takes of a message
_WORDS = 16  # of a chunk
_WORD = ir.IntType(32)
_LOW = 0xFFFFFFFF


def _primes(count: int) -> list[int]:
    found: list[int] = []
    number = 2
    while len(found) < count:
        if all(number % p for p in found):
            found.append(number)
        number += 1
    return found


def _cube_root_fraction(n: int) -> int:
    """The first 32 bits of the fraction of ``n``'s cube root."""
    root = round((n << 96) ** (1 / 3))
    while root**3 > n << 96:
        root -= 1
    while (root + 1) ** 3 <= n << 96:
        root += 1
    return root & _LOW


INITIAL = [isqrt(p << 64) & _LOW for p in _primes(8)]
ROUNDS = [_cube_root_fraction(p) for p in _primes(64)]


class _Lanes:
    """Emits the steps of the standard over vectors of 32-bit words, one message per lane."""

    def __init__(self, builder: ir.IRBuilder, width: int) -> None:
        self.b, self.width = builder, width
        self.vec = ir.VectorType(_WORD, width)

    def splat(self, value: int) -> ir.Constant:
        return ir.Constant(self.vec, [value & _LOW] * self.width)

    def spread(self, scalar: ir.Value) -> ir.Value:
        undef = ir.Constant(self.vec, ir.Undefined)
        zeros = ir.Constant(ir.VectorType(_WORD, self.width), [0] * self.width)
        return self.b.shuffle_vector(self.b.insert_element(undef, scalar, _WORD(0)), undef, zeros)

    def call(self, name: str, *args: ir.Value) -> ir.Value:
        kind = ir.FunctionType(self.vec, [a.type for a in args])
        return self.b.call(cgutils.get_or_insert_function(self.b.module, kind, f"{name}.v{self.width}i32"), args)

    def rotated(self, x: ir.Value, by: int) -> ir.Value:
        """To the right."""
        return self.call("llvm.fshr", x, x, self.splat(by))

    def add(self, *values: ir.Value) -> ir.Value:
        total = values[0]
        for value in values[1:]:
            total = self.b.add(total, value)
        return total

    def mixed(self, x: ir.Value, first: int, second: int, third: int, shifts: bool = False) -> ir.Value:
        """The standard's sigma functions: three rotations, the last a shift in the small ones."""
        last = self.b.lshr(x, self.splat(third)) if shifts else self.rotated(x, third)
        return self.b.xor(self.b.xor(self.rotated(x, first), self.rotated(x, second)), last)

    def step(self, s: list[ir.Value], key: ir.Value) -> list[ir.Value]:
        """One round; ``key`` is the schedule's word plus the round's constant."""
        b, (a, bb, c, d, e, f, g, h) = self.b, s
        choice = b.xor(g, b.and_(e, b.xor(f, g)))
        majority = b.or_(b.and_(a, bb), b.and_(c, b.or_(a, bb)))
        first = self.add(b.add(h, key), choice, self.mixed(e, 6, 11, 25))
        return [self.add(majority, self.mixed(a, 2, 13, 22), first), a, bb, c, b.add(d, first), e, f, g]

    def following(self, w: Sequence[ir.Value], t: int) -> ir.Value:
        """Word ``t + 16`` of the schedule of which ``w`` holds the last 16 by index mod 16."""
        early, late = w[(t + 1) % _WORDS], w[(t + 14) % _WORDS]
        small = self.mixed(early, 7, 18, 3, shifts=True)
        return self.add(w[t], small, w[(t + 9) % _WORDS], self.mixed(late, 17, 19, 10, shifts=True))


def _compress(v: _Lanes, e: Emitter, state: list[ir.Value], words: list[ir.Value]) -> list[ir.Value]:
    """The state after a chunk of ``words``, the first 16 of the schedule, whose four parts are a loop."""
    array = ir.ArrayType(_WORD, 64)
    held = v.b.module.globals.get("fusewright.sha256")
    if held is None:
        held = ir.GlobalVariable(v.b.module, array, "fusewright.sha256")
        held.initializer = ir.Constant(array, [_WORD(k) for k in ROUNDS])
        held.global_constant, held.linkage = True, "internal"

    def rounds(part: ir.Value, carried: list[ir.Value], last: bool) -> list[ir.Value]:
        s, w = carried[:8], carried[8:]
        for t in range(_WORDS):
            at = v.b.add(e.mul(part, _WORDS), e.const(t))
            key = v.b.load(v.b.gep(held, [e.const(0), at], inbounds=True))
            s = v.step(s, v.b.add(w[t], v.spread(key)))
            if not last:
                w[t] = v.following(w, t)
        return s + w

    carried = e.loop(e.const(0), e.const(3), state + words, lambda part, c: rounds(part, c, False))
    after = rounds(e.const(3), carried, True)[:8]
    return [v.b.add(x, y) for x, y in zip(state, after, strict=True)]


def emit_sha256(builder: ir.IRBuilder, addresses: ir.Value, chunks: ir.Value, out: ir.Value, width: int) -> None:
    """Emit the hashing of ``width`` messages of ``chunks`` chunks each, and their padding."""
    e, v, b = Emitter(builder, 4, width), _Lanes(builder, width), builder
    where = b.inttoptr(addresses, ir.IntType(64).as_pointer())
    starts = [b.load(b.gep(where, [e.const(i)])) for i in range(width)]
    swap = f"llvm.bswap.v{width}i32"
    swapped = cgutils.get_or_insert_function(b.module, ir.FunctionType(v.vec, [v.vec]), swap)

    bits = e.mul(chunks, 8 * CHUNK)
    size = [v.spread(b.trunc(x, _WORD)) for x in (b.lshr(bits, e.const(32)), bits)]
    padding = [v.splat(1 << 31), *[v.splat(0)] * 13, *size]

    # One chunk more than the messages have, so that the rounds are there once: it reads the first, takes the padding.
    def chunk(i: ir.Value, state: list[ir.Value]) -> list[ir.Value]:
        inside = b.icmp_signed("<", i, chunks)
        at = b.select(inside, e.mul(i, CHUNK), e.const(0))
        words: list[ir.Value] = []
        for first in range(0, _WORDS, width):
            rows = []
            for start in starts:
                place = b.inttoptr(b.add(b.add(start, at), e.const(4 * first)), v.vec.as_pointer())
                rows.append(b.call(swapped, [b.load(place, align=1)]))
            words += transposed(b, rows)
        return _compress(v, e, state, [b.select(inside, w, p) for w, p in zip(words, padding, strict=True)])

    state = e.loop(e.const(0), b.add(chunks, e.const(1)), [v.splat(x) for x in INITIAL], chunk)
    target = b.inttoptr(out, v.vec.as_pointer())
    for i, value in enumerate(state):
        b.store(b.call(swapped, [value]), b.gep(target, [e.const(i)]), align=4)


@intrinsic(prefer_literal=True)
def sha256_tile(typingctx, addresses, chunks, out, W):  # type: ignore[no-untyped-def]
    """SHA-256 of the W messages of ``chunks`` 64-byte chunks whose addresses lie at ``addresses``: big-endian word
    ``i`` of message ``m`` goes to 32-bit word ``i * W + m`` of ``out``."""
    lit = literal_values(("W",), (W,))
    if lit is None:
        return None

    def codegen(context, builder, sig, args):  # type: ignore[no-untyped-def]
        emit_sha256(builder, args[0], args[1], args[2], lit["W"])
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64, W), codegen


def sha256_twin(*args: Any) -> None:
    """See ``sha256_tile``; every argument is an int."""
    addresses, chunks, out, width = (int(x) for x in args)
    words = view(out, np.uint32, 8 * width, True).reshape(8, width)
    for m, start in enumerate(view(addresses, np.int64, width)):
        message = view(int(start), np.uint8, chunks * CHUNK)
        words[:, m] = np.frombuffer(hashlib.sha256(message.tobytes()).digest(), np.uint32)
