"""For the pass author: a rewrite with a condition, its property test and its proof.

python examples/conditional_pass.py
"""

from __future__ import annotations

import math

import fusewright as fw
from fusewright.testing import check_pass, prove


# Division is slow, and dividing by a power of two is exact as a multiplication. By any other number it is not.
@fw.rewrite(lambda x, c: x / c, numerics="exact")
def divide_by_power_of_two(m, x, c):
    k = m.scalar(c)
    if k is None or x.dtype.name != "f32" or abs(math.frexp(k)[0]) != 0.5 or not 2**-100 < abs(k) < 2**100:
        return m.decline("the divisor is no power of two, or its reciprocal may leave the range of float32")
    return x * (1 / k)


def test_divide_by_power_of_two() -> None:
    # What the rule asks for is rare among drawn numbers: `like` draws graphs around two cases of it.
    report = check_pass(divide_by_power_of_two, like=[lambda x: x / 4, lambda x: x / -0.5])
    assert report.fired > 0 and report.declined > 0
    assert prove(divide_by_power_of_two).holds


def main() -> None:
    test_divide_by_power_of_two()
    b = fw.Builder()
    x = b.input("x", "f32", ("N",))
    graph, stats = divide_by_power_of_two.apply(b.build({"eighth": x / 8.0, "third": x / 3.0}))
    print(graph)
    print(stats.explain())


if __name__ == "__main__":
    main()
