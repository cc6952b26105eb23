"""Progress of long work on a terminal.

Owns the live view that a ``progress(phase, done, total)`` callback feeds; silent where stderr is no terminal.
Must not know what the phases are.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ProgressCallback = Callable[[str, int, int], None]


@contextmanager
def on_terminal(quiet: bool = False) -> Iterator[ProgressCallback | None]:
    """A callback that draws phases on stderr, or None when ``quiet`` or stderr is not a terminal.

    rich draws it where installed; without rich one plain line is rewritten in place.
    """
    if quiet or not sys.stderr.isatty():
        yield None
        return
    try:
        # rich is optional and slow to import: only a terminal session pays for it.
        rich_console, rich_progress = importlib.import_module("rich.console"), importlib.import_module("rich.progress")
    except ImportError:
        yield from _plain()
        return
    with rich_progress.Progress(
        rich_progress.TextColumn("{task.description:<24}"),
        rich_progress.BarColumn(bar_width=30),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
        console=rich_console.Console(stderr=True),
        transient=True,
    ) as live:
        yield _rich_callback(live)


def _rich_callback(live: Any) -> ProgressCallback:
    tasks: dict[str, Any] = {}

    def progress(phase: str, done: int, total: int) -> None:
        if phase not in tasks:
            tasks[phase] = live.add_task(phase, total=max(total, 1))
        live.update(tasks[phase], completed=done, total=max(total, 1))

    return progress


def _plain() -> Iterator[ProgressCallback]:
    def progress(phase: str, done: int, total: int) -> None:
        sys.stderr.write(f"\r\x1b[K{phase} {done}/{total}")
        sys.stderr.flush()

    try:
        yield progress
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
