"""Coarse micro-kernels: one intrinsic emits a whole register tile, and each has a NumPy twin of the same signature.

``layout`` (arguments and codes) is read by the generators and imports nothing heavy; ``register`` needs Numba.
"""
