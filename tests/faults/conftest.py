"""Where the workers of fault tests search: on a shared SQLite file, and on PostgreSQL."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sensitivity.search import loop
from sensitivity.search.spool import Spool
from sensitivity.search.store import Store

from support.fake_search import FakeEvaluator
from support.fake_workers import CANDIDATES, settings, start_worker
from support.fault_audit import kept_trials

ENGINES = ("sqlite", "postgresql")


@pytest.fixture(scope="session", autouse=True)
def warm(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Search once in this process: its forks then need not compile each statement again, which
    takes half of a worker's time.
    """
    folder = tmp_path_factory.mktemp("warm")
    with Store.open(folder / "study.db") as store:
        store.spool = Spool.of("warm", folder)
        loop.run_search(FakeEvaluator(), CANDIDATES, store, settings(budget=1))  # type: ignore[arg-type]


@pytest.fixture(params=ENGINES)
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Path | str:
    """A new, empty database of each kind: a path, or a URL."""
    if request.param == "sqlite":
        return tmp_path / "study.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[object]]:
    """The trials of a search of a budget by one worker that nothing disturbs."""
    known: dict[int, list[object]] = {}

    def trials(budget: int) -> list[object]:
        if budget not in known:
            folder = tmp_path_factory.mktemp("uninterrupted")
            worker = start_worker(folder / "study.db", folder, settings(budget))
            assert worker.wait() == 0, worker.output
            known[budget] = list(kept_trials(folder / "study.db"))
        return known[budget]

    return trials
