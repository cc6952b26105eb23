"""Random networks for pass tests: convolutional stretches, dense chains, transformer blocks, recurrences."""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from fusewright.ir import Builder, Graph, Value


class Net:
    """A network under construction from a seed; every choice comes from ``self.rng``."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.data = np.random.default_rng(seed)
        self.b: Any = Builder()

    def weights(self, *shape: int) -> Value:
        fan = max(1, int(np.prod(shape[:-1])))
        return self.b.constant((self.data.standard_normal(shape) / np.sqrt(fan)).astype(np.float32))

    def conv(self, x: Value, filters: int, size: int, stride: int = 1, groups: int = 1) -> Value:
        p = size // 2
        w = self.weights(size, size, int(str(x.shape[-1])) // groups, filters)
        return self.b.conv(x, w, strides=stride, pads=((p, p), (p, p)), groups=groups)

    def norm(self, x: Value) -> Value:
        c = int(str(x.shape[-1]))
        mean, var = self.weights(c), self.b.constant((self.data.random(c) + 0.5).astype(np.float32))
        kind = self.rng.randrange(4)
        if kind == 0:
            return self.b.batch_norm(x, mean, var, self.weights(c), self.weights(c), epsilon=1e-3)
        if kind == 1:
            return self.b.batch_norm(x, mean, var, self.weights(c), has_gamma=False)
        if kind == 2:
            return self.b.add(self.b.mul(x, self.weights(1, 1, 1, c)), self.weights(c))
        return self.b.sub(self.b.div(x, var), mean)

    def act(self, x: Value) -> Value:
        name = self.rng.choice(["relu", "relu6", "silu", "hard_swish", "leaky_relu", "gelu", "tanh", "none", "elu"])
        return x if name == "none" else getattr(self.b, name)(x)

    def block(self, x: Value, others: list[Value]) -> Value:
        c, b, r = int(str(x.shape[-1])), self.b, self.rng
        small = isinstance(x.shape[1], int) and x.shape[1] < 4
        kind = r.choice("conv conv conv depth res se pool cat pad slice reverse transposes mean".split())
        if kind == "conv":
            y = self.conv(x, r.choice([3, 8, 16, 20, 32]), r.choice([1, 3]), 1 if small else r.choice([1, 1, 2]))
            y = b.add(y, self.weights(int(str(y.shape[-1])))) if r.random() < 0.5 else y
            return self.act(self.norm(y) if r.random() < 0.7 else y)
        if kind == "depth":
            return self.act(self.norm(self.conv(x, c, 3, groups=c)))
        if kind == "res":
            same = [v for v in others if v.shape == x.shape and v is not x]
            y = r.choice(same) if same else self.norm(self.conv(x, c, 3))
            return self.act(b.add(x, y))
        if kind == "se":
            s = b.reduce_mean(x, axes=(1, 2), keepdims=r.random() < 0.5)
            s = b.reshape(s, shape=(x.shape[0], 1, 1, c))
            s = self.act(self.conv(s, r.choice([4, 16]), 1))
            return b.mul(x, b.sigmoid(self.conv(s, c, 1)))
        if kind == "pool" and not small:
            pool = r.choice([b.max_pool, b.avg_pool])
            return pool(x, window=(3, 3), strides=(2, 2), pads=((1, 1), (0, 1)))
        if kind == "cat":
            fits = [v for v in others if v.shape[:-1] == x.shape[:-1]]
            return b.concat(x, r.choice(fits), axis=3) if fits and c < 64 else x
        if kind == "pad":
            value = [b.constant(r.choice([0.0, 0.0, 1.0]), "f32")] if r.random() < 0.6 else []
            return b.pad(x, *value, low=(0, 1, 0, 0), high=(0, 1, 2, 0))
        if kind == "slice" and c >= 16:
            start = r.choice([0, 4, 16]) if c > 16 else 0
            return b.slice(x, starts=(0, 0, 0, start), stops=(None, None, None, c), steps=None)
        if kind == "reverse":
            return b.reverse(x, axes=(1,))
        if kind == "transposes":
            y = b.transpose(x, perm=(0, 3, 1, 2))
            first = [
                lambda y: self.act(y),
                lambda y: b.batch_norm(y, self.weights(c), b.square(self.weights(c)), axis=1),
                lambda y: b.mul(y, b.reduce_mean(y, axes=(2, 3), keepdims=True)),
                lambda y: b.add(y, self.weights(c, 1, 1)),
                lambda y: b.concat(y, b.neg(y), axis=2),
                lambda y: b.pad(y, low=(0, 0, 1, 0), high=(0, 0, 0, 2)),
                lambda y: b.slice(y, starts=(0, 0, 1, 0), stops=(None, None, None, None), steps=(1, 1, 1, 2)),
            ]
            for step in r.sample(first, r.randrange(4)):
                y = step(y)
            y = b.transpose(y, perm=(0, 2, 3, 1))
            return y if r.random() < 0.9 else self.act(y)
        return b.sub(x, b.reduce_mean(x, axes=(1, 2), keepdims=True))


def cnn(seed: int, blocks: int = 6) -> Graph:
    """A random convolutional network: symbolic or fixed batch, one to three outputs."""
    net = Net(seed)
    r = net.rng
    x = net.b.input("x", "f32", (r.choice(["N", "N", 2]), r.choice([8, 9]), 8, r.choice([1, 3, 16, 20])))
    values = [x]
    for _ in range(r.randrange(1, blocks + 1)):
        source = values[-1] if r.random() < 0.8 else r.choice(values)
        values.append(net.block(source, values))
    y = values[-1]
    outputs = {"y": y}
    if r.random() < 0.6:
        c = int(str(y.shape[-1]))
        pooled = net.b.reduce_mean(y, axes=(1, 2))
        dense = net.b.add(net.b.matmul(pooled, net.weights(c, 5)), net.weights(5))
        outputs = {"y": net.b.softmax(net.act(dense))}
    for i, v in enumerate(r.sample(values, min(len(values), r.choice([0, 0, 1, 2])))):
        outputs[f"extra{i}"] = v
    return net.b.build(outputs)


def transformer(seed: int, layers: int = 1, width: int = 16, heads: int = 2) -> Graph:
    """Pre-norm transformer blocks with a residual stream [N, T, width]."""
    net = Net(seed)
    b = net.b
    x = b.input("x", "f32", ("N", "T", width))
    y = x
    for _ in range(layers):
        h = b.layer_norm(y, net.weights(width), net.weights(width))
        parts = []
        for _ in range(3):
            p = b.add(b.matmul(h, net.weights(width, width)), net.weights(width))
            p = b.reshape(p, shape=("N", "T", heads, width // heads))
            parts.append(b.transpose(p, perm=(0, 2, 1, 3)))
        a = b.transpose(b.attention(*parts), perm=(0, 2, 1, 3))
        a = b.matmul(b.reshape(a, shape=("N", "T", width)), net.weights(width, width))
        y = b.add(y, b.add(a, net.weights(width)))
        h = b.layer_norm(y, net.weights(width), net.weights(width))
        h = b.gelu(b.add(b.matmul(h, net.weights(width, 4 * width)), net.weights(4 * width)))
        y = b.add(y, b.add(b.matmul(h, net.weights(4 * width, width)), net.weights(width)))
    return b.build({"y": y})


def lstm(seed: int, units: int = 8, width: int = 4) -> Graph:
    """An LSTM over [N, T, width] as a scan."""
    net = Net(seed)
    b = net.b
    x = b.input("x", "f32", ("N", "T", width))
    xs = b.transpose(x, perm=(1, 0, 2))
    zero = b.full(("N", units), 0.0, "f32")
    kernel, recurrent, bias = net.weights(width, 4 * units), net.weights(units, 4 * units), net.weights(4 * units)

    def body(i: Any, h: Value, c: Value, v: Value, k: Value, w: Value, t: Value) -> list[Value]:
        z = i.add(i.add(i.matmul(v, k), i.matmul(h, w)), t)
        gates = [i.slice(z, starts=(0, n * units), stops=(None, (n + 1) * units), steps=None) for n in range(4)]
        new = i.add(i.mul(i.sigmoid(gates[1]), c), i.mul(i.sigmoid(gates[0]), i.tanh(gates[2])))
        out = i.mul(i.sigmoid(gates[3]), i.tanh(new))
        return [out, new, out]

    types = [zero.type, zero.type, xs.type.with_shape(xs.shape[1:]), kernel.type, recurrent.type, bias.type]
    region = b.region(types, body)
    h, _, ys = b.scan(zero, zero, xs, kernel, recurrent, bias, n_carry=2, n_xs=1, regions=[region])
    return b.build({"h": h, "ys": ys})


def conv(b: Any, x: Any, filters: int, size: int = 3, **attrs: Any) -> Value:
    """A convolution of fixed weights that keeps the extents of its operand, but for strides."""
    p, shape = size // 2, (size, size, x.shape[-1], filters)
    w = (np.random.default_rng(sum(shape)).standard_normal(shape) / 3).astype(np.float32)
    y: Value = b.conv(x, b.constant(w), pads=((p, p), (p, p)), **attrs)
    return y


def pooled(b: Any, x: Any, stride: int) -> Value:
    y: Value = b.max_pool(x, window=(3, 3), strides=(stride, stride), pads=((1, 1), (1, 1)))
    return y


def around(
    stride: int = 2, size: int = 1, last: Any = pooled, given: bool = False, before: int = 4, late: bool = False
) -> Graph:
    """A block of convolutions that ends in ``last``, around it a strided convolution that alone keeps their operand.
    ``before``: channels of what was there before the block. ``late``: the strided convolution comes behind it."""
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 12, 12, 4))
    y = x if given else conv(b, b.relu(conv(b, x, before)), 4)
    round_it = lambda: conv(b, y, 8, size, strides=(stride, stride))
    other = None if late else round_it()
    z = last(b, b.relu(conv(b, y, 8)), stride)
    other = round_it() if other is None else other
    return b.build(conv(b, b.add(z, other), 1))


def skipped() -> Graph:
    """Convolutions of which a strided 1x1 convolution reads every other pixel."""
    b: Any = Builder()
    y = b.relu(conv(b, b.input("x", "f32", ("N", 8, 8, 3)), 4))
    return b.build(conv(b, y, 2, 1, strides=(2, 2)))


def shifted() -> Graph:
    """A factorised reduction: every other pixel, and every other pixel of what lies one further."""
    b: Any = Builder()
    x = b.input("x", "f32", ("N", 7, 7, 3))
    y = b.slice(b.pad(x, low=(0,) * 4, high=(0, 1, 1, 0)), starts=(0, 1, 1, 0), stops=("N", 8, 8, 3))
    parts = [b.avg_pool(v, window=(1, 1), strides=(2, 2)) for v in (x, y)]
    return b.build(b.concat(*(conv(b, v, 2, 1) for v in parts), axis=3))
