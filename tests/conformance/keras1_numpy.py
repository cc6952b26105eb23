"""Keras 1 in plain NumPy, float64: what a file of Keras 1.x computes, from its config and arrays alone.

Written from the documentation and sources of Keras 1.2.2 (keras.io/1.2.2; class and function names are in the
docstrings) and, for files of the Theano backend, of Theano 0.9. It shares nothing with the importer that it judges.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np

Array = np.ndarray
Groups = dict[str, list[tuple[str, Array]]]
Masked = tuple[Array, "Array | None"]  # values and mask [N, T]


def read(file: h5py.File) -> tuple[dict[str, Any], Groups]:
    """(model_config, arrays of every layer in the order of weight_names)."""
    config = json.loads(file.attrs["model_config"])
    root = file["model_weights"]
    text = lambda names: [n.decode() if isinstance(n, bytes) else str(n) for n in names]
    return config, {
        name: [(w, np.asarray(root[name][w], np.float64)) for w in text(root[name].attrs["weight_names"])]
        for name in text(root.attrs["layer_names"])
    }


def evaluate(config: Mapping[str, Any], groups: Groups, inputs: Sequence[Array]) -> list[Array]:
    """Outputs of the model on ``inputs`` (in the model's order)."""
    names = [n for arrays in groups.values() for n, _ in arrays]
    # Variables of the Theano backend carry the name as given, those of TensorFlow end in ":0".
    run = _Run(groups, theano=bool(names) and not any(n.endswith(":0") for n in names))
    return [y for y, _ in run.model(config, [(np.asarray(x, np.float64), None) for x in inputs])]


class _Run:
    def __init__(self, groups: Groups, theano: bool) -> None:
        self.groups, self.theano = groups, theano

    # -- containers -------------------------------------------------------------------------------------------------

    def model(self, entry: Mapping[str, Any], xs: list[Masked]) -> list[Masked]:
        config = entry["config"]
        if entry["class_name"] == "Sequential":
            return self.sequential(config, xs)
        done: dict[tuple[str, int], list[Masked]] = {}
        for (name, node, _), x in zip(config["input_layers"], xs, strict=True):
            done[(name, node)] = [x]
        pending = [(layer, i) for layer in config["layers"] for i in range(len(layer["inbound_nodes"]))]
        while pending:
            left = []
            for layer, i in pending:
                froms = layer["inbound_nodes"][i]
                if all((n, k) in done for n, k, _ in froms):
                    done[(layer["name"], i)] = self.layer(layer, [done[(n, k)][t] for n, k, t in froms])
                else:
                    left.append((layer, i))
            assert len(left) < len(pending), "the graph has a cycle"
            pending = left
        return [done[(n, k)][t] for n, k, t in config["output_layers"]]

    def sequential(self, entries: list[Any], xs: list[Masked]) -> list[Masked]:
        if entries[0]["class_name"] == "Merge" and entries[0]["config"].get("layers"):
            ends, rest = [], list(xs)
            for branch in entries[0]["config"]["layers"]:
                count = self.inputs_of(branch)
                ends += self.model(branch, rest[:count])
                rest = rest[count:]
            xs = ends
        for entry in entries:
            xs = self.layer(entry, xs)
        return xs

    def inputs_of(self, entry: Mapping[str, Any]) -> int:
        if entry["class_name"] == "Model":
            return len(entry["config"]["input_layers"])
        first = entry["config"][0]
        if first["class_name"] == "Merge" and first["config"].get("layers"):
            return sum(self.inputs_of(b) for b in first["config"]["layers"])
        return 1

    def layer(self, entry: Mapping[str, Any], xs: list[Masked]) -> list[Masked]:
        kind, config = entry["class_name"], entry["config"]
        if kind in ("Sequential", "Model"):
            return self.model(entry, xs)
        name = entry.get("name") or config["name"]
        arrays = [a for _, a in self.groups.get(name, [])]
        if kind == "Merge":
            return [merge(config, xs)]
        return [self.leaf(kind, config, arrays, *xs[0])]

    def leaf(self, kind: str, c: Mapping[str, Any], w: list[Array], x: Array, mask: Array | None) -> Masked:
        if kind == "Bidirectional":
            return self.bidirectional(c, w, x, mask)
        if kind == "TimeDistributed":
            inner = c["layer"]
            steps = [self.leaf(inner["class_name"], inner["config"], w, x[:, t], None)[0] for t in range(x.shape[1])]
            return np.stack(steps, 1), mask
        if kind in ("SimpleRNN", "LSTM", "GRU", "ConvLSTM2D"):
            y = self.recurrent(kind, c, w, x, mask)
            return y, mask if c["return_sequences"] else None
        fn = _LAYERS.get(kind)
        if fn is not None:
            return fn(c, w, x, mask)
        return getattr(self, f"_{kind.lower()}")(c, w, x), None

    # -- recurrence -------------------------------------------------------------------------------------------------

    def bidirectional(self, c: Mapping[str, Any], w: list[Array], x: Array, mask: Array | None) -> Masked:
        """keras.layers.wrappers.Bidirectional: the first half of the weights is the forward layer's."""
        inner, half = c["layer"], len(w) // 2
        back = {**inner["config"], "go_backwards": not inner["config"].get("go_backwards", False)}
        y = self.recurrent(inner["class_name"], inner["config"], w[:half], x, mask)
        z = self.recurrent(inner["class_name"], back, w[half:], x, mask)
        if inner["config"]["return_sequences"]:
            z = z[:, ::-1]
        mode = c["merge_mode"]
        joined = {
            "concat": lambda: np.concatenate([y, z], -1), "sum": lambda: y + z, "ave": lambda: (y + z) / 2,
            "mul": lambda: y * z,
        }[mode]()  # fmt: skip
        return joined, mask if inner["config"]["return_sequences"] else None

    def recurrent(self, kind: str, c: Mapping[str, Any], w: list[Array], x: Array, mask: Array | None) -> Array:
        """keras.backend.rnn: a masked step repeats the output before it (zeros at first) and keeps the states."""
        act = lambda v: activation(c["activation"], v)
        gate = lambda v: activation(c.get("inner_activation", "hard_sigmoid"), v)
        if kind in ("LSTM", "ConvLSTM2D") and c.get("consume_less") != "gpu":
            (wi, ui, bi), (wc, uc, bc), (wf, uf, bf), (wo, uo, bo) = (w[3 * i : 3 * i + 3] for i in range(4))
        elif kind == "LSTM":
            (wi, wf, wc, wo), (ui, uf, uc, uo), (bi, bf, bc, bo) = (np.split(a, 4, -1) for a in w)
        elif kind == "GRU" and c.get("consume_less") != "gpu":
            (wz, uz, bz), (wr, ur, br), (wh, uh, bh) = (w[3 * i : 3 * i + 3] for i in range(3))
        elif kind == "GRU":
            (wz, wr, wh), (uz, ur, uh), (bz, br, bh) = (np.split(a, 3, -1) for a in w)

        def step(v: Array, states: list[Array]) -> tuple[Array, list[Array]]:
            h = states[0]
            if kind == "SimpleRNN":
                y = act(v @ w[0] + w[2] + h @ w[1])
                return y, [y]
            if kind == "GRU":
                z, r = gate(v @ wz + bz + h @ uz), gate(v @ wr + br + h @ ur)
                y = z * h + (1 - z) * act(v @ wh + bh + (r * h) @ uh)
                return y, [y]
            if kind == "LSTM":
                dot, over = (lambda a, b: a @ b), (lambda a, b: a @ b)
                shift = lambda b: b
            else:  # keras.layers.convolutional_recurrent.ConvLSTM2D
                dot = lambda a, k: self.conv(a, k, c["subsample"], c["border_mode"], c["dim_ordering"])
                over = lambda a, k: self.conv(a, k, (1, 1), "same", c["dim_ordering"])
                shift = lambda b: b.reshape(1, -1, 1, 1) if c["dim_ordering"] == "th" else b
            i, f = gate(dot(v, wi) + shift(bi) + over(h, ui)), gate(dot(v, wf) + shift(bf) + over(h, uf))
            m = f * states[1] + i * act(dot(v, wc) + shift(bc) + over(h, uc))
            y = gate(dot(v, wo) + shift(bo) + over(h, uo)) * act(m)
            return y, [y, m]

        if kind == "ConvLSTM2D":
            like = self.conv(x[:, 0], wi, c["subsample"], c["border_mode"], c["dim_ordering"])
            states = [np.zeros_like(like), np.zeros_like(like)]
        else:
            states = [np.zeros((x.shape[0], c["output_dim"]))] * (2 if kind == "LSTM" else 1)
        last, out = np.zeros_like(states[0]), []
        order = range(x.shape[1] - 1, -1, -1) if c.get("go_backwards") else range(x.shape[1])
        for t in order:
            y, new = step(x[:, t], states)
            if mask is not None:
                keep = mask[:, t].reshape(-1, *[1] * (y.ndim - 1))
                y = np.where(keep, y, last)
                new = [np.where(keep, n, s) for n, s in zip(new, states, strict=True)]
            last, states = y, new
            out.append(y)
        return np.stack(out, 1) if c["return_sequences"] else last

    # -- convolutions -----------------------------------------------------------------------------------------------

    def conv(
        self,
        x: Array,
        kernel: Array,
        strides: Sequence[int],
        mode: str,
        ordering: str,
        rates: Sequence[int] = (1, 1, 1),
    ) -> Array:
        """keras.backend.conv2d and conv3d. Kernels: [*space, in, out] for "tf", [out, in, *space] for "th"; the Theano
        backend calls theano.tensor.nnet.conv2d with its default filter_flip=True, a convolution in the strict sense."""
        rank = x.ndim - 2
        if ordering == "th":
            x, kernel = np.moveaxis(x, 1, -1), np.moveaxis(kernel, (1, 0), (-2, -1))
        if self.theano:
            kernel = np.flip(kernel, tuple(range(rank)))
        size = kernel.shape[:rank]
        pads, outs = self.same(x.shape[1:-1], size, strides, mode, rates)
        x = np.pad(x, [(0, 0), *pads, (0, 0)])
        y = np.zeros((x.shape[0], *outs, kernel.shape[-1]))
        for tap in np.ndindex(*size):
            cut = tuple(slice(t * r, t * r + (o - 1) * s + 1, s) for t, r, o, s in zip(tap, rates, outs, strides))
            y += x[(slice(None), *cut)] @ kernel[tap]
        return np.moveaxis(y, -1, 1) if ordering == "th" else y

    def same(
        self, extents: Sequence[int], size: Sequence[int], strides: Sequence[int], mode: str, rates: Sequence[int]
    ) -> tuple[list[tuple[int, int]], list[int]]:
        """Zero padding and output extents. TensorFlow puts the smaller half of what is needed in front; Theano's "half"
        mode pads half the window on both sides, and keras.backend._postprocess_conv2d_output cuts to ceil(n / s)."""
        pads, outs = [], []
        for n, k, s, r in zip(extents, size, strides, rates):
            reach = (k - 1) * r + 1
            if mode == "valid":
                pads.append((0, 0))
                outs.append((n - reach) // s + 1)
                continue
            out = -(-n // s)
            need = max((out - 1) * s + reach - n, 0)
            low = reach // 2 if self.theano else need // 2
            pads.append((low, max((out - 1) * s + reach - n - low, 0)))
            outs.append(out)
        return pads, outs

    def _bias(self, c: Mapping[str, Any], y: Array, b: Array, first: bool) -> Array:
        if c.get("bias", True):
            y = y + (b.reshape(1, -1, *[1] * (y.ndim - 2)) if first else b)
        return activation(c.get("activation", "linear"), y)

    def _convolution1d(self, c: Mapping[str, Any], w: list[Array], x: Array) -> Array:
        """Convolution1D: a conv2d over [N, T, 1, C] with a kernel [length, 1, in, out] in "tf" order."""
        rate = c.get("atrous_rate", 1)
        kernel = w[0] if w[0].shape[:2] == (c["filter_length"], 1) else w[0].transpose(2, 3, 1, 0)
        y = self.conv(x[:, :, None], kernel, (c["subsample_length"], 1), c["border_mode"], "tf", (rate, 1))
        return self._bias(c, y[:, :, 0], w[-1], False)

    _atrousconvolution1d = _convolution1d

    def _convolution2d(self, c: Mapping[str, Any], w: list[Array], x: Array) -> Array:
        rates = c.get("atrous_rate", (1, 1, 1))
        y = self.conv(x, w[0], c["subsample"], c["border_mode"], c["dim_ordering"], rates)
        return self._bias(c, y, w[-1], c["dim_ordering"] == "th")

    _atrousconvolution2d = _convolution3d = _convolution2d

    def _separableconvolution2d(self, c: Mapping[str, Any], w: list[Array], x: Array) -> Array:
        """tf.nn.separable_conv2d: output channel c * multiplier + m of the depthwise step reads input channel c."""
        first = c["dim_ordering"] == "th"
        deep, point = (np.moveaxis(a, (1, 0), (-2, -1)) if first else a for a in w[:2])
        x = np.moveaxis(x, 1, -1) if first else x
        *space, channels, times = deep.shape
        full = np.zeros((*space, channels, channels * times))
        for i in range(channels):
            full[..., i, i * times : (i + 1) * times] = deep[..., i, :]
        y = self.conv(x, full, c["subsample"], c["border_mode"], "tf")
        y = y @ point[0, 0]
        return self._bias(c, np.moveaxis(y, -1, 1) if first else y, w[-1], first)

    def _deconvolution2d(self, c: Mapping[str, Any], w: list[Array], x: Array) -> Array:
        """keras.backend.deconv2d, the gradient of a conv2d of the output shape: every input is spread by the kernel."""
        first = c["dim_ordering"] == "th"
        kernel, x = (np.moveaxis(w[0], (1, 0), (-2, -1)), np.moveaxis(x, 1, -1)) if first else (w[0], x)
        space = c["output_shape"][2:] if first else c["output_shape"][1:3]
        (rows, cols), (s, t) = kernel.shape[:2], c["subsample"]
        pads, _ = self.same(space, (rows, cols), (s, t), c["border_mode"], (1, 1))
        wide = np.zeros((x.shape[0], *(n + sum(p) for n, p in zip(space, pads)), kernel.shape[-1]))
        for i in range(x.shape[1]):
            for j in range(x.shape[2]):
                wide[:, i * s : i * s + rows, j * t : j * t + cols] += np.einsum("nc,rscf->nrsf", x[:, i, j], kernel)
        y = wide[:, pads[0][0] :, pads[1][0] :][:, : space[0], : space[1]]
        return self._bias(c, np.moveaxis(y, -1, 1) if first else y, w[-1], first)

    def _locallyconnected1d(self, c: Mapping[str, Any], w: list[Array], x: Array) -> Array:
        out = [
            x[:, i * c["subsample_length"] : i * c["subsample_length"] + c["filter_length"]].reshape(len(x), -1) @ k
            for i, k in enumerate(w[0])
        ]
        return self._bias(c, np.stack(out, 1), w[-1], False)

    def _locallyconnected2d(self, c: Mapping[str, Any], w: list[Array], x: Array) -> Array:
        """Windows are flattened as they lie, so channel by channel for "th"; the bias has the output's layout."""
        first, (s, t), (h, v) = c["dim_ordering"] == "th", c["subsample"], (c["nb_row"], c["nb_col"])
        rows, cols = x.shape[2:] if first else x.shape[1:3]
        rows, cols = (rows - h) // s + 1, (cols - v) // t + 1
        y = np.zeros((len(x), rows, cols, c["nb_filter"]))
        for i in range(rows):
            for j in range(cols):
                window = (..., slice(i * s, i * s + h), slice(j * t, j * t + v))
                part = x[window] if first else x[(slice(None), *window[1:])]
                y[:, i, j] = part.reshape(len(x), -1) @ w[0][i * cols + j]
        y = np.moveaxis(y, -1, 1) if first else y
        return activation(c["activation"], y + w[1] if c.get("bias", True) else y)

    # -- pooling ----------------------------------------------------------------------------------------------------

    def _pool(self, c: Mapping[str, Any], x: Array, size: Sequence[int], strides: Sequence[int], kind: str) -> Array:
        """keras.backend.pool2d and pool3d; padding never counts. Theano pads both sides, see its pool_2d."""
        first = c.get("dim_ordering") == "th"
        x = np.moveaxis(x, 1, -1) if first else x
        rank = x.ndim - 2
        if self.theano and c["border_mode"] == "same":
            outs = [-(-n // s) for n, s in zip(x.shape[1:-1], strides)]
            pads = [(p, p + max(k, s)) for k, s in zip(size, strides) for p in [k - 2 if k > 2 and k % 2 else k - 1]]
        else:
            pads, outs = _Run({}, False).same(x.shape[1:-1], size, strides, c["border_mode"], (1,) * rank)
        x = np.pad(x, [(0, 0), *pads, (0, 0)], constant_values=np.nan)
        parts = [
            x[(slice(None), *(slice(t, t + (o - 1) * s + 1, s) for t, o, s in zip(tap, outs, strides)))]
            for tap in np.ndindex(*size)
        ]
        y = np.nanmax(parts, 0) if kind == "max" else np.nanmean(parts, 0)
        return np.moveaxis(y, -1, 1) if first else y

    def _pool1(self, c: Mapping[str, Any], x: Array, kind: str) -> Array:
        return self._pool(c, x, (c["pool_length"],), (c["stride"] or c["pool_length"],), kind)

    def _maxpooling1d(self, c: Mapping[str, Any], w: list[Array], x: Array) -> Array:
        return self._pool1(c, x, "max")

    def _averagepooling1d(self, c: Mapping[str, Any], w: list[Array], x: Array) -> Array:
        return self._pool1(c, x, "mean")

    def _maxpooling2d(self, c: Mapping[str, Any], w: list[Array], x: Array) -> Array:
        return self._pool(c, x, c["pool_size"], c["strides"], "max")

    def _averagepooling2d(self, c: Mapping[str, Any], w: list[Array], x: Array) -> Array:
        return self._pool(c, x, c["pool_size"], c["strides"], "mean")

    _maxpooling3d, _averagepooling3d = _maxpooling2d, _averagepooling2d


# -- layers without a backend's share ----------------------------------------------------------------------------------


def activation(name: str, x: Array) -> Array:
    """keras.activations; hard_sigmoid is clip(0.2 x + 0.5, 0, 1) in Keras 1."""
    sigmoid = lambda v: 1 / (1 + np.exp(-v))
    e = np.exp(x - x.max(-1, keepdims=True))
    return {
        "linear": lambda: x, "relu": lambda: np.maximum(x, 0), "tanh": lambda: np.tanh(x),
        "sigmoid": lambda: sigmoid(x),
        "hard_sigmoid": lambda: np.clip(0.2 * x + 0.5, 0, 1), "softmax": lambda: e / e.sum(-1, keepdims=True),
        "softplus": lambda: np.log1p(np.exp(x)), "softsign": lambda: x / (1 + np.abs(x)),
    }[name]()  # fmt: skip


def merge(c: Mapping[str, Any], xs: list[Masked]) -> Masked:
    """keras.engine.topology.Merge."""
    values, masks = [x for x, _ in xs], [m for _, m in xs]
    mode, given = c["mode"], [m for m in masks if m is not None]
    if mode == "concat":
        axis = c["concat_axis"]
        mask = None
        if given:
            spread = [np.ones(x.shape, bool) if m is None else np.repeat(m[..., None], x.shape[-1], -1) for x, m in xs]
            mask = np.concatenate(spread, axis).all(-1)
        return np.concatenate(values, axis), mask
    if mode in ("dot", "cos"):
        i, j = [c["dot_axes"]] * 2 if isinstance(c["dot_axes"], int) else c["dot_axes"]
        one, two = (np.moveaxis(v, a, -1) for v, a in zip(values, (i, j)))

        def dot(a: Array, b: Array) -> Array:
            flat = np.einsum("nid,njd->nij", a.reshape(len(a), -1, a.shape[-1]), b.reshape(len(b), -1, b.shape[-1]))
            shape = (len(a), *a.shape[1:-1], *b.shape[1:-1])
            return flat.reshape(shape if len(shape) > 1 else (len(a), 1))

        y = dot(one, two)
        if mode == "cos":
            y = (y / np.maximum(np.sqrt(dot(one, one) * dot(two, two)), 1e-7))[:, None]
        return y, None
    mask = np.logical_and.reduce(given) if given else None
    total = {
        "sum": lambda: sum(values), "mul": lambda: np.prod(values, 0), "ave": lambda: sum(values) / len(values),
        "max": lambda: np.max(values, 0),
    }[mode]()  # fmt: skip
    return total, mask


def _embedding(c: Mapping[str, Any], w: list[Array], x: Array, mask: Array | None) -> Masked:
    index = x.astype(int)
    return w[0][index], index != 0 if c["mask_zero"] else None


def _dense(c: Mapping[str, Any], w: list[Array], x: Array, mask: Array | None) -> Masked:
    y = x @ w[0]
    return activation(c["activation"], y + w[1] if c.get("bias", True) else y), mask


def _highway(c: Mapping[str, Any], w: list[Array], x: Array, mask: Array | None) -> Masked:
    t = activation("sigmoid", x @ w[1] + w[3])
    return activation(c["activation"], x @ w[0] + w[2]) * t + (1 - t) * x, mask


def _maxout(c: Mapping[str, Any], w: list[Array], x: Array, mask: Array | None) -> Masked:
    return np.max([x @ k + b for k, b in zip(*w, strict=True)], 0), None


def _batch_norm(c: Mapping[str, Any], w: list[Array], x: Array, mask: Array | None) -> Masked:
    """``running_std`` holds the running variance in Keras 1.x, as a comment in its source says."""
    gamma, beta, mean, var = w
    epsilon, axis = c["epsilon"], c["axis"] % x.ndim
    if c["mode"] == 1:
        std = np.sqrt(x.var(-1, keepdims=True) + epsilon)
        return gamma * (x - x.mean(-1, keepdims=True)) / (std + epsilon) + beta, mask
    others = tuple(i for i in range(x.ndim) if i != axis)
    if c["mode"] == 2:
        mean, var = x.mean(others), x.var(others)
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    gamma, beta, mean, var = (a.reshape(shape) for a in (gamma, beta, mean, var))
    return gamma * (x - mean) / np.sqrt(var + epsilon) + beta, mask


def _masking(c: Mapping[str, Any], w: list[Array], x: Array, mask: Array | None) -> Masked:
    keep = (x != c["mask_value"]).any(-1)
    return x * keep[..., None], keep


def _srelu(c: Mapping[str, Any], w: list[Array], x: Array, mask: Array | None) -> Masked:
    t_left, a_left, t_right, a_right = w
    right = t_left + np.abs(t_right)
    return np.where(
        x >= right, right + a_right * (x - right), np.where(x > t_left, x, t_left + a_left * (x - t_left))
    ), mask


def _pad(c: Mapping[str, Any], w: list[Array], x: Array, mask: Array | None) -> Masked:
    p, rank = c["padding"], x.ndim - 2
    if isinstance(p, dict):
        sides = [(p["top_pad"], p["bottom_pad"]), (p["left_pad"], p["right_pad"])]
    elif rank == 2 and len(p) == 4:
        sides = [tuple(p[:2]), tuple(p[2:])]
    else:
        sides = [(v, v) for v in ([p] if isinstance(p, int) else p)]
    lead = 2 if c.get("dim_ordering") == "th" else 1
    return np.pad(x, [*[(0, 0)] * lead, *sides, *[(0, 0)] * (2 - lead)]), None


def _crop(c: Mapping[str, Any], w: list[Array], x: Array, mask: Array | None) -> Masked:
    cuts = c["cropping"] if isinstance(c["cropping"][0], (list, tuple)) else [c["cropping"]]
    lead = 2 if c.get("dim_ordering") == "th" else 1
    where = [slice(None)] * lead + [slice(a, x.shape[lead + i] - b) for i, (a, b) in enumerate(cuts)]
    return x[tuple(where)], None


def _upsample(c: Mapping[str, Any], w: list[Array], x: Array, mask: Array | None) -> Masked:
    times = [c["length"]] if "length" in c else c["size"]
    for i, n in enumerate(times, start=2 if c.get("dim_ordering") == "th" else 1):
        x = np.repeat(x, n, i)
    return x, None


def _space(c: Mapping[str, Any], x: Array) -> tuple[int, ...]:
    return tuple(range(2, x.ndim)) if c.get("dim_ordering") == "th" else tuple(range(1, x.ndim - 1))


def _same(c: Mapping[str, Any], w: list[Array], x: Array, mask: Array | None) -> Masked:
    return x, mask


_LAYERS: dict[str, Any] = {
    "InputLayer": _same, "Dropout": _same, "GaussianNoise": _same, "GaussianDropout": _same, "SpatialDropout1D": _same,
    "SpatialDropout2D": _same, "SpatialDropout3D": _same, "ActivityRegularization": _same, "Embedding": _embedding,
    "Dense": _dense, "TimeDistributedDense": _dense, "Highway": _highway, "MaxoutDense": _maxout,
    "BatchNormalization": _batch_norm, "Masking": _masking, "SReLU": _srelu, "ZeroPadding1D": _pad,
    "ZeroPadding2D": _pad, "ZeroPadding3D": _pad, "Cropping1D": _crop, "Cropping2D": _crop, "Cropping3D": _crop,
    "UpSampling1D": _upsample, "UpSampling2D": _upsample, "UpSampling3D": _upsample,
    "Activation": lambda c, w, x, m: (activation(c["activation"], x), m),
    "Flatten": lambda c, w, x, m: (x.reshape(len(x), -1), None),
    "Reshape": lambda c, w, x, m: (x.reshape(len(x), *c["target_shape"]), None),
    "Permute": lambda c, w, x, m: (x.transpose(0, *c["dims"]), None),
    "RepeatVector": lambda c, w, x, m: (np.repeat(x[:, None], c["n"], 1), None),
    "LeakyReLU": lambda c, w, x, m: (np.where(x > 0, x, c["alpha"] * x), m),
    "ELU": lambda c, w, x, m: (np.where(x > 0, x, c["alpha"] * np.expm1(x)), m),
    "ThresholdedReLU": lambda c, w, x, m: (x * (x > c["theta"]), m),
    "PReLU": lambda c, w, x, m: (np.where(x > 0, x, w[0] * x), m),
    "ParametricSoftplus": lambda c, w, x, m: (w[0] * np.log1p(np.exp(w[1] * x)), m),
    "GlobalMaxPooling1D": lambda c, w, x, m: (x.max(1), None),
    "GlobalAveragePooling1D": lambda c, w, x, m: (x.mean(1), None),
    "GlobalMaxPooling2D": lambda c, w, x, m: (x.max(_space(c, x)), None),
    "GlobalAveragePooling2D": lambda c, w, x, m: (x.mean(_space(c, x)), None),
    "GlobalMaxPooling3D": lambda c, w, x, m: (x.max(_space(c, x)), None),
    "GlobalAveragePooling3D": lambda c, w, x, m: (x.mean(_space(c, x)), None),
}  # fmt: skip
