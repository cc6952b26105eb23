"""Word indices of the thread pool's shared block, an agreement between native code and the runtime.

Owns numbers only. Must not know how either side is written.
Changing anything here needs a new LAYOUT, since bundles carry the native side.
"""

LAYOUT = 0x46575002  # in word 0; native code that finds another number runs alone

# Indices of int64 words; those written by different threads lie in different cache lines.
MAGIC, SPINS = 0, 1
BUSY = 8  # 1 while a caller owns the pool
STATE = 16  # epoch << 32 | helpers still wanted << 16 | helpers at work; its upper half is the futex
SLEEPERS = 24
FN, ARGS, EXTENT, GRAIN, PIECES, SCRATCH, STRIDE = 32, 33, 34, 35, 36, 37, 38
NEXT = 40  # first unit not handed out yet
WORDS = 64

MAX_THREADS = 256

# Operations of the step table.
HALT, CALL, LOOP, ENDLOOP, BRANCH, JUMP, BIND, CHECK = 0, 1, 2, 3, 4, 5, 6, 7

# What a BIND computes with the number it read: rows of operation, target and two sources.
ADD, MUL, FLOORDIV, MOD, MIN, MAX = 0, 1, 2, 3, 4, 5
