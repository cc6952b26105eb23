"""``pytest --fw-pass package.module``: the passes of a module, property-tested without a test being written.

Owns the options only, so that pytest starts as fast without them; fusewright/testing/plugin.py makes the tests.
"""

from __future__ import annotations

from typing import Any

from . import lazy


def pytest_addoption(parser: Any) -> None:
    """Options of this plugin."""
    group = parser.getgroup("fusewright", "property tests of compiler passes")
    group.addoption(
        "--fw-pass", action="append", default=[], metavar="MODULE[:NAME]",
        help="test every rewrite, rule set, graph pass and pipeline of a module, or one of them; may be repeated",
    )  # fmt: skip
    group.addoption("--fw-examples", type=int, default=200, metavar="N", help="generated graphs per pass (200)")
    group.addoption("--fw-seed", type=int, default=None, metavar="S", help="where the search begins (0)")


def pytest_configure(config: Any) -> None:
    """Without files or folders on the command line only the passes are tested."""
    if config.getoption("fw_pass") and config.args_source is not config.ArgsSource.ARGS:
        config.args = []


def pytest_collection_modifyitems(session: Any, config: Any, items: list[Any]) -> None:
    """Add one test for each property-tested pass, and one for each proof."""
    wanted = config.getoption("fw_pass")
    if wanted:
        plugin: Any = lazy("testing.plugin")
        items += plugin.items(session, wanted, config.getoption("fw_examples"), config.getoption("fw_seed"))
