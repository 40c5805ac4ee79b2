"""The order of the tests, and where their fixtures come from: `support.fixtures`."""

import gc

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures where tests run.

    The process that hands out tests to others runs none. There it would cost seconds, for which the
    others would wait.
    """
    runs_none = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if not runs_none:
        config.pluginmanager.import_plugin("support.fixtures")


LONG_FIRST = ("workflows", "search", "cli", "shapes", "fidelity", "models", "contracts", "tests")
"""Folders whose files take longest. Short files at the end keep both processes busy until then."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that take longest first."""
    places = {name: place for place, name in enumerate(LONG_FIRST)}
    items.sort(key=lambda item: places.get(item.path.parent.name, len(places)))


def pytest_collection_finish() -> None:
    """Keep what was imported out of garbage collection, which would walk it again and again."""
    gc.collect()
    gc.freeze()
