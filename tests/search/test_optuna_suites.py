"""Optuna's own tests of storages and samplers pass on our storage, in SQLite and PostgreSQL.

Our storage refuses one thing that Optuna's takes: to be pickled (`search.optuna_storage`).

By default the tests that add hundreds of trials run in SQLite alone, and those of samplers in
memory. `OPTUNA_SUITES=all` runs everything in both engines: 1 minute.
"""

import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._rdb import models
from optuna.testing.pytest_samplers import BasicSamplerTestCase, MultiObjectiveSamplerTestCase
from optuna.testing.pytest_storages import StorageTestCase
from sqlalchemy import text

from sensitivity.core.storage_url import parse_storage
from sensitivity.search.database import Database
from sensitivity.search.optuna_sampler import KnapsackSampler
from sensitivity.search.optuna_storage import SealedStorage, open_storage, sealed

from support.fake_search import CANDIDATES
from support.postgres import PostgresServer

TABLES = [
    table.name
    for table in reversed(models.BaseModel.metadata.sorted_tables)
    if table.name != "version_info"
]
"""Of Optuna's, those that refer to others first."""
ALL = os.environ.get("OPTUNA_SUITES") == "all"
LONG = (
    "test_get_all_studies",
    "test_get_trial",
    "test_get_all_trials",
    "test_get_all_trials_not_modified",
)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Database]:
    """One database for all tests of an engine."""
    if request.param == "sqlite":
        place: Any = tmp_path_factory.mktemp("suites") / "study.db"
    else:
        server: PostgresServer = request.getfixturevalue("postgres")
        server.start()
        place = parse_storage(server.create_database())
    with Database.open(place, shared=True) as opened:
        yield opened


@pytest.fixture(scope="module")
def backend(database: Database) -> SealedStorage:
    """Optuna's side of it."""
    return sealed(open_storage(database))


@pytest.fixture
def storage(
    database: Database, backend: SealedStorage, request: pytest.FixtureRequest
) -> BaseStorage:
    """A storage without studies, which remembers nothing."""
    if not ALL and request.node.originalname in LONG:
        pytest.skip("long: OPTUNA_SUITES=all runs it")
    with database.engine.begin() as connection:
        for table in TABLES:
            connection.execute(text(f"DELETE FROM {table}"))
    return _CachedStorage(backend)


class TestStorage(StorageTestCase):
    """The whole suite of storages."""

    def test_pickle_storage(self, storage: BaseStorage) -> None:
        """A password would be in the pickle: it is refused."""
        with pytest.raises(TypeError, match="cannot be pickled"):
            pickle.dumps(storage)


@pytest.fixture
def in_ours(backend: SealedStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies that name no storage are in our storage; else they are in memory."""
    cached = _CachedStorage(backend)
    monkeypatch.setattr("optuna.storages.get_storage", lambda given: given or cached)


@pytest.mark.usefixtures("in_ours" if ALL else "tmp_path")
class TestKnapsackSampler(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    """The suite of samplers, for ours."""

    @pytest.fixture
    def sampler(self) -> Callable[[], BaseSampler]:
        """Of a search with four groups."""
        return lambda: KnapsackSampler(CANDIDATES, seed=0)
