"""What one layer call sees while it is lowered, and the tables of lowerings.

Owns Tensor (a value and its Keras mask), Call, and the closed tables LAYERS, CELLS, OPERATIONS, REFUSED.
Must not know model structure or files.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ...core.dims import Extent
from ...core.dtypes import BOOL, F32, DType, dtype
from ...core.errors import ImportRefused, TypeRefused
from ...ir.builder import Builder
from ...ir.graph import Value
from .model import LayerSpec

if TYPE_CHECKING:
    from .lower import Lowerer


@dataclass(frozen=True, slots=True)
class Tensor:
    """A value between layers with its mask: bool of the leading axes, True where a step counts."""

    value: Value
    mask: Value | None = None

    @property
    def shape(self) -> tuple[Extent, ...]:
        return self.value.shape


MaskRule = Literal["pass", "drop"]


@dataclass(frozen=True, slots=True)
class Lowering:
    """A layer's lowering and what becomes of the mask when the function returns plain Values."""

    fn: Callable[..., Any]
    mask: MaskRule
    autocast: bool


LAYERS: dict[str, Lowering] = {}
OPERATIONS: dict[str, Callable[..., Any]] = {}
# Cells: (call, step builder...) see layers/rnn.py.
CELLS: dict[str, Any] = {}
REFUSED: dict[str, str] = {
    "Lambda": "a Lambda layer holds Python bytecode, which is never executed",
    "TFSMLayer": "it loads another model from a path in the file",
    "TorchModuleWrapper": "it holds a pickled torch module",
    "JaxLayer": "it holds JAX code",
    "FlaxLayer": "it holds JAX code",
    "StringLookup": "strings are not supported",
    "TextVectorization": "strings are not supported",
    "Hashing": "hashing (FarmHash, SipHash) is not supported",
    "HashedCrossing": "hashing (FarmHash, SipHash) is not supported",
    "FeatureSpace": "it is not a layer of the graph",
    "DenseFeatures": "feature columns are code, not layers",
    "ContrastLimitedAdaptiveHistogramEqualization": "histograms of tiles are not supported",
    "Pipeline": "its layers are not read from the file",
}


_FUNCTION = "it holds a Python function, which a file cannot"
_COMPLEX = "complex numbers are not supported"
_VALUES = "the shape of its result depends on values"
_ITERATES = "it iterates until it converges"
_TWISTED = "resampling along computed coordinates is only there as MapCoordinates"
REFUSED_OPERATIONS: dict[str, str] = {
    **dict.fromkeys("Map Scan AssociativeScan VectorizedMap WhileLoop ForiLoop Cond Switch JVP".split(), _FUNCTION),
    **dict.fromkeys("Polar ViewAsComplex ViewAsReal Eig".split(), _COMPLEX),
    **dict.fromkeys("Bincount Histogram".split(), _VALUES),
    **dict.fromkeys("Eigh SVD Lstsq MatrixRank Pinv Qr".split(), _ITERATES),
    **dict.fromkeys(
        "AffineTransform PerspectiveTransform ElasticTransform ScaleAndTranslate SobelEdges SSIM".split(), _TWISTED
    ),
    "ISTFT": "sums of overlapping windows are not supported",
    "CTCLoss": "it is a loss that only training needs",
    "CTCDecode": "beam search over sequences is not supported",
    "Argpartition": "the order inside each part is not defined",
    "Nextafter": "the next floating-point number is not an IR operation",
    "LuFactor": "its permutation differs between backends",
    "Fold": "sums of overlapping windows are not supported",
    "Ndim": "it is a number, not a tensor",
    "SegmentReduction": "it is an abstract class",
}


# What to do about a layer of REFUSED; for the others, write it with layers or register it.
HINTS: dict[str, str] = {
    **dict.fromkeys(
        ("StringLookup", "TextVectorization", "Hashing", "HashedCrossing"),
        "do it in your own code, and save a model that takes the resulting integers",
    ),
    "TFSMLayer": "import that SavedModel on its own",
    "Pipeline": "call its layers one after the other",
}


