"""The one family of errors.

Owns every exception that may reach a user: each says what, where, why and what to do.
Knows nothing of graphs, files or kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class FusewrightError(Exception):
    """Base of every error that Fusewright raises on purpose.

    Any other exception that reaches a user is a bug in Fusewright.
    """


class Problem(NamedTuple):
    """One thing that is wrong: ``code`` is stable, ``where`` a layer path or node, ``hint`` what to do."""

    code: str
    where: str
    reason: str
    hint: str = ""

    def __str__(self) -> str:
        text = f"[{self.code}] {self.where}: {self.reason}" if self.where else f"[{self.code}] {self.reason}"
        return f"{text} ({self.hint})" if self.hint else text


class ImportRefused(FusewrightError):
    """A model file or object cannot be imported.

    ``code``, ``where``, ``reason`` and ``hint`` describe the first problem; ``problems`` holds all of them.
    """

    def __init__(
        self, code: str, where: str = "", reason: str = "", hint: str = "", problems: Sequence[Problem] = ()
    ) -> None:
        self.tell(problems or (Problem(code, where, reason, hint),))

    def tell(self, problems: Sequence[Problem]) -> None:
        """Take other words for the ``problems`` (at least one); what else is known of them stays."""
        self.problems = tuple(problems)
        first = self.problems[0]
        self.code, self.where, self.reason, self.hint = first.code, first.where, first.reason, first.hint
        self.args = ("\n".join(str(p) for p in self.problems),)

    @classmethod
    def of(cls, problems: Sequence[Problem]) -> ImportRefused:
        """One refusal that lists all ``problems`` (at least one)."""
        return cls(problems[0].code, problems=problems)

    def __reduce__(self) -> tuple[object, ...]:
        return (ImportRefused, (self.code, self.where, self.reason, self.hint, self.problems))


class TypeRefused(FusewrightError):
    """An operation is ill-typed: the operands' types or the attributes do not fit its signature."""


class NoSuchOp(TypeRefused, AttributeError):
    """There is no op of that name. Also an AttributeError, for whoever asks ``hasattr`` of ``fw.op`` or a builder."""


class VerifyError(FusewrightError):
    """A Graph, Program or Bundle breaks one of its invariants. ``where`` names the node."""

    def __init__(self, message: str, where: str = "") -> None:
        self.where = where
        super().__init__(message)


class ParseError(FusewrightError):
    """Text IR cannot be read; the message has the line and column."""


class RewriteError(FusewrightError):
    """A rewrite or pass is wrong as declared, does not terminate, or built an ill-typed replacement."""


class CompileRefused(FusewrightError):
    """A graph cannot be compiled for the target as asked."""


class InputRefused(FusewrightError):
    """The arrays of a call do not fit the bundle's signature, or would need more memory than allowed."""


class BundleRefused(FusewrightError):
    """A bundle file is damaged, of another version, or needs a CPU or GPU that is not here."""


class BundleNotFound(BundleRefused, FileNotFoundError):
    """There is no such bundle file. Also a FileNotFoundError, which is what programs that open files catch."""


class DeviceFailed(FusewrightError):
    """The GPU's driver refused a call or its work failed; ``code`` is the driver's number (0: ours)."""

    def __init__(self, message: str, code: int = 0) -> None:
        self.code = code
        super().__init__(message)

    def __reduce__(self) -> tuple[object, ...]:
        return (DeviceFailed, (str(self), self.code))


class SaveRefused(FusewrightError, OSError):
    """A bundle cannot be written where asked. Also an OSError, which is what programs that write files catch."""


class MissingDependency(FusewrightError):
    """An optional package is needed; the message names the extra that installs it."""
