"""Quantisation modes as dtype policies name them, and the arrays that each mode stores.

Owns that table. Must not know the IR.
"""

from __future__ import annotations

from typing import Any

_POLICIES = frozenset(
    {"QuantizedDTypePolicy", "QuantizedFloat8DTypePolicy", "Int4DTypePolicy", "GPTQDTypePolicy", "AWQDTypePolicy"}
)


def mode_of(config: dict[str, Any]) -> tuple[str, int]:
    """(mode, block size), e.g. ("int4", 128); ("", 0) for a layer that is not quantised."""
    policy = config.get("dtype")
    if not isinstance(policy, dict) or policy.get("class_name") not in _POLICIES:
        return "", 0
    inner = policy.get("config")
    text = str(inner.get("mode", "unknown")) if isinstance(inner, dict) else "unknown"
    mode, _, block = text.partition("/")
    return mode, int(block) if block.lstrip("-").isdigit() else -1


def stored_names(kind: str, config: dict[str, Any], bias: bool) -> list[tuple[str, bool]] | None:
    """What a quantised layer stores, in order; None for modes that are not known here."""
    mode, block = mode_of(config)
    if mode not in ("int8", "int4"):
        return None
    main = "embeddings" if kind == "Embedding" else "kernel"
    names = [main, *(["bias"] if bias else []), f"{main}_scale"]
    if mode == "int4" and block > 0:
        names += [f"{main}_zero", "g_idx"]
    return [(n, n == "bias") for n in names]
