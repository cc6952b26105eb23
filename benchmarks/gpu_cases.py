"""What `gpu.py` measures: graphs, the sizes at which they are checked and timed, and what peers compute for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gpu_peers
import numpy as np

RNG = np.random.default_rng(2026)


def weights(*shape: int) -> np.ndarray:
    """Random weights that keep the size of what they meet."""
    fan = int(np.prod(shape[:-1])) or 1
    return (RNG.normal(size=shape) / np.sqrt(fan)).astype(np.float32)


@dataclass
class Case:
    """``graph`` makes the graph (it may need the compile extra, or Keras); ``check`` and ``time`` are sizes of N.

    ``peer(torch, n, dtype)`` gives a function without arguments that does the same work on the GPU, ``jax`` one of
    ``gpu_peers``. ``bar`` is what is asked for on a GPU of the H100 class: the share of copy bandwidth for memory-bound
    cases, else the best peer's time over ours; ``exact`` is that of mode ``strict`` where the peer's float32 has no
    tensor cores.
    """

    name: str
    kind: str  # memory, matrix, conv, attention, model
    graph: Callable[[], Any]
    check: int
    time: tuple[int, ...]
    peer: Callable[[Any, int, Any], Callable[[], Any]] | None = None
    bar: float = 0.0
    modes: tuple[str, ...] = ("strict",)
    jax: Callable[[Any, int, Any], Any] | None = None
    exact: float = 0.0
    tags: dict[str, Any] = field(default_factory=dict)

    def asked(self, mode: str) -> float:
        """The bar of a mode."""
        return self.exact if mode == "strict" and self.exact else self.bar

    @property
    def against(self) -> str:
        """What the bar is a share of."""
        return "copy bandwidth" if self.kind == "memory" else "best peer's time / ours"


def _builder() -> Any:
    import fusewright as fw

    return fw.Builder()


# -- memory-bound -----------------------------------------------------------------------------------------------------
WIDTH = 4096


def _add() -> Any:
    b = _builder()
    x, y = b.input("x", "f32", ("N", WIDTH)), b.input("y", "f32", ("N", WIDTH))
    return b.build(b.add(x, y))


def _chain() -> Any:
    b = _builder()
    x, r = b.input("x", "f32", ("N", WIDTH)), b.input("r", "f32", ("N", WIDTH))
    return b.build(b.add(b.gelu(b.add(x, weights(WIDTH)), approximate=True), r))


def _softmax() -> Any:
    b = _builder()
    return b.build(b.softmax(b.input("x", "f32", ("N", 1024)), axes=-1))


def _layer_norm() -> Any:
    b = _builder()
    return b.build(b.layer_norm(b.input("x", "f32", ("N", 1024)), weights(1024), weights(1024), axes=-1))


def _row_sum() -> Any:
    b = _builder()
    return b.build(b.reduce_sum(b.input("x", "f32", ("N", WIDTH)), axes=(1,)))


def _transpose() -> Any:
    b = _builder()
    return b.build(b.transpose(b.input("x", "f32", ("N", 512, 768)), perm=(0, 2, 1)))


def _embedding() -> Any:
    b = _builder()
    return b.build(b.gather(b.constant(weights(30000, 768)), b.input("i", "i32", ("N", 128)), axis=0))


def _torch_rows(function: Callable[[Any, Any, Any], Any], width: int) -> Callable[[Any, int, Any], Callable[[], Any]]:
    def peer(torch: Any, n: int, dtype: Any) -> Callable[[], Any]:
        x, y = (torch.randn(n, width, device="cuda") for _ in range(2))
        return lambda: function(torch, x, y)

    return peer


def _gelu_chain(torch: Any, x: Any, r: Any) -> Any:
    return torch.nn.functional.gelu(x + x[0], approximate="tanh") + r


def _torch_norm(torch: Any, x: Any, r: Any) -> Any:
    return torch.nn.functional.layer_norm(x, (1024,), r[0], r[0])


# -- contractions -----------------------------------------------------------------------------------------------------
def _dense(depth: int, columns: int) -> Callable[[], Any]:
    def graph() -> Any:
        b = _builder()
        x = b.input("x", "f32", ("N", depth))
        return b.build(b.relu(b.add(b.matmul(x, weights(depth, columns)), weights(columns))))

    return graph


def _torch_dense(depth: int, columns: int) -> Callable[[Any, int, Any], Callable[[], Any]]:
    def peer(torch: Any, n: int, dtype: Any) -> Callable[[], Any]:
        layer = torch.nn.Linear(depth, columns, device="cuda", dtype=dtype)
        x = torch.randn(n, depth, device="cuda", dtype=dtype)
        return lambda: torch.relu(layer(x))

    return peer


# -- convolutions of ResNet-50 ----------------------------------------------------------------------------------------
CONVS = [  # extent, channels in, channels out, window, stride
    (224, 3, 64, 7, 2), (56, 64, 64, 1, 1), (56, 64, 64, 3, 1), (56, 64, 256, 1, 1), (56, 256, 128, 1, 2),
    (28, 128, 128, 3, 1), (28, 128, 512, 1, 1), (14, 256, 256, 3, 1), (14, 256, 1024, 1, 1), (7, 512, 512, 3, 1),
]  # fmt: skip


def _conv(size: int, cin: int, cout: int, window: int, stride: int) -> Callable[[], Any]:
    def graph() -> Any:
        b = _builder()
        x = b.input("x", "f32", ("N", size, size, cin))
        half = window // 2
        y = b.conv(x, weights(window, window, cin, cout), strides=(stride, stride), pads=((half, half), (half, half)))
        return b.build(b.relu(b.add(y, weights(cout))))

    return graph


def _torch_conv(
    size: int, cin: int, cout: int, window: int, stride: int
) -> Callable[[Any, int, Any], Callable[[], Any]]:
    def peer(torch: Any, n: int, dtype: Any) -> Callable[[], Any]:
        layer = torch.nn.Conv2d(cin, cout, window, stride, window // 2, device="cuda", dtype=dtype)
        layer = layer.to(memory_format=torch.channels_last)
        x = torch.randn(n, cin, size, size, device="cuda", dtype=dtype).to(memory_format=torch.channels_last)
        return lambda: torch.relu(layer(x))

    return peer


# -- convolutions in groups: depthwise ones of MobileNetV2, a wide one of ResNeXt --------------------------------------
GROUPED = [  # extent, channels, window, stride, groups
    (112, 32, 3, 1, 32), (56, 144, 3, 2, 144), (14, 384, 3, 1, 384), (7, 960, 3, 1, 960), (14, 512, 3, 1, 32),
]  # fmt: skip


def _grouped(size: int, channels: int, window: int, stride: int, groups: int) -> Callable[[], Any]:
    def graph() -> Any:
        b = _builder()
        x = b.input("x", "f32", ("N", size, size, channels))
        w, pads = weights(window, window, channels // groups, channels), ((window // 2, window // 2),) * 2
        y = b.conv(x, w, strides=(stride, stride), pads=pads, groups=groups)
        return b.build(b.relu(b.add(y, weights(channels))))

    return graph


def _torch_grouped(
    size: int, channels: int, window: int, stride: int, groups: int
) -> Callable[[Any, int, Any], Callable[[], Any]]:
    def peer(torch: Any, n: int, dtype: Any) -> Callable[[], Any]:
        layer = torch.nn.Conv2d(
            channels, channels, window, stride, window // 2, groups=groups, device="cuda", dtype=dtype
        ).to(memory_format=torch.channels_last)
        x = torch.randn(n, channels, size, size, device="cuda", dtype=dtype).to(memory_format=torch.channels_last)
        return lambda: torch.relu(layer(x))

    return peer


# -- attention --------------------------------------------------------------------------------------------------------
ATTENTIONS = [(128, 64, False), (512, 64, False), (2048, 64, True), (1024, 128, True)]  # tokens, depth, causal


def _attention(length: int, depth: int, causal: bool) -> Callable[[], Any]:
    def graph() -> Any:
        b = _builder()
        return b.build(b.attention(*(b.input(n, "f32", ("N", 12, length, depth)) for n in "qkv"), causal=causal))

    return graph


def _torch_attention(length: int, depth: int, causal: bool) -> Callable[[Any, int, Any], Callable[[], Any]]:
    def peer(torch: Any, n: int, dtype: Any) -> Callable[[], Any]:
        q, k, v = (torch.randn(n, 12, length, depth, device="cuda", dtype=dtype) for _ in range(3))
        return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return peer


# -- models -----------------------------------------------------------------------------------------------------------
def _resnet50() -> Any:
    import keras

    import fusewright as fw

    keras.utils.set_random_seed(1)
    return fw.import_model(keras.applications.ResNet50(weights=None))


def _torch_resnet50(torch: Any, n: int, dtype: Any) -> Callable[[], Any]:
    import torchvision

    model = torchvision.models.resnet50().cuda().eval().to(dtype).to(memory_format=torch.channels_last)
    x = torch.randn(n, 3, 224, 224, device="cuda", dtype=dtype).to(memory_format=torch.channels_last)
    return lambda: model(x)


def _encoder(layers: int, width: int, heads: int, length: int) -> Callable[[], Any]:
    """The encoder of BERT: post-norm blocks over vectors."""

    def graph() -> Any:
        b = _builder()
        x = b.input("x", "f32", ("N", length, width))
        for _ in range(layers):
            split = lambda v: b.transpose(b.reshape(v, shape=("N", length, heads, width // heads)), perm=(0, 2, 1, 3))
            q, k, v = (split(b.add(b.matmul(x, weights(width, width)), weights(width))) for _ in range(3))
            mixed = b.attention(q, k, v, scale=float((width // heads) ** -0.5))
            mixed = b.reshape(b.transpose(mixed, perm=(0, 2, 1, 3)), shape=("N", length, width))
            y = b.add(x, b.add(b.matmul(mixed, weights(width, width)), weights(width)))
            y = b.layer_norm(y, weights(width) + 1, weights(width), axes=-1)
            z = b.gelu(b.add(b.matmul(y, weights(width, 4 * width)), weights(4 * width)))
            z = b.add(y, b.add(b.matmul(z, weights(4 * width, width)), weights(width)))
            x = b.layer_norm(z, weights(width) + 1, weights(width), axes=-1)
        return b.build(x)

    return graph


def _torch_encoder(torch: Any, n: int, dtype: Any) -> Callable[[], Any]:
    layer = torch.nn.TransformerEncoderLayer(768, 12, 3072, activation="gelu", batch_first=True)
    model = torch.nn.TransformerEncoder(layer, 12).cuda().eval().to(dtype)
    x = torch.randn(n, 128, 768, device="cuda", dtype=dtype)
    return lambda: model(x)


def _lstm() -> Any:
    import keras

    import fusewright as fw

    keras.utils.set_random_seed(1)
    inputs = keras.Input((64, 256))
    x = keras.layers.LSTM(256, return_sequences=True)(inputs)
    return fw.import_model(keras.Model(inputs, keras.layers.LSTM(256)(x)))


def _torch_lstm(torch: Any, n: int, dtype: Any) -> Callable[[], Any]:
    model = torch.nn.LSTM(256, 256, 2, batch_first=True).cuda().eval().to(dtype)
    x = torch.randn(n, 64, 256, device="cuda", dtype=dtype)
    return lambda: model(x)[0]


BOTH = ("strict", "fast")
BIG = 16384  # rows of 4096 floats: 256 MiB, far beyond any cache
CASES: list[Case] = [
    Case("add", "memory", _add, 33, (BIG,), _torch_rows(lambda t, x, y: x + y, WIDTH), 0.85, jax=gpu_peers.add),
    Case("gelu chain", "memory", _chain, 33, (BIG,), _torch_rows(_gelu_chain, WIDTH), 0.85),
    Case(
        "softmax 1024",
        "memory",
        _softmax,
        33,
        (65536,),
        _torch_rows(lambda t, x, y: x.softmax(-1), 1024),
        0.75,
        jax=gpu_peers.softmax,
    ),
    Case(
        "layer norm 1024",
        "memory",
        _layer_norm,
        33,
        (65536,),
        _torch_rows(_torch_norm, 1024),
        0.75,
        jax=gpu_peers.layer_norm,
    ),
    Case("row sum 4096", "memory", _row_sum, 33, (BIG,), _torch_rows(lambda t, x, y: x.sum(-1), WIDTH), 0.75),
    Case("transpose 512x768", "memory", _transpose, 2, (128,), None, 0.75),
    Case("embedding 768", "memory", _embedding, 2, (512,), None, 0.5),
    *(
        Case(
            f"dense {k}x{m}",
            "matrix",
            _dense(k, m),
            33,
            sizes,
            _torch_dense(k, m),
            bar,
            BOTH,
            gpu_peers.dense(k, m),
            exact,
        )
        for k, m, sizes, bar, exact in (
            (768, 768, (1, 128, 512), 0.9, 0.9),
            (768, 3072, (1, 128, 512), 0.9, 0.9),
            (4096, 4096, (4096, 8192), 0.55, 1.3),
        )
    ),
    # Weights are read once for few rows: bandwidth is the floor.
    *(
        Case(
            f"few rows, dense {k}x{m}",
            "matrix",
            _dense(k, m),
            3,
            (1, 16),
            _torch_dense(k, m),
            0.9,
            BOTH,
            gpu_peers.dense(k, m),
        )
        for k, m in ((4096, 4096), (1024, 16384))
    ),
    *(
        Case(
            f"conv {s} {i}->{o} {w}/{t}",
            "conv",
            _conv(s, i, o, w, t),
            1,
            (1, 32),
            _torch_conv(s, i, o, w, t),
            0.6,
            BOTH,
            gpu_peers.conv(s, i, o, w, t),
        )
        for s, i, o, w, t in CONVS
    ),
    *(
        Case(
            f"conv {s} {c} {w}/{t} in {g} groups",
            "conv",
            _grouped(s, c, w, t, g),
            1,
            (1, 32),
            _torch_grouped(s, c, w, t, g),
            0.9 if c == g else 0.6,
        )
        for s, c, w, t, g in GROUPED
    ),
    *(
        Case(
            f"attention 12 heads of {d}, {t} tokens{', causal' if causal else ''}",
            "attention",
            _attention(t, d, causal),
            1,
            (1, 8),
            _torch_attention(t, d, causal),
            0.6,
            BOTH,
            gpu_peers.attention(12, t, d, causal),
            1.0,
        )
        for t, d, causal in ATTENTIONS
    ),
    Case("ResNet50", "model", _resnet50, 1, (1, 8, 32), _torch_resnet50, 1.0, BOTH),
    Case(
        "BERT-base encoder, 128 tokens",
        "model",
        _encoder(12, 768, 12, 128),
        1,
        (1, 8, 32),
        _torch_encoder,
        1.0,
        BOTH,
        gpu_peers.encoder(12, 768, 12, 128),
    ),
    Case("LSTM 2x256, 64 steps", "model", _lstm, 2, (1, 32), _torch_lstm, 1.0),
]
