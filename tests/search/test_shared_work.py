"""Items of a list are done once by all workers, whoever dies on the way."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from sensitivity.core.storage_url import Storage, parse_storage
from sensitivity.fidelity.sharing import Sharing
from sensitivity.search import patience, shared_work
from sensitivity.search.claims import Claims
from sensitivity.search.database import Database
from sensitivity.search.shared_work import SharedWork
from sensitivity.search.workers import Worker

from support.forks import Forks, wait_until
from support.postgres import PostgresServer

ITEMS = [str(i) for i in range(8)]


class Folder:
    """Where all workers keep their results: a line for each time that an item was done."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def is_done(self, item: str) -> bool:
        return (self.path / item).exists()

    def do(self, item: str) -> None:
        with (self.path / item).open("a") as file:
            file.write(f"{os.getpid()}\n")

    def counts(self) -> dict[str, int]:
        return {own.name: len(own.read_text().split()) for own in self.path.iterdir()}


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty one."""
    (tmp_path / "done").mkdir()
    return Folder(tmp_path / "done")


Join = Callable[[Database], SharedWork]


@pytest.fixture
def work_of() -> Iterator[Join]:
    """Joins as a new worker, which leaves in the end, and gives its part of the work."""
    found: list[Worker] = []

    def join(database: Database) -> SharedWork:
        found.append(Worker.join(database))
        return SharedWork(Claims(database, found[-1]))

    yield join
    for own in found:
        own.leave()


def test_workers_divide_a_list(shared_storage: Storage, folder: Folder) -> None:
    """Three processes ask for the same list: each item is done once, by more than one of them."""
    Database.open(shared_storage, shared=True).close()

    def do(item: str) -> None:
        time.sleep(0.02)
        folder.do(item)

    def work() -> bool:
        with Database.open(shared_storage, shared=True) as database, Worker.join(database) as own:
            sharing: Sharing = SharedWork(Claims(database, own))
            sharing.run("s", ITEMS, is_done=folder.is_done, do=do, wait_s=0.1)
            return all(map(folder.is_done, ITEMS))

    with Forks() as forks:
        for _ in range(3):
            forks.start(work)
        assert forks.results() == [True] * 3
    assert folder.counts() == dict.fromkeys(ITEMS, 1)
    assert len({(folder.path / item).read_text() for item in ITEMS}) > 1


def test_the_item_of_a_dead_worker_is_taken_over(
    work_of: Join, shared_storage: Storage, folder: Folder
) -> None:
    """Who waits says for what and whom, and does it once its worker is killed."""

    def hang() -> None:
        SharedWork(Claims(own := Database.open(shared_storage, shared=True), Worker.join(own))).run(
            "s", ["0"], is_done=folder.is_done, do=lambda _item: signal.pause()
        )

    with Database.open(shared_storage, shared=True) as database, Forks() as forks:
        work, process, said = work_of(database), forks.start(hang), list[str]()
        wait_until(lambda: work.claims.live("s"))
        (claim,) = work.claims.live("s")

        def noted(text: str) -> None:
            said.append(text)
            forks.kill(process)

        work.run("s", ["0", "1"], is_done=folder.is_done, do=folder.do, wait_s=0.1, noted=noted)
    assert said == [f"waiting for other workers, who are at the last 1 ({claim.worker})"]
    assert folder.counts() == {"0": 1, "1": 1}


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt()])
def test_an_item_that_fails_is_free_again(
    work_of: Join, shared_storage: Storage, folder: Folder, error: BaseException
) -> None:
    """The error is raised, what was done before stays, and another worker does the rest."""

    def fails(item: str) -> None:
        if item == "3":
            raise error
        folder.do(item)

    with Database.open(shared_storage, shared=True) as database:
        work, other = work_of(database), work_of(database)
        with pytest.raises(type(error)):
            work.run("s", ITEMS, is_done=folder.is_done, do=fails)
        assert folder.counts() == dict.fromkeys(ITEMS[:3], 1)
        assert work.claims.live("s") == []
        other.run("s", ITEMS, is_done=folder.is_done, do=folder.do)
    assert folder.counts() == dict.fromkeys(ITEMS, 1)


def test_an_item_is_asked_for_again_once_it_is_claimed(
    work_of: Join, tmp_path: Path, folder: Folder
) -> None:
    """Another worker may have finished it between the question and the claim."""
    with Database.open(tmp_path / "study.db") as database:
        work, asked = work_of(database), list[str]()

        def is_done(item: str) -> bool:
            asked.append(item)
            if len(asked) == 1:
                folder.do(item)
                return False
            return folder.is_done(item)

        work.run("s", ["0"], is_done=is_done, do=folder.do)
    assert folder.counts() == {"0": 1}


def test_an_item_that_stays_undone_is_waited_for_by_nobody(work_of: Join, tmp_path: Path) -> None:
    """Its result could not be kept: it is done once here, and that is that."""
    with Database.open(tmp_path / "study.db") as database:
        done = list[str]()
        work_of(database).run("s", ["0", "1", "0"], is_done=lambda _item: False, do=done.append)
    assert done == ["0", "1"]


def test_a_database_that_is_away_is_waited_for(
    work_of: Join,
    postgres: PostgresServer,
    postgres_url: str,
    folder: Folder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server is stopped while an item is done: it is released late, and the rest is done."""
    monkeypatch.setattr(patience, "FIRST_WAIT_S", 0.02)
    said: list[str] = []

    def do(item: str) -> None:
        folder.do(item)
        if item == "1":
            postgres.stop()
            threading.Timer(0.3, postgres.start).start()

    with Database.open(parse_storage(postgres_url)) as database:
        work = work_of(database)
        work.run("s", ITEMS, is_done=folder.is_done, do=do, noted=said.append)
        assert folder.counts() == dict.fromkeys(ITEMS, 1)
        wait_until(lambda: work.claims.live("s") == [])
    assert ["it is asked again" in text or "answers again" in text for text in said] == [True] * 2


def test_pauses_grow_while_others_work(
    work_of: Join, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: Folder
) -> None:
    """From 0.2 s to 2 s, and it says only once whom it waits for."""
    pauses: list[float] = []
    said: list[str] = []
    with Database.open(tmp_path / "study.db", shared=True) as database:
        work, other = work_of(database), work_of(database)
        claim = other.claims.take("s", "0")
        assert claim is not None

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 9:
                folder.do("0")
                other.claims.release(claim)

        monkeypatch.setattr(shared_work, "time", SimpleNamespace(sleep=sleep))
        work.run("s", ["0"], is_done=folder.is_done, do=folder.do, noted=said.append)
        assert folder.counts() == {"0": 1}
    assert (pauses[0], pauses[-1]) == (pytest.approx(0.2), pytest.approx(2.0))
    assert pauses == sorted(pauses)
    assert len(said) == 1
