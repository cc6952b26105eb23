"""Entries of native images that the loader calls, an agreement between native code and the runtime.

Owns names and numbers only. Must not know how either side is written. A bundle without an entry is loaded in Python.
"""

from __future__ import annotations

# SHA-256 of the manifest's blocks, HASH_LANES of them a unit of work. Arguments: address, number of blocks, address of
# 32 bytes for each.
HASH = "load_sha256"
HASH_LANES = 16
HASH_SCRATCH = 8 * HASH_LANES + 32 * HASH_LANES
HASH_WORTH = 6  # fewer blocks are hashed as quickly one by one

# Arguments: source, target; for each of LOOPS loops, outermost first, extent and strides in source and target
# (words of 4 bytes). The innermost is over neighbours in both, a multiple of RUN; the two innermost are within a unit.
# Winograd's then have the strides of rows and columns of taps in the source and in the target. Rounding from float32
# to bfloat16 pairs two words of the source, whose distance follows, in each of the target.
# WINOGRAD: by the side of the tiles, and whether what is made is rounded.
COPY = "load_copy"
ROUND = "load_bf16"
WINOGRAD = {(2, False): "load_winograd2", (4, False): "load_winograd4", (2, True): "load_winograd2_bf16"}
LOOPS = 5
RUN = 16
WINOGRAD_SCRATCH = 4 * RUN * 36
