"""The native code that walks a step table, and the loop of the pool's helper threads.

Owns the interpretation of step tables and the protocol on the pool's shared block. Compiled into every image.
Must not know how tables are made; the words are agreed on in core/poolwords.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from ...core import poolwords as w
from . import intrinsics as low
from .registry import helper

MAGIC, LAYOUT, SPINS, BUSY, STATE, SLEEPERS = w.MAGIC, w.LAYOUT, w.SPINS, w.BUSY, w.STATE, w.SLEEPERS
FN, ARGS, EXTENT, GRAIN, PIECES = w.FN, w.ARGS, w.EXTENT, w.GRAIN, w.PIECES
SCRATCH, STRIDE, NEXT = w.SCRATCH, w.STRIDE, w.NEXT
CALL, LOOP, ENDLOOP, BRANCH, JUMP, HALT = w.CALL, w.LOOP, w.ENDLOOP, w.BRANCH, w.JUMP, w.HALT
BIND, CHECK = w.BIND, w.CHECK
ADD, MUL, FLOORDIV, MOD, MIN = w.ADD, w.MUL, w.FLOORDIV, w.MOD, w.MIN
FUTEX, YIELD = low.SYS_FUTEX, low.SYS_SCHED_YIELD
FUTEX_WAIT, FUTEX_WAKE = low.FUTEX_WAIT_PRIVATE, low.FUTEX_WAKE_PRIVATE

_WANTED, _COUNT = 16, 0xFFFF
_NO_MORE = ~(_COUNT << _WANTED)
_SHARES = 2  # a chunk is what is left over this and the threads: large at first, small where threads must end together
_SPINS_BEFORE_YIELD = 2048

# Round to nearest, gradual underflow, no traps. Libraries built with fast-math switch underflow off for whichever
# thread loads them; results must not depend on that, nor on the thread that computes them.
_IEEE = np.uint32(0x1F80)

words = low.pointer_maker(types.int64)
flags = low.pointer_maker(types.uint8)


@helper
def _drain(pool, fn, args, extent, grain, pieces, scratch):
    """Take chunks until none is left (guided self-scheduling, Polychronopoulos and Kuck 1987)."""
    following = pool + 8 * NEXT
    while True:
        start = low.atomic_load(following)
        left = extent - start
        if left <= 0:
            break
        chunk = left // pieces
        chunk = grain if chunk < grain else chunk
        stop = extent if chunk > left else start + chunk
        if low.atomic_cas(following, start, stop):
            low.call_kernel(fn, args, start, stop, scratch)


@helper
def _share(pool, threads, fn, args, extent, grain, scratch, stride):
    """Run one step with the helpers of a pool that the caller owns."""
    block = words(pool)
    pieces = threads * _SHARES
    wanted = (extent + grain - 1) // grain - 1
    wanted = threads - 1 if wanted > threads - 1 else wanted
    block[FN], block[ARGS], block[EXTENT], block[GRAIN], block[PIECES] = fn, args, extent, grain, pieces
    block[SCRATCH], block[STRIDE], block[NEXT] = scratch, stride, 0
    state = pool + 8 * STATE
    epoch = ((low.atomic_load(state) >> 32) + 1) & 0xFFFFFFFF
    low.atomic_swap(state, (epoch << 32) | (wanted << _WANTED))
    if low.atomic_load(pool + 8 * SLEEPERS) > 0:
        low.syscall4(FUTEX, state + 4, FUTEX_WAKE, wanted, 0)
    _drain(pool, fn, args, extent, grain, pieces, scratch)
    # Nobody may join from here on; then the block may be rewritten once those who joined have left.
    low.atomic_and(state, _NO_MORE)
    spins = 0
    while low.atomic_load(state) & _COUNT != 0:
        low.cpu_pause()
        spins += 1
        if spins > _SPINS_BEFORE_YIELD:
            low.syscall4(YIELD, 0, 0, 0, 0)  # the helper may be waiting for this very CPU


@helper
def _bump(table, count, first):
    """Set the words that follow a loop to their first values, or move them by one iteration."""
    for i in range(count):
        row = words(table + 24 * i)
        target = words(row[0])
        target[0] = row[1] if first else target[0] + row[2]


@helper
def _evaluate(table, count):
    """Rows of operation, target and two sources (addresses); a quotient by 0 is 0, nothing depends on it."""
    for i in range(count):
        row = words(table + 32 * i)
        a, b = words(row[2])[0], words(row[3])[0]
        op = row[0]
        if op == ADD:
            c = a + b
        elif op == MUL:
            c = a * b
        elif op == FLOORDIV:
            c = a // b if b != 0 else 0
        elif op == MOD:
            c = a % b if b != 0 else 0
        elif op == MIN:
            c = a if a < b else b
        else:
            c = a if a > b else b
        words(row[1])[0] = c


@helper
def _patch(table, count):
    """Rows of target, base and the address of what is added to it."""
    for i in range(count):
        row = words(table + 24 * i)
        words(row[0])[0] = row[1] + words(row[2])[0]


def run(program, pool, threads, scratch, stride):
    """Walk the step table at ``program``; 0 when it halts, the pc of an unknown instruction, or less than 0: the pc of
    a BIND or CHECK that refused, negated.

    ``scratch`` is a block of ``threads`` areas, ``stride`` bytes apart. A LOOP's ``end_pc`` is where to go when it is
    done (the word after its ENDLOOP; the ENDLOOP itself is understood too).
    """
    found = low.get_mxcsr()
    low.set_mxcsr(_IEEE)
    p = words(program)
    shared = threads > 1 and pool != 0
    if shared:
        shared = words(pool)[MAGIC] == LAYOUT
    owned = False
    result = 0
    pc = 1
    while True:
        op = p[pc]
        if op == CALL:
            extent, grain = p[pc + 3], p[pc + 4]
            if extent > 0:
                if shared and extent > grain:
                    if not owned and words(pool)[BUSY] == 0:
                        owned = low.atomic_cas(pool + 8 * BUSY, 0, 1)
                    if owned:
                        _share(pool, threads, p[pc + 1], p[pc + 2], extent, grain if grain > 0 else 1, scratch, stride)
                    else:
                        low.call_kernel(p[pc + 1], p[pc + 2], 0, extent, scratch)
                else:
                    low.call_kernel(p[pc + 1], p[pc + 2], 0, extent, scratch)
            pc += 5
        elif op == LOOP:
            p[pc + 3] = 0
            _bump(p[pc + 5], p[pc + 4], True)
            if p[pc + 1] > 0:
                pc += 6
            else:
                after = p[pc + 2]
                pc = after + 2 if p[after] == ENDLOOP and p[after + 1] == pc else after
        elif op == ENDLOOP:
            loop = p[pc + 1]
            p[loop + 3] += 1
            if p[loop + 3] < p[loop + 1]:
                _bump(p[loop + 5], p[loop + 4], False)
                pc = loop + 6
            else:
                pc += 2
        elif op == BRANCH:
            pc = pc + 3 if flags(p[pc + 1])[0] != 0 else p[pc + 2]
        elif op == JUMP:
            pc = p[pc + 1]
        elif op == HALT:
            break
        elif op == BIND:
            number = words(p[pc + 1])[0]
            words(p[pc + 2])[0] = number
            if number < p[pc + 3] or number > p[pc + 4]:
                result = -pc
                break
            _evaluate(p[pc + 6], p[pc + 5])
            _patch(p[pc + 8], p[pc + 7])
            pc += 9
        elif op == CHECK:
            if p[pc + 1] != p[pc + 2]:
                result = -pc
                break
            pc += 3
        else:
            result = pc
            break
    if owned:
        low.atomic_swap(pool + 8 * BUSY, 0)
    low.set_mxcsr(found)
    return np.int64(result)


def worker(pool):
    """A helper thread's life: join steps that want helpers; spin a while between them, then sleep."""
    low.set_mxcsr(_IEEE)
    state = pool + 8 * STATE
    spins = 0
    while True:
        seen = low.atomic_load(state)
        wanted = (seen >> _WANTED) & _COUNT
        if wanted > 0:
            if low.atomic_cas(state, seen, seen - (1 << _WANTED) + 1):
                block = words(pool)
                # Places are numbered down from threads - 1, so each helper has its own scratch; the caller has area 0.
                scratch = block[SCRATCH] + wanted * block[STRIDE]
                _drain(pool, block[FN], block[ARGS], block[EXTENT], block[GRAIN], block[PIECES], scratch)
                low.atomic_add(state, -1)
                spins = 0
            continue
        if spins < words(pool)[SPINS]:
            spins += 1
            low.cpu_pause()
            continue
        low.atomic_add(pool + 8 * SLEEPERS, 1)
        again = low.atomic_load(state)
        if (again >> 32) == (seen >> 32) and ((again >> _WANTED) & _COUNT) == 0:
            low.syscall4(FUTEX, state + 4, FUTEX_WAIT, (seen >> 32) & 0xFFFFFFFF, 0)
        low.atomic_add(pool + 8 * SLEEPERS, -1)
        spins = 0


# name -> (function, number of int64 arguments, whether it returns an int64)
ENTRIES: dict[str, tuple[Any, int, bool]] = {"run": (run, 5, True), "worker": (worker, 1, False)}
