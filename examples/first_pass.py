"""For the pass author: a rewrite in a few lines, checked and put into the pipeline.

python examples/first_pass.py
"""

from __future__ import annotations

import numpy as np

import fusewright as fw

# x * x is one square: both sides are traced, so they read like the arithmetic they stand for.
# The driver takes care of commutativity, uses, types and where each value came from.
square = fw.rewrite(lambda x: x * x, lambda x: fw.op.square(x), numerics="exact")


# A rule may look at what it matched and decline; `explain` and the statistics show why.
@fw.rewrite(lambda x: fw.op.relu(fw.op.relu(x)), numerics="exact")
def relu_once(m, x):
    if x.dtype.name != "f32":
        return m.decline("only float32 is of interest here")
    return fw.op.relu(x)


def main() -> None:
    b = fw.Builder()
    x = b.input("x", "f32", ("N", 4))
    graph = b.build(b.relu(b.relu(b.mul(x, x))))
    print(graph)

    for rule in (square, relu_once):
        graph, stats = rule.apply(graph)
        print(f"matched {stats.matched}, rewritten {stats.rewritten}, declined {stats.declined}")
    print(graph)

    pipeline = fw.default_pipeline("cpu").after("simplify", square)
    print("pipeline:", ", ".join(pipeline.names))

    feed = {"x": np.linspace(-2, 2, 8, dtype=np.float32).reshape(2, 4)}
    print(graph.run(feed, precision="f32"))


if __name__ == "__main__":
    main()
