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
FN, ARGS, EXTENT, GRAIN, PARTS = w.FN, w.ARGS, w.EXTENT, w.GRAIN, w.PARTS
SCRATCH, STRIDE, NEXT, LINE, FLAGS, MAX_THREADS = w.SCRATCH, w.STRIDE, w.NEXT, w.LINE, w.FLAGS, w.MAX_THREADS
CALL, LOOP, ENDLOOP, BRANCH, JUMP, HALT = w.CALL, w.LOOP, w.ENDLOOP, w.BRANCH, w.JUMP, w.HALT
BIND, CHECK = w.BIND, w.CHECK
ADD, MUL, FLOORDIV, MOD, MIN = w.ADD, w.MUL, w.FLOORDIV, w.MOD, w.MIN
FUTEX, YIELD = low.SYS_FUTEX, low.SYS_SCHED_YIELD
FUTEX_WAIT, FUTEX_WAKE = low.FUTEX_WAIT_BITSET_PRIVATE, low.FUTEX_WAKE_BITSET_PRIVATE

_WANTED, _COUNT = 16, 0xFFFF
_NO_MORE = ~(_COUNT << _WANTED)
_UNITS = 0xFFFFFFFF  # a thread's word counts no further; steps of more units stay with their caller
_SHARES = 2  # a chunk is what is left of a part over this: large at first, small where threads must end together
_SPINS_BEFORE_YIELD = 2048

# Round to nearest, gradual underflow, no traps. Libraries built with fast-math switch underflow off for whichever
# thread loads them; results must not depend on that, nor on the thread that computes them.
_IEEE = np.uint32(0x1F80)

words = low.pointer_maker(types.int64)
flags = low.pointer_maker(types.uint8)


@helper
def _drain(pool, place, epoch):
    """Take chunks until none is left: of this thread's own part of the units, then of those of the others.

    Steps that cut their work alike then find in a core's cache what the step before left there. Chunks shrink (guided
    self-scheduling, Polychronopoulos and Kuck 1987), so that a thread which comes late finds work to take over. Between
    two chunks the first word of the scratch says where the last one ended, 0 before the first.
    """
    block = words(pool)
    fn, args, extent, grain, parts = block[FN], block[ARGS], block[EXTENT], block[GRAIN], block[PARTS]
    stride = block[STRIDE]
    scratch = block[SCRATCH] + place * stride
    if stride > 0:
        words(scratch)[0] = 0
    # Where a part is one chunk at most, helpers look at their own alone; the caller sees to those that nobody came for.
    hops = 1 if place > 0 and extent <= parts * grain else parts
    for hop in range(hops):
        part = place + hop
        part = part - parts if part >= parts else part
        first, end = part * extent // parts, (part + 1) * extent // parts
        following = pool + 8 * (NEXT + LINE * part)
        while True:
            seen = low.atomic_load(following)
            start = seen & _UNITS if (seen >> 32) & _UNITS == epoch else first
            left = end - start
            if left <= 0:
                break
            chunk = left // _SHARES
            chunk = grain if chunk < grain else chunk
            stop = end if chunk > left else start + chunk
            if low.atomic_cas(following, seen, (epoch << 32) | stop):
                low.call_kernel(fn, args, start, stop, scratch)
                if stride > 0:
                    words(scratch)[0] = stop


@helper
def _wake(pool, state, wanted):
    """Wake those of the first ``wanted`` helpers that sleep."""
    asleep = low.atomic_load(pool + 8 * SLEEPERS)
    ours = asleep & ((1 << (wanted if wanted < FLAGS else FLAGS)) - 1)
    if wanted > FLAGS and asleep >> FLAGS != 0:
        ours |= 1 << FLAGS
    if ours != 0:
        low.syscall6(FUTEX, state + 4, FUTEX_WAKE, MAX_THREADS, 0, 0, ours)


@helper
def _share(pool, threads, fn, args, extent, grain, scratch, stride):
    """Run one step with the helpers of a pool that the caller owns."""
    block = words(pool)
    wanted = (extent + grain - 1) // grain - 1
    wanted = threads - 1 if wanted > threads - 1 else wanted
    block[FN], block[ARGS], block[EXTENT], block[GRAIN], block[PARTS] = fn, args, extent, grain, wanted + 1
    block[SCRATCH], block[STRIDE] = scratch, stride
    state = pool + 8 * STATE
    epoch = ((low.atomic_load(state) >> 32) + 1) & 0xFFFFFFFF
    if epoch == 0:  # the numbers begin again: what the last round left must not look new
        for place in range(MAX_THREADS):
            block[NEXT + LINE * place] = 0
        epoch = 1
    low.atomic_swap(state, (epoch << 32) | (wanted << _WANTED))
    if low.atomic_load(pool + 8 * SLEEPERS) != 0:
        _wake(pool, state, wanted)
    _drain(pool, 0, epoch)
    # Nobody may join from here on (nobody is left to, where all are at work); then the block may be rewritten once
    # those who joined have left.
    if low.atomic_load(state) & _COUNT != wanted:
        low.atomic_and(state, _NO_MORE)
    spins = 0
    while low.atomic_load(state) & _COUNT != 0:
        low.cpu_pause()
        spins += 1
        if spins > _SPINS_BEFORE_YIELD:
            low.syscall6(YIELD, 0, 0, 0, 0, 0, 0)  # the helper may be waiting for this very CPU


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
                if shared and extent > grain and extent <= _UNITS:
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


def worker(pool, number):
    """A helper thread's life: join steps that want ``number`` helpers and more; spin a while between them, then sleep.

    A helper always has the same place, so that the same core gets the same part of every step.
    """
    low.set_mxcsr(_IEEE)
    state = pool + 8 * STATE
    flag = 1 << (number if number < FLAGS else FLAGS)
    served = 0
    spins = 0
    while True:
        seen = low.atomic_load(state)
        epoch = (seen >> 32) & 0xFFFFFFFF
        if (seen >> _WANTED) & _COUNT > number and epoch != served:
            if low.atomic_cas(state, seen, seen + 1):
                served = epoch
                _drain(pool, number + 1, epoch)
                low.atomic_add(state, -1)
                spins = 0
            continue
        if spins < words(pool)[SPINS]:
            spins += 1
            low.cpu_pause()
            continue
        low.atomic_add(pool + 8 * SLEEPERS, flag)
        if (low.atomic_load(state) >> 32) & 0xFFFFFFFF == epoch:
            low.syscall6(FUTEX, state + 4, FUTEX_WAIT, epoch, 0, 0, flag)
        low.atomic_add(pool + 8 * SLEEPERS, -flag)
        spins = 0


# name -> (function, number of int64 arguments, whether it returns an int64)
ENTRIES: dict[str, tuple[Any, int, bool]] = {"run": (run, 5, True), w.WORKER: (worker, 2, False)}
