"""The order of the tests, and where their fixtures come from: `support.fixtures`, and
`support.postgres` for a PostgreSQL server.
"""

import gc

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Load the fixtures where tests run.

    The process that hands out tests to others runs none. There it would cost seconds, for which the
    others would wait.
    """
    runs_none = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if not runs_none:
        for name in ("support.fixtures", "support.postgres"):
            config.pluginmanager.import_plugin(name)


LONG_FIRST = (
    "workflows",
    "search",
    "faults",
    "cli",
    "shapes",
    "fidelity",
    "models",
    "contracts",
    "tests",
)
"""Folders whose files take longest. Short files at the end keep both processes busy until then."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run the files that take longest first."""
    places = {name: place for place, name in enumerate(LONG_FIRST)}
    items.sort(key=lambda item: places.get(item.path.parent.name, len(places)))


def pytest_collection_finish() -> None:
    """Collect garbage seldom, and only among what is new: a process that has imported torch and
    diffusers has millions of objects, and walking them takes half a second.
    """
    gc.set_threshold(100_000, 50, 100)
    gc.collect()
    gc.freeze()


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """After each file, keep what it imported and left to later files out of garbage collection."""
    if nextitem is None or nextitem.path != item.path:
        gc.collect()
        gc.freeze()
