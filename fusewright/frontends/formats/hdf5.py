"""HDF5 from untrusted files, over pyfive.

Owns the checks before pyfive allocates or follows anything, and zero-copy reads of contiguous arrays.
Must not know what the groups mean.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np

from ...core.errors import ImportRefused, MissingDependency
from .filebytes import Stream
from .limits import DEFAULT, MIB, ImportLimits

try:
    import pyfive
except ImportError:  # reported when a file needs it: the base install reads bundles only
    pyfive = None

# An attribute of a type that it cannot read is None to us; to print a warning it would open source files.
warnings.filterwarnings("ignore", module=r"pyfive\.")

MAGIC = b"\x89HDF\r\n\x1a\n"
_EXTERNAL = 0x0007
_UNDEFINED = (1 << 64) - 1
_FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32"}
T = TypeVar("T")


class _Metered(Stream):
    """A stream that ends a parse which reads far more than the file holds: looping trees, repeated headers."""

    def __init__(self, data: memoryview, where: str) -> None:
        super().__init__(data)
        self._where = where
        self._calls = 400_000 + len(data) // 16
        self._bytes = 64 * MIB + 6 * len(data)

    def read(self, size: int | None = -1) -> bytes:
        out = super().read(size)
        self._calls -= 1
        self._bytes -= len(out)
        if self._calls < 0 or self._bytes < 0:
            raise ImportRefused("malformed", self._where, "the HDF5 structure refers to itself without end")
        return out


@contextmanager
def _guarded(where: str) -> Iterator[None]:
    """Every fault of the parser becomes one typed refusal: on damaged bytes pyfive raises a dozen types."""
    try:
        yield
    except (ImportRefused, MissingDependency):
        raise
    except Exception as e:
        raise ImportRefused("malformed", where, f"the HDF5 data is damaged: {type(e).__name__}: {e}") from None


def _bounded_attr_value(header: Any, ptype: Any, data: Any, count: int, offset: int) -> Any:
    """pyfive's reading of an attribute's elements, which makes room for as many as the file claims.

    Each takes a byte at least, so that more than there are bytes is a lie.
    """
    if count > len(data):
        raise ValueError(f"an attribute claims {count} elements in {len(data)} bytes")
    return type(header)._attr_value(header, ptype, data, count, offset)


def _open(stream: _Metered) -> Any:
    """The root group. Every object header that it hands out reads attributes with a bound."""

    class Bounded(pyfive.File):  # type: ignore[misc, name-defined]
        def _get_dataobjects(self, address: int) -> Any:
            found = super()._get_dataobjects(address)
            found._attr_value = partial(_bounded_attr_value, found)
            return found

    return Bounded(stream)


class H5File:
    """A read-only HDF5 file. Paths are relative to the root, ``/`` separated. No link is followed out of the file."""

    def __init__(self, data: memoryview, where: str, limits: ImportLimits = DEFAULT) -> None:
        if pyfive is None:
            raise MissingDependency("reading HDF5 needs pyfive: pip install 'fusewright[compile]'")
        self._data, self.where, self._limits = data, where, limits
        self._objects: dict[str, Any] = {}
        with _guarded(where):
            self._root = _open(_Metered(data, where))

    def _get(self, path: str) -> Any | None:
        """The pyfive object at ``path``, or None. Soft links are refused, not followed."""
        if not path:
            return self._root
        if path in self._objects:
            return self._objects[path]
        parts = path.split("/")
        self._limits.check("hdf5_depth", len(parts), self.where, "the group depth")
        self._limits.check("hdf5_objects", len(self._objects), self.where, "the number of objects")
        parent = self._get("/".join(parts[:-1]))
        found = None
        if isinstance(parent, pyfive.Group):
            with _guarded(f"{self.where}:{path}"):
                target = parent._links.get(parts[-1])
                if isinstance(target, str):
                    raise ImportRefused("unsafe-link", f"{self.where}:{path}", "a soft link; links are not followed")
                if target is not None:
                    self._check_header(self._root._get_dataobjects(target), path)
                    found = parent.get_lazy_view(parts[-1])
        self._objects[path] = found
        return found

    def _check_header(self, header: Any, path: str) -> None:
        at = f"{self.where}:{path}"
        if header.find_msg_type(_EXTERNAL):
            raise ImportRefused("unsafe-link", at, "the dataset keeps its data in another file; that is not followed")
        if not header.is_dataset:
            return
        layout = header.get_id_storage_params()[1]
        if layout not in (0, 1, 2):
            raise ImportRefused("unsupported-format", at, "virtual datasets are not supported")
        for entry in header.filter_pipeline or ():
            if entry["filter_id"] not in _FILTERS:
                raise ImportRefused("unsupported-format", at, f"HDF5 filter {entry['filter_id']} is not supported")
        shape, dtype = header.shape, self._dtype(header, at)
        if shape is None:
            raise ImportRefused("malformed", at, "the dataset has no dataspace")
        self._limits.check_shape(shape, dtype.itemsize, len(self._data), at)
        if layout == 2:
            self._limits.check_shape(header.chunks, dtype.itemsize, len(self._data), at)

    def _dtype(self, header: Any, at: str) -> np.dtype[Any]:
        ptype = header.ptype
        dtype = getattr(ptype, "dtype", None)
        if not isinstance(dtype, np.dtype) or not getattr(ptype, "is_atomic", True) or dtype.kind not in "fiubSV":
            raise ImportRefused("unsupported-format", at, "element type is not a plain number")
        return dtype

    def _group(self, path: str) -> Any | None:
        found = self._get(path)
        return found if isinstance(found, pyfive.Group) else None

    def has_group(self, path: str) -> bool:
        """Is there a group at ``path``?"""
        return self._group(path) is not None

    def members(self, path: str) -> tuple[str, ...]:
        """Names in the group, in the file's order; empty when there is no such group."""
        group = self._group(path)
        return tuple(group._links) if group is not None else ()

    def attrs(self, path: str) -> dict[str, Any]:
        """Attributes of the object at ``path`` (empty when absent)."""
        found = self._get(path)
        if found is None:
            return {}
        return self._run(path, lambda: dict(found.attrs))

    def attr_text(self, path: str, name: str) -> str | None:
        """A string attribute, or None."""
        value = self.attrs(path).get(name)
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.reshape(-1)[0]
        if isinstance(value, bytes):
            return self._run(path, lambda: value.decode("utf-8"))
        return value if isinstance(value, str) else None

    def attr_names(self, path: str, name: str) -> tuple[str, ...] | None:
        """A list of strings, joined from its chunks ``name0``, ``name1``... where Keras split it; None when absent."""
        attrs = self.attrs(path)
        if name in attrs:
            values = [attrs[name]]
        else:
            values = []
            while f"{name}{len(values)}" in attrs:
                values.append(attrs[f"{name}{len(values)}"])
            if not values:
                return None
        out: list[str] = []
        for value in values:
            for item in (
                np.asarray(value, dtype=object).reshape(-1) if isinstance(value, np.ndarray) else _listed(value)
            ):
                text = self._run(path, lambda i=item: i.decode("utf-8") if isinstance(i, bytes) else i)  # type: ignore[misc]
                if not isinstance(text, str):
                    raise ImportRefused(
                        "malformed", f"{self.where}:{path}", f"attribute {name!r} is not a list of names"
                    )
                self._limits.check_name(text, f"{self.where}:{path}")
                out.append(text)
        self._limits.check("nodes", len(out), f"{self.where}:{path}", f"the length of {name!r}")
        return tuple(out)

    def _run(self, path: str, what: Callable[[], T]) -> T:
        with _guarded(f"{self.where}:{path}"):
            return what()

    def array(self, path: str) -> np.ndarray:
        """The dataset at ``path``, read-only; a view of the file's bytes where it is stored contiguously."""
        at = f"{self.where}:{path}"
        found = self._get(path)
        if not isinstance(found, pyfive.Dataset):
            raise ImportRefused("malformed", at, "there is no such dataset")
        with _guarded(at):
            out = self._read(found, at)
        if out.dtype.kind not in "fiub" or out.dtype.itemsize > 8:
            raise ImportRefused("unsupported-format", at, f"element type {out.dtype} is not supported")
        if not out.dtype.isnative:
            out = out.astype(out.dtype.newbyteorder("="))
        out.flags.writeable = False
        return out

    def _read(self, found: Any, at: str) -> np.ndarray:
        shape = tuple(int(d) for d in found.shape)
        dtype = np.dtype(found.id._ptype.dtype)
        size = self._limits.check_shape(shape, dtype.itemsize, len(self._data), at)
        bf16 = self._is_bf16(found)
        if bf16 and dtype.itemsize == 2:
            dtype = np.dtype("<u2")
        if found.id.layout_class == 1 and found.id.data_offset != _UNDEFINED and dtype.kind in "fiub" and not bf16:
            start = int(found.id.data_offset)
            if size == 0:
                return np.zeros(shape, dtype)
            if start + size > len(self._data):
                raise ImportRefused("malformed", at, "the array passes the end of the file")
            return np.frombuffer(self._data[start : start + size], dtype).reshape(shape)
        if found.id.layout_class == 2:
            stored = sum(int(chunk.size) for chunk in found.id.index.values())
            if size > max(stored, 1) * self._limits.hdf5_ratio:
                raise ImportRefused(
                    "limit",
                    at,
                    f"{size} bytes from {stored} stored, over the limit hdf5_ratio={self._limits.hdf5_ratio}",
                    "raise ImportLimits.hdf5_ratio",
                )
            self._check_inflation(found, at)
        out = np.asarray(found[()])
        if bf16:
            bits = out.view(np.uint16) if out.dtype.itemsize == 2 else None
            if bits is None:
                raise ImportRefused("unsupported-format", at, "a bfloat16 array is not stored as 16 bits")
            return (bits.astype(np.uint32) << 16).view(np.float32).reshape(shape)
        return out.reshape(shape)

    @staticmethod
    def _is_bf16(found: Any) -> bool:
        mark = found.attrs.get("dtype") if found.id.layout_class in (0, 1, 2) else None
        return mark in ("bfloat16", b"bfloat16")

    def _check_inflation(self, found: Any, at: str) -> None:
        """A chunk may not be declared larger than what it stores could inflate to."""
        chunk = int(np.prod([int(d) for d in found.chunks], dtype=object)) * int(found.dtype.itemsize)
        for info in found.id.index.values():
            if info.byte_offset + info.size > len(self._data):
                raise ImportRefused("malformed", at, "a chunk passes the end of the file")
            if chunk > max(int(info.size), 1) * self._limits.hdf5_ratio:
                raise ImportRefused(
                    "limit", at, "a chunk inflates past the limit hdf5_ratio", "raise ImportLimits.hdf5_ratio"
                )
            if any(f["filter_id"] == 1 for f in found.id.filter_pipeline or ()):
                packed = self._data[info.byte_offset : info.byte_offset + info.size]
                # pyfive inflates without a bound; a stream that holds more than its chunk is stopped here.
                if len(zlib.decompressobj().decompress(packed, chunk + 16)) > chunk + 8:
                    raise ImportRefused("malformed", at, "a chunk inflates to more than its declared size")


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
