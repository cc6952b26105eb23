"""The tests that ``pytest --fw-pass`` makes: one per pass, and a proof for each elementwise rule.

Owns finding passes in modules and pytest's items. The options are declared in fusewright/pytest_plugin.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from ..core.errors import InputRefused
from ..passes import Pipeline, Rewrite
from ..passes.engine.base import Pass
from .check import PassFailure, check_pass
from .prove import prove


def passes_of(wanted: str) -> list[tuple[str, Pass | Pipeline]]:
    """(name, pass) of a module, also those in its lists; ``module:name`` picks one. Raises pytest.UsageError."""
    module_name, _, name = wanted.partition(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise pytest.UsageError(f"--fw-pass {wanted}: {error}") from error
    if name:
        value = getattr(module, name, None)
        found = list(_named(name, value))
        if not found:
            raise pytest.UsageError(f"--fw-pass {wanted}: {module_name} has no pass {name!r}")
        return found
    own: dict[int, tuple[str, Pass | Pipeline]] = {}
    for attribute, value in vars(module).items():
        if not attribute.startswith("__"):
            for label, p in _named(attribute, value):
                own.setdefault(id(p), (label, p))
    if not own:
        raise pytest.UsageError(f"--fw-pass {wanted}: {module_name} has no pass")
    return list(own.values())


def _named(name: str, value: Any) -> Iterator[tuple[str, Pass | Pipeline]]:
    if isinstance(value, (Pass, Pipeline)):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for i, p in enumerate(value):
            if isinstance(p, (Pass, Pipeline)):
                yield f"{name}[{i}]", p


def items(session: Any, wanted: Sequence[str], examples: int, seed: int | None) -> list[pytest.Item]:
    """The tests for every pass wanted."""
    out: list[pytest.Item] = []
    for entry in wanted:
        module = entry.partition(":")[0]
        for name, p in passes_of(entry):
            label = f"{module}:{name}"
            out.append(PassItem.from_parent(session, name=f"check[{label}]", tested=p, examples=examples, seed=seed))
            if isinstance(p, Rewrite):
                out.append(ProofItem.from_parent(session, name=f"prove[{label}]", tested=p))
    return out


class _Item(pytest.Item):
    def reportinfo(self) -> tuple[Any, int | None, str]:
        return self.path, None, self.name


class PassItem(_Item):
    """``check_pass`` on one pass."""

    def __init__(self, *, tested: Pass | Pipeline, examples: int, seed: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tested, self.examples, self.seed = tested, examples, seed

    def runtest(self) -> None:
        report = check_pass(self.tested, self.examples, self.seed)
        self.user_properties.append(("graphs", report.examples))
        self.user_properties.append(("rewritten", report.fired))

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        return str(excinfo.value) if isinstance(excinfo.value, PassFailure) else super().repr_failure(excinfo, style)


class ProofItem(_Item):
    """``prove`` on one rule; rules that are not elementwise, or never apply, prove nothing and pass."""

    def __init__(self, *, tested: Rewrite, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.tested = tested

    def runtest(self) -> None:
        try:
            proof = prove(self.tested)
        except InputRefused as error:
            self.user_properties.append(("proof", str(error)))
            return
        self.user_properties.append(("tried", proof.tried))
        if proof.counterexample is not None:
            raise AssertionError(f"{self.tested.name} ({self.tested.numerics}): {proof.counterexample}")

    def repr_failure(self, excinfo: Any, style: Any = None) -> Any:
        return str(excinfo.value) if isinstance(excinfo.value, AssertionError) else super().repr_failure(excinfo, style)


__all__ = ["PassItem", "ProofItem", "items", "passes_of"]
