"""Fixtures of the tests of `search`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sensitivity.core.storage_url import Storage, parse_storage
from sensitivity.search.store import Store


@pytest.fixture(params=["sqlite", "postgresql"])
def shared_storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    """Where several workers work: a file that is not there yet, and an empty database."""
    if request.param == "sqlite":
        return tmp_path / "study.db"
    return parse_storage(str(request.getfixturevalue("postgres_url")))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A new database."""
    with Store.open(tmp_path / "study.db") as opened:
        yield opened
