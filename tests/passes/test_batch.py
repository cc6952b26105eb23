"""Row independence: proved where it holds, never where rows meet."""

import numpy as np
import pytest

from fusewright.ir import Builder, Interpreter
from fusewright.passes.batch import batch_symbol

W = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4)


def build(body, shape=("N", 3), outputs=1):
    b = Builder()
    x = b.input("x", "f32", shape)
    out = body(b, x)
    return b.build(*(out if isinstance(out, tuple) else (out,)))


def rnn(b, x):
    """Batch on axis 1 inside the scan, state made of broadcast zeros."""
    steps = b.transpose(x, perm=(1, 0, 2))
    start = b.full((x.shape[0], 3), 0.0, "f32")

    def body(r, h, s):
        new = r.tanh(r.add(h, s))
        return new, new

    region = b.region([start.type, steps.type.with_shape(steps.shape[1:])], body)
    _, ys = b.scan(start, steps, n_carry=1, n_xs=1, regions=[region])
    return b.transpose(ys, perm=(1, 0, 2))


INDEPENDENT = {
    "dense": lambda b, x: b.relu(b.add(b.matmul(x, b.constant(W)), b.constant(np.ones(4, np.float32)))),
    "softmax": lambda b, x: b.softmax(x),
    "layer norm": lambda b, x: b.layer_norm(x),
    "concat of features": lambda b, x: b.concat(x, x, axis=1),
    "gather of features": lambda b, x: b.gather(x, b.constant(np.array([2, 0])), axis=1),
    "fold and unfold": lambda b, x: b.reshape(b.relu(b.reshape(x, shape=(x.shape[0] * 3, 1))), shape=(x.shape[0], 3)),
    "embedding": lambda b, x: b.gather(b.constant(W), b.cast(x, to="i32"), axis=0),
    "cumsum of features": lambda b, x: b.cumsum(x, axis=1),
}
MIXED = {
    "mean over the batch": lambda b, x: b.sub(x, b.reduce_mean(x, axes=0, keepdims=True)),
    "reversed batch": lambda b, x: b.reverse(x, axes=0),
    "row number": lambda b, x: b.add(x, b.cast(b.iota(shape=(x.shape[0], 1), axis=0), to="f32")),
    "cumsum over the batch": lambda b, x: b.cumsum(x, axis=0),
    "Gram matrix": lambda b, x: b.matmul(b.matmul(x, x, transpose_b=True), x),
    "softmax over the batch": lambda b, x: b.softmax(x, axes=0),
    "doubled batch": lambda b, x: b.concat(x, x, axis=0),
    "padded batch": lambda b, x: b.pad(x, low=(1, 0), high=(0, 0)),
    "constant output": lambda b, x: (x, b.constant(W)),
    "transposed fold": lambda b, x: b.reshape(b.transpose(x, perm=(1, 0)), shape=(x.shape[0], 3)),
}


@pytest.mark.parametrize("name", INDEPENDENT)
def test_independent_rows_are_proved(name):
    graph = build(INDEPENDENT[name])
    assert batch_symbol(graph) == "N"
    x = np.abs(np.random.default_rng(1).normal(size=(4, 3))).astype(np.float32)
    whole = Interpreter(graph).run({"x": x})
    rows = [Interpreter(graph).run({"x": x[i : i + 1]}) for i in range(4)]
    for key, value in whole.items():
        assert np.allclose(value, np.concatenate([r[key] for r in rows]), atol=1e-6)


@pytest.mark.parametrize("name", MIXED)
def test_mixed_rows_are_not_proved(name):
    assert batch_symbol(build(MIXED[name])) is None


def test_recurrence_is_proved():
    assert batch_symbol(build(rnn, ("N", "T", 3))) == "N"


def test_convolution_is_proved():
    def body(b, x):
        y = b.conv(x, b.constant(np.ones((3, 3, 2, 4), np.float32)), pads=((1, 1), (1, 1)))
        return b.reduce_mean(b.max_pool(y, window=2), axes=(1, 2))

    assert batch_symbol(build(body, ("N", 8, 8, 2))) == "N"


def test_batch_elsewhere_in_the_shape_is_not_claimed():
    assert batch_symbol(build(lambda b, x: x, ("N", "N"))) is None
    assert batch_symbol(build(lambda b, x: x, (3, "N"))) is None


def test_composites_are_read_through_their_decomposition():
    def body(b, x):
        heads = b.reshape(x, shape=(x.shape[0], "T", 2, 3))
        return b.einsum(heads, b.constant(np.ones((2, 3, 5), np.float32)), equation="nthd,hdo->nto")

    assert batch_symbol(build(body, ("N", "T", 6))) == "N"