def layer(*names: str, mask: MaskRule = "drop", autocast: bool = True) -> Callable[[Callable[..., Any]], Any]:
    """Add a lowering for layer classes. ``autocast``: float inputs are cast to the layer's compute dtype first."""

    def add(fn: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            LAYERS[name] = Lowering(fn, mask, autocast)
        return fn

    return add


def operation(*names: str) -> Callable[[Callable[..., Any]], Any]:
    """Add a lowering for ``keras.ops`` classes: ``fn(call, *args, **kwargs)`` with the node's own arguments."""

    def add(fn: Callable[..., Any]) -> Callable[..., Any]:
        for name in names:
            OPERATIONS[name] = fn
        return fn

    return add


def policy_dtypes(config: Any) -> tuple[str, str]:
    """(compute, variable) dtype names of a dtype policy in any dialect."""
    if isinstance(config, dict):
        inner = config.get("config")
        # A quantised policy computes in the type of the one that it was made from.
        config = inner.get("name", inner.get("source_name")) if isinstance(inner, dict) else None
    if not isinstance(config, str):
        return "float32", "float32"
    if config.startswith("mixed_"):
        return config[len("mixed_") :], "float32"
    return config, config


class Call:
    """One call of one layer.

    ``b`` is the Builder, ``config`` the layer's config, ``masks`` the masks of the flat inputs, ``mask`` the first's;
    ``mask_of`` finds the mask of an argument, keyword arguments included.
    ``w(name)`` is a weight as a Value of the compute dtype, made once per layer however often it is called.
    """

    def __init__(
        self, lowerer: Lowerer, spec: LayerSpec, masks: Sequence[Value | None], b: Builder | None = None
    ) -> None:
        self.lowerer, self.spec, self.masks = lowerer, spec, list(masks)
        self.b: Builder = b if b is not None else lowerer.b
        self.config, self.version = spec.config, spec.version
        self.explicit_mask = False
        self.mask_of: dict[Value, Value | None] = {}
        compute, variable = policy_dtypes(spec.config.get("dtype"))
        try:
            self.dtype: DType = dtype(compute)
            self.variable_dtype: DType = dtype(variable)
        except TypeRefused:
            raise spec.refuse(f"dtype policy {spec.config.get('dtype')!r} is not supported") from None

    @property
    def mask(self) -> Value | None:
        return next((m for m in self.masks if m is not None), None)

    @property
    def weights(self) -> list[np.ndarray]:
        """The layer's arrays in Keras' order."""
        return list(self.spec.weights.values())

    def refuse(self, reason: str, hint: str = "") -> ImportRefused:
        return self.spec.refuse(reason, hint=hint)

    # -- options ----------------------------------------------------------------------------------------------------

    def get(self, key: str, default: Any = None) -> Any:
        """An option; a missing or null one is ``default``."""
        value = self.config.get(key)
        return default if value is None else value

    def flag(self, key: str, default: bool = False) -> bool:
        value = self.config.get(key)
        return default if value is None else bool(value)

    def integer(self, key: str, default: int | None = None, low: int = 1) -> int:
        value = self.config.get(key, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if type(value) is not int or value < low:
            raise self.refuse(f"{key}={value!r} is not an integer >= {low}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.config.get(key, default)
        if isinstance(value, dict):  # numbers may be written as a serialised array
            inner = value.get("config")
            value = inner.get("value") if isinstance(inner, dict) else value.get("value")
        if isinstance(value, (list, tuple)) and len(value) == 1:
            value = value[0]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.refuse(f"{key}={value!r} is not a number")
        return float(value)

    def ints(self, key: str, rank: int, default: Any = 1, low: int = 1) -> tuple[int, ...]:
        """An int or a list of ``rank`` ints."""
        value = self.get(key, default)
        out = [value] * rank if isinstance(value, int) else value
        if not isinstance(out, (list, tuple)) or len(out) != rank or any(type(v) is not int or v < low for v in out):
            raise self.refuse(f"{key}={value!r} is not {rank} integers >= {low}")
        return tuple(out)

    @property
    def channels_first(self) -> bool:
        value = self.get("data_format", "channels_last")
        if value not in ("channels_last", "channels_first"):
            raise self.refuse(f"data_format={value!r} is not known")
        return bool(value == "channels_first")

    # -- values -----------------------------------------------------------------------------------------------------

    def has(self, name: str) -> bool:
        return name in self.spec.weights

    def raw(self, name: str) -> np.ndarray:
        """A weight as the file's array. Raises ImportRefused when it is missing."""
        found = self.spec.weights.get(name)
        if found is None:
            raise ImportRefused(
                "weights", self.spec.path, f"{self.spec.class_name}: weight {name!r} is missing",
                "was the model built before it was saved?",
            )  # fmt: skip
        return found

    def w(self, name: str, shape: Sequence[Extent | None] | None = None, to: DType | None = None) -> Value:
        """A weight as a Value of dtype ``to`` (the compute dtype). ``shape`` is checked; None admits any extent."""
        array = self.raw(name)
        if shape is not None and (
            len(shape) != array.ndim or any(s is not None and s != d for s, d in zip(shape, array.shape, strict=True))
        ):
            raise ImportRefused(
                "weights",
                self.spec.path,
                f"{self.spec.class_name}: {name} has shape {array.shape}, expected {tuple(shape)}",
            )
        return self.lowerer.weight(self.spec, name, array, to or self.dtype)

    def const(self, array: Any, to: DType | None = None) -> Value:
        return self.b.constant(np.asarray(array), to or self.dtype)

    def cast(self, x: Value, to: DType) -> Value:
        return x if x.dtype is to else self.b.cast(x, to=to)

    def float(self, x: Value) -> Value:
        """``x`` as the compute dtype."""
        return self.cast(x, self.dtype)

    def to_last(self, x: Value) -> Value:
        """Channels to the last axis when the layer is channels_first."""
        return self.b.transpose(x, perm=(0, *range(2, x.rank), 1)) if self.channels_first and x.rank > 2 else x

    def from_last(self, x: Value) -> Value:
        """The inverse of ``to_last``."""
        return (
            self.b.transpose(x, perm=(0, x.rank - 1, *range(1, x.rank - 1)))
            if self.channels_first and x.rank > 2
            else x
        )

    def need_rank(self, x: Value, *ranks: int) -> Value:
        if x.rank not in ranks:
            raise self.refuse(f"takes inputs of rank {' or '.join(map(str, ranks))}, got {x.type}")
        return x

    def axis(self, value: Any, rank: int) -> int:
        """A normalised axis."""
        if type(value) is not int or not -rank <= value < rank:
            raise self.refuse(f"axis {value!r} is not inside rank {rank}")
        return value % rank

    def bool_mask(self, m: Value) -> Value:
        return m if m.dtype is BOOL else self.b.ne(m, 0)

    def expand(self, m: Value, rank: int) -> Value:
        """A mask with trailing axes of 1 up to ``rank``."""
        return m if m.rank >= rank else self.b.reshape(m, shape=(*m.shape, *([1] * (rank - m.rank))))

    def zeros(self, shape: Sequence[Extent], of: DType | None = None) -> Value:
        return self.b.full(tuple(shape), 0, of or self.dtype)


def static(c: Call, extent: Extent, what: str) -> int:
    """An extent that must be a number. Raises ImportRefused."""
    if not isinstance(extent, int):
        raise c.refuse(f"{what} must be static, it is {extent}", "give it with shapes=")
    return extent


__all__ = [
    "CELLS", "F32", "HINTS", "LAYERS", "OPERATIONS", "REFUSED", "REFUSED_OPERATIONS", "Call", "Lowering", "Tensor",
    "layer", "operation", "policy_dtypes", "static",
]  # fmt: skip
