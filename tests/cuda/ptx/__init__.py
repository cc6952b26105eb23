"""Runs compiled PTX in NumPy and checks it as it runs. For tests: it says what a kernel computes, not how fast."""
