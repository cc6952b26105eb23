"""The manifest of a bundle: `manifest.json`.

Owns its schema, canonical JSON and validation, and the Signature that users see.
Must not know how the container is laid out or how a call is made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from . import dims
from .dtypes import DTYPES, DType
from .errors import BundleRefused, FusewrightError

FORMAT = "fusewright-bundle"
VERSION = 1
BLOCK = 1 << 20
RUN_TIME = "run-time-extents"
FEATURES_KNOWN: frozenset[str] = frozenset({RUN_TIME})  # names that "requires" may hold in this version

_KEYS = {
    "format", "version", "producer", "requires", "signature", "symbols", "batch", "targets", "numerics", "source_hash",
    "passes", "threads", "tuned", "members",
}  # fmt: skip


class Port:
    """One input or output: ``name``, ``dtype`` and ``shape`` (ints and texts such as ``"N"`` or ``"2*N"``)."""

    __slots__ = ("name", "dtype", "shape")

    def __init__(self, name: str, dtype: DType, shape: Sequence[int | str]) -> None:
        self.name, self.dtype, self.shape = name, dtype, tuple(shape)

    def __repr__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(map(str, self.shape))}]"

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Port):
            return NotImplemented
        return (self.name, self.dtype, self.shape) == (other.name, other.dtype, other.shape)

    def __hash__(self) -> int:
        return hash((self.name, self.dtype, self.shape))

    def to_json(self) -> dict[str, Any]:
        """The port as JSON data."""
        return {"name": self.name, "dtype": self.dtype.name, "shape": list(self.shape)}


class Signature:
    """What a bundle takes and gives: ``inputs`` and ``outputs`` are tuples of Port, in the order of positions.

    ``bounds`` gives the greatest value of each symbol that a call finds out while it runs, as an extent.
    """

    __slots__ = ("inputs", "outputs", "bounds")

    def __init__(
        self, inputs: Sequence[Port], outputs: Sequence[Port], bounds: Mapping[str, int | str] | None = None
    ) -> None:
        self.inputs, self.outputs, self.bounds = tuple(inputs), tuple(outputs), dict(bounds or {})

    def __repr__(self) -> str:
        most = ", ".join(f"{name} <= {high}" for name, high in self.bounds.items())
        where = f" where {most}" if most else ""
        return f"({', '.join(map(str, self.inputs))}) -> ({', '.join(map(str, self.outputs))}){where}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Signature) and (self.inputs, self.outputs) == (other.inputs, other.outputs)

    def __hash__(self) -> int:
        return hash((self.inputs, self.outputs))


class Symbol:
    """A symbolic extent: any value from ``low`` to ``high`` (None: no bound). ``low == high`` fixes it."""

    __slots__ = ("name", "low", "high")

    def __init__(self, name: str, low: int = 0, high: int | None = None) -> None:
        self.name, self.low, self.high = name, low, high

    def __repr__(self) -> str:
        return f"Symbol({self.name!r}, {self.low}, {self.high})"


class RunSymbol:
    """A symbol that a call finds out while it runs: from ``low`` to ``high``, an extent over the other symbols."""

    __slots__ = ("name", "low", "high")

    def __init__(self, name: str, low: int, high: int | str) -> None:
        self.name, self.low, self.high = name, low, high

    def __repr__(self) -> str:
        return f"RunSymbol({self.name!r}, {self.low}, {self.high!r})"


class Target:
    """A native target in the bundle: ``features`` the CPU must have; ``memory`` its peak of live bytes, as text."""

    __slots__ = ("name", "features", "memory")

    def __init__(self, name: str, features: Sequence[str], memory: str = "0") -> None:
        self.name, self.features, self.memory = name, tuple(features), memory


class Manifest:
    """Everything that a loader must know before it touches another member."""

    __slots__ = (
        "producer", "signature", "symbols", "batch", "targets", "numerics", "source_hash", "passes", "threads",
        "tuned", "members", "run_symbols", "choices",
    )  # fmt: skip

    def __init__(
        self,
        signature: Signature,
        symbols: Sequence[Symbol] = (),
        batch: str | None = None,
        targets: Sequence[Target] = (),
        numerics: str = "strict",
        source_hash: str = "",
        passes: Sequence[str] = (),
        threads: int | None = None,
        tuned: bool = False,
        producer: str = "fusewright",
        run_symbols: Sequence[RunSymbol] = (),
    ) -> None:
        """``batch`` is the symbol in which every output is row-independent (axis 0 everywhere), or None."""
        self.producer, self.signature, self.symbols = producer, signature, tuple(symbols)
        self.batch, self.targets, self.numerics = batch, tuple(targets), numerics
        self.source_hash, self.passes, self.threads, self.tuned = source_hash, tuple(passes), threads, tuned
        self.members: dict[str, dict[str, Any]] = {}
        self.run_symbols = tuple(run_symbols)
        self.choices: tuple[dict[str, Any], ...] = ()

    def to_bytes(self) -> bytes:
        """Canonical JSON."""
        symbols = [{"name": s.name, "low": s.low, "high": s.high} for s in self.symbols]
        targets = [{"name": t.name, "features": list(t.features), "memory": t.memory} for t in self.targets]
        ports = {
            "inputs": [p.to_json() for p in self.signature.inputs],
            "outputs": [p.to_json() for p in self.signature.outputs],
        }
        found = [{"name": s.name, "low": s.low, "high": s.high} for s in self.run_symbols]
        return canonical(
            {
                **({"run_symbols": found} if found else {}),
                **({"x_choices": list(self.choices)} if self.choices else {}),
                "format": FORMAT,
                "version": VERSION,
                "producer": self.producer,
                "requires": [RUN_TIME] if found else [],
                "signature": ports,
                "symbols": symbols,
                "batch": None if self.batch is None else {"symbol": self.batch, "row_independent": True},
                "targets": targets,
                "numerics": self.numerics,
                "source_hash": self.source_hash,
                "passes": list(self.passes),
                "threads": self.threads,
                "tuned": self.tuned,
                "members": self.members,
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Manifest:
        """Read and validate. Raises BundleRefused for anything that this version cannot honour."""
        raw = parse_canonical(data, "manifest.json")
        if not isinstance(raw, dict) or raw.get("format") != FORMAT:
            raise BundleRefused("manifest.json does not describe a Fusewright bundle")
        version = raw.get("version")
        if type(version) is not int or version < 1:
            raise BundleRefused(f"manifest.json: bad format version {version!r}")
        if version > VERSION:
            raise BundleRefused(
                f"the bundle has format version {version}, this Fusewright reads up to {VERSION}: upgrade it"
            )
        known = _KEYS | {"run_symbols"}
        unknown = [k for k in raw if k not in known and not k.startswith("x_")]
        missing = sorted(_KEYS - raw.keys())
        if unknown or missing:
            raise BundleRefused(f"manifest.json: unknown keys {unknown}, missing keys {missing}")
        try:
            return cls._of(raw)
        except (KeyError, TypeError, ValueError, AttributeError, FusewrightError) as e:
            if isinstance(e, BundleRefused):
                raise
            raise BundleRefused(f"manifest.json is malformed: {type(e).__name__}: {e}") from None

    @classmethod
    def _of(cls, raw: Mapping[str, Any]) -> Manifest:
        needs = [f for f in raw["requires"] if f not in FEATURES_KNOWN]
        if needs:
            raise BundleRefused(
                f"the bundle requires {', '.join(map(str, needs))}, unknown to this Fusewright: upgrade it"
            )
        ins, outs = ([_port(p) for p in raw["signature"][side]] for side in ("inputs", "outputs"))
        symbols = [Symbol(_text(s["name"]), _size(s["low"]), _optional(s["high"])) for s in raw["symbols"]]
        targets = [
            Target(_text(t["name"]), [_text(f) for f in t["features"]], _text(t["memory"])) for t in raw["targets"]
        ]
        batch = raw["batch"]
        out = cls(
            Signature(ins, outs),
            symbols,
            _text(batch["symbol"]) if batch is not None and batch["row_independent"] is True else None,
            targets,
            _text(raw["numerics"]),
            _text(raw["source_hash"]),
            [_text(p) for p in raw["passes"]],
            _optional(raw["threads"]),
            raw["tuned"] is True,
            _text(raw["producer"]),
            [RunSymbol(_text(s["name"]), _size(s["low"]), _extent(s["high"])) for s in raw.get("run_symbols", ())],
        )
        out.choices = tuple(_choice(c) for c in raw.get("x_choices", ()))
        out.members = {_text(k): _member(v) for k, v in raw["members"].items()}
        out.verify()
        return out

    def verify(self) -> None:
        """Names unique, every symbol declared, bounds ordered. Raises BundleRefused."""
        self.signature.bounds = {s.name: s.high for s in self.run_symbols}
        for what, names in (
            ("input", [p.name for p in self.signature.inputs]),
            ("output", [p.name for p in self.signature.outputs]),
            ("symbol", [s.name for s in self.symbols] + [s.name for s in self.run_symbols]),
            ("target", [t.name for t in self.targets]),
        ):
            if len(set(names)) != len(names):
                raise BundleRefused(f"manifest: a name of {what}s occurs twice in {names}")
        declared = {s.name for s in self.symbols}
        for r in self.run_symbols:
            if isinstance(r.high, str) and not declared.issuperset(dims.symbols(dims.parse(r.high))):
                raise BundleRefused(f"manifest: the bound of {r.name} has an undeclared symbol in {r.high!r}")
        given = declared | {r.name for r in self.run_symbols}
        for ports, known in ((self.signature.inputs, declared), (self.signature.outputs, given)):
            for port in ports:
                for d in port.shape:
                    if isinstance(d, str) and not known.issuperset(dims.symbols(dims.parse(d))):
                        raise BundleRefused(f"manifest: {port} has an undeclared symbol in {d!r}")
        for s in self.symbols:
            if s.high is not None and s.high < s.low:
                raise BundleRefused(f"manifest: symbol {s.name} has no value from {s.low} to {s.high}")
        if self.batch is not None:
            axes = [p.shape[:1] for p in self.signature.inputs + self.signature.outputs]
            fixed = [s.low for s in self.symbols if s.name == self.batch and s.low == s.high]  # spelt out in ports
            if self.batch not in declared or any(a not in ((self.batch,), tuple(fixed)) for a in axes) or () in axes:
                raise BundleRefused(f"manifest: batch symbol {self.batch!r} is not axis 0 of every input and output")


def canonical(data: Any) -> bytes:
    """Sorted keys, no spaces, ASCII, no floats."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False).encode("ascii")


