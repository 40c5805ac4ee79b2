"""Fixtures of the tests of `search`."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sensitivity.search.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """A new database."""
    with Store.open(tmp_path / "study.db") as opened:
        yield opened
