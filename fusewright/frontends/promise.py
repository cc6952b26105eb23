"""The promise of every importer: whatever is wrong with a model, the answer is an ImportRefused.

Owns the last line of it, behind all checks by name. Must not know any format.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ..core.errors import FusewrightError, ImportRefused, MissingDependency


@contextmanager
def refusals(where: str, what: str) -> Iterator[None]:
    """What is raised inside becomes an ImportRefused about ``what``, with the first error as its cause.

    Damage shows wherever it does its harm: a parser cannot name every type that NumPy, zlib or a live object raises.
    """
    try:
        yield
    except (ImportRefused, MissingDependency):
        raise
    except FusewrightError as e:
        raise ImportRefused("ill-typed", where, str(e)) from e
    except Exception as e:
        raise ImportRefused("malformed", where, f"{what} is not valid ({type(e).__name__}: {e})") from e


__all__ = ["refusals"]