def parse_canonical(data: bytes, what: str) -> Any:
    """Data of canonical JSON; any other spelling (duplicate keys, floats, spaces) is refused."""
    try:
        raw = json.loads(data, parse_float=_no_float, parse_constant=_no_float)
        same = canonical(raw) == data
    except (ValueError, RecursionError) as e:
        raise BundleRefused(f"{what} is not canonical JSON: {e}") from None
    if not same:
        raise BundleRefused(f"{what} is not canonical JSON (duplicate or unsorted keys, or spaces)")
    return raw


def _no_float(text: str) -> Any:
    raise ValueError(f"number {text} is not an integer")


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _size(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"{value!r} is not a size")
    return value


def _extent(value: Any) -> int | str:
    return value if isinstance(value, str) else _size(value)


def _optional(value: Any) -> int | None:
    return None if value is None else _size(value)


def _port(raw: Mapping[str, Any]) -> Port:
    shape = [d if isinstance(d, str) else _size(d) for d in raw["shape"]]
    if raw["dtype"] not in DTYPES:
        raise TypeError(f"unknown element type {raw['dtype']!r}")
    return Port(_text(raw["name"]), DTYPES[raw["dtype"]], shape)


def _choice(raw: Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(raw, dict) or not all(isinstance(raw.get(k), str) for k in ("variant", "site")):
        raise TypeError(f"bad choice {raw!r}")
    return raw


def _member(raw: Mapping[str, Any]) -> dict[str, Any]:
    size = _size(raw["size"])
    kinds = [k for k in ("sha256", "tree") if k in raw]
    if len(kinds) != 1 or len(raw) != 2 or len(_text(raw[kinds[0]])) != 64:
        raise TypeError(f"bad member entry {raw!r}")
    return {"size": size, kinds[0]: raw[kinds[0]]}
