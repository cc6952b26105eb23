"""JSON from untrusted files.

Owns size, depth and duplicate-key checks around the standard parser. Must not know what the JSON means.
"""

from __future__ import annotations

import json
from typing import Any

from ...core.errors import ImportRefused
from .limits import DEFAULT, ImportLimits


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    out = dict(pairs)
    if len(out) != len(pairs):
        raise ValueError("an object repeats a key")
    return out


def loads(data: bytes | str | memoryview, where: str, limits: ImportLimits = DEFAULT) -> Any:
    """The parsed value. Raises ImportRefused for anything malformed, too large or too deep."""
    limits.check("json_bytes", len(data), where, "the JSON text")
    try:
        text = data if isinstance(data, str) else bytes(data).decode("utf-8")
        value = json.loads(text, object_pairs_hook=_pairs)
    except (ValueError, RecursionError) as e:
        raise ImportRefused("malformed", where, f"not valid JSON: {e}") from None
    level: list[Any] = [value]
    depth = 0
    while level:
        depth += 1
        limits.check("json_depth", depth, where, "the JSON nesting")
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
        level = below
    return value
