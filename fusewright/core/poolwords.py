"""Word indices of the thread pool's shared block, an agreement between native code and the runtime.

Owns numbers only. Must not know how either side is written.
Changing anything here needs a new LAYOUT, since bundles carry the native side.
"""

LAYOUT = 0x46575004  # in word 0; native code that finds another number runs alone
WORKER = "worker_4"  # the helpers' loop for this layout; an image that names another one has none for this pool

# Indices of int64 words; those written by different threads lie in different cache lines.
MAGIC, SPINS = 0, 1
BUSY = 8  # 1 while a caller owns the pool
SLEEPERS = 16  # a bit for each of the first helpers that sleeps, and above them how many others do
# One line brings helpers all they need: a line takes long from one core to another that shares no cache with it.
STATE = 32  # epoch << 32 | helpers that may join << 16 | helpers at work; its upper half is the futex
FN, ARGS, EXTENT, GRAIN, PARTS, SCRATCH, STRIDE = 33, 34, 35, 36, 37, 38, 39
# From here on a line of words per thread: epoch << 32 | first unit of the thread's part not handed out yet. With the
# epoch of another step, none is.
NEXT, LINE = 64, 8
FLAGS = 31  # helpers with a bit of their own in SLEEPERS

MAX_THREADS = 256
WORDS = NEXT + LINE * MAX_THREADS

# Operations of the step table.
HALT, CALL, LOOP, ENDLOOP, BRANCH, JUMP, BIND, CHECK = 0, 1, 2, 3, 4, 5, 6, 7

# What a BIND computes with the number it read: rows of operation, target and two sources.
ADD, MUL, FLOORDIV, MOD, MIN, MAX = 0, 1, 2, 3, 4, 5
