"""What strings on the command line mean: extents, shapes, bound values, lists of names, files of arrays.

Owns their syntax and what is said about wrong ones. Knows no command.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import numpy as np

from .core.errors import InputRefused

Dims = dict[str, Any]


class UsageError(Exception):
    """The command line itself is wrong; reported by argparse with exit code 2."""


def read_dims(items: Iterable[str]) -> Dims:
    """``["N=8", "T=1:512"]`` as ``{"N": 8, "T": (1, 512)}``."""
    dims: Dims = {}
    for item in items:
        name, equals, value = item.partition("=")
        low, colon, high = value.partition(":")
        try:
            if not (name and equals):
                raise ValueError
            dims[name] = (int(low), int(high)) if colon else int(low)
        except ValueError:
            raise UsageError(
                f"--dim {item}: expected NAME=EXTENT or NAME=LOW:HIGH, for example N=8 or N=1:512"
            ) from None
    return dims


def read_feeds(items: Iterable[str]) -> dict[str, Any]:
    """``["n=3", "w=w.npy"]`` as numbers, lists or arrays by name."""
    feeds: dict[str, Any] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not (name and equals):
            raise UsageError(f"--feed {item}: expected NAME=VALUE")
        if value.endswith(".npy"):
            feeds[name] = load_array(value)
            continue
        try:
            feeds[name] = json.loads(value)
        except json.JSONDecodeError:
            raise UsageError(
                f"--feed {item}: VALUE must be a number, true, false, a JSON list or a .npy file"
            ) from None
    return feeds


def read_shapes(items: Iterable[str]) -> dict[str, list[int | str | None]]:
    """``["x=N,?,3"]`` as ``{"x": ["N", None, 3]}``; ``x=`` is a scalar."""
    shapes: dict[str, list[int | str | None]] = {}
    for item in items:
        name, equals, text = item.rpartition("=")  # TensorFlow's names may hold "="; shapes never do
        if not (name and equals):
            raise UsageError(f"--shape {item}: expected NAME=EXTENT,EXTENT..., for example x=N,224,224,3")
        axes = [axis.strip() for axis in text.strip("[]()").split(",")] if text.strip("[]()") else []
        shapes[name] = [None if a == "?" else int(a) if a.isdecimal() else a for a in axes]
        for axis in shapes[name]:
            if isinstance(axis, str) and not axis.isidentifier():
                raise UsageError(f"--shape {item}: {axis!r} is neither a number, a symbol's name nor ?")
    return shapes


def read_names(text: str | None) -> list[str] | None:
    """``"A,B"`` as a list; None for nothing."""
    return [name for name in text.split(",") if name] if text else None


def load_array(path: str) -> Any:
    """The array of a .npy, or the mapping of an .npz. Raises InputRefused for anything else."""
    try:
        # allow_pickle stays off: an array file from elsewhere must not run code.
        return np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise InputRefused(f"{path}: no such file") from None
    except (ValueError, EOFError, OSError) as error:
        raise InputRefused(f"{path}: not a readable .npy or .npz file ({error})") from None


__all__ = ["Dims", "UsageError", "load_array", "read_dims", "read_feeds", "read_names", "read_shapes"]
