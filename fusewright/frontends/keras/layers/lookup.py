"""IntegerLookup: numbers to the places of a vocabulary and back.

Owns the search. Lookups of strings are refused. Must not know models.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ....core.dtypes import I32, I64
from ....ir.graph import Value
from ..call import Call, layer


def _vocabulary(c: Call) -> np.ndarray:
    found = c.config.get("vocabulary")
    if isinstance(found, dict):  # a serialised array
        inner = found.get("config")
        found = inner.get("value") if isinstance(inner, dict) else None
    if not isinstance(found, (list, tuple)) or not all(type(v) is int for v in found):
        raise c.refuse("the vocabulary is not in the config", "give it to the layer: IntegerLookup(vocabulary=[...])")
    if c.config.get("max_tokens") is not None and len(found) > int(c.config["max_tokens"]):
        raise c.refuse("the vocabulary is larger than max_tokens")
    return np.asarray(found, np.int64)


def search(c: Call, x: Value, keys: np.ndarray, places: np.ndarray, missing: Value) -> Value:
    """``places[i]`` where x equals ``keys[i]`` (no key twice), else ``missing``: a binary search, half by half."""
    b, order = c.b, np.argsort(keys)
    if not len(keys):
        return missing
    ordered, count = b.constant(keys[order]), len(keys)
    at = b.full(x.shape, 0, I32)
    half = 1 << max(count - 1, 0).bit_length()
    while half:
        next_ = b.minimum(b.add(at, half), count - 1)
        at = b.where(b.le(b.gather(ordered, next_, axis=0), x), next_, at)
        half //= 2
    found = b.eq(b.gather(ordered, at, axis=0), x)
    return b.where(found, b.gather(b.constant(places[order]), at, axis=0), missing)


@layer("IntegerLookup", autocast=False)
def _lookup(c: Call, x: Value) -> Any:
    b, words = c.b, _vocabulary(c)
    mode, hashes = str(c.get("output_mode", "int")), c.integer("num_oov_indices", 1, low=0)
    mask = c.config.get("mask_token")
    for key, bad in (("sparse", True), ("idf_weights", None)):
        if c.config.get(key) not in (None, False) and (bad is True or mode == "tf_idf"):
            raise c.refuse(f"{key} is not supported")
    if (
        str(c.get("vocabulary_dtype", "int64")) not in ("int64", "int32")
        or c.get("oov_method", "floormod") != "floormod"
    ):
        raise c.refuse("only integer vocabularies with floormod are supported")
    specials = [] if mask is None or mode != "int" and not c.flag("invert") else [int(mask)]
    first = len(specials)
    if mask is not None and len(words) and int(words[0]) == int(mask):
        raise c.refuse("a vocabulary that lists its mask token is not supported")
    v = c.cast(x, I64)
    if c.flag("invert"):
        tokens = np.concatenate([np.asarray(specials, np.int64), np.full(hashes, int(c.get("oov_token", -1))), words])
        return search(c, v, np.arange(len(tokens)), tokens, b.constant(int(c.get("oov_token", -1)), I64))
    if hashes == 0:
        raise c.refuse("num_oov_indices=0 makes unknown numbers an error at run time", "allow one")
    keys = np.concatenate([np.asarray(specials, np.int64), words])
    places = np.concatenate([np.arange(first), np.arange(len(words)) + first + hashes]).astype(np.int64)
    unknown = b.constant(first, I64) if hashes == 1 else b.add(b.mod(v, hashes), first)
    found = search(c, v, keys, places, b.broadcast_to(unknown, shape=v.shape))
    if mode == "int":
        return found
    depth = first + hashes + len(words)
    if c.flag("pad_to_max_tokens") and c.config.get("max_tokens"):
        depth = int(c.config["max_tokens"])
    if mode not in ("one_hot", "multi_hot", "count"):
        raise c.refuse(f"output_mode={mode!r} is not supported")
    if mode == "one_hot" and found.shape[-1] == 1 and found.rank > 1:
        found = b.reshape(found, shape=found.shape[:-1])
    line = b.iota(shape=(depth,), axis=0, dtype=I64)
    hot = b.eq(b.reshape(found, shape=(*found.shape, 1)), line)
    if mask is not None:
        if mode == "one_hot":
            raise c.refuse("a mask token with one_hot is not supported")
        hot = b.logical_and(hot, b.reshape(b.ne(v, int(mask)), shape=(*v.shape, 1)))  # masked numbers are left out
    rows = b.cast(hot, to=I64)
    if mode == "one_hot" or found.rank < 2:
        return rows
    return (b.reduce_max if mode == "multi_hot" else b.reduce_sum)(rows, axes=(rows.rank - 2,))
