"""An item has one living holder at most, whoever dies, stops or loses the database meanwhile."""

import os
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import pytest
from sqlalchemy import Connection, delete, event, insert, select

from sensitivity.core.storage_url import Storage, parse_storage
from sensitivity.errors import LostDatabaseError
from sensitivity.search.claims import (
    LONGEST,
    Claim,
    Claims,
    holders,
    living_claims,
    remove_claim,
    short_key,
    trials_scope,
)
from sensitivity.search.database import Database
from sensitivity.search.tables import ClaimRow, Table, WorkerRow
from sensitivity.search.workers import Worker

from support.forks import Forks, wait_until
from support.postgres import PostgresServer

PROCESSES, ITEMS, TAKES = 4, 2, 10


Join = Callable[[Database], Claims]


@pytest.fixture
def joined() -> Iterator[Join]:
    """Joins as a new worker, which leaves in the end, and gives its claims."""
    found: list[Claims] = []

    def join(database: Database) -> Claims:
        found.append(Claims(database, Worker.join(database)))
        return found[-1]

    yield join
    for own in found:
        own.worker.leave()


def test_an_item_has_one_holder_until_it_is_released(joined: Join, shared_storage: Storage) -> None:
    """A second take fails, by the same worker too; others see who has what, with details."""
    with Database.open(shared_storage, shared=True) as database:
        one, other = joined(database), joined(database)
        claim = one.take("s", "1", {"label": "none", "index": 3})
        assert claim is not None
        assert (other.take("s", "1"), one.take("s", "1")) == (None, None)
        assert other.take("t", "1") is not None
        assert other.live("s") == one.live("s") == [claim]
        assert (claim.worker, claim.details) == (one.worker.name, {"label": "none", "index": 3})
        one.release(claim)
        taken = other.take("s", "1")
        assert taken is not None
        one.release(claim)  # it has another token now
        assert one.live("s") == [taken]
        with database.writing() as session:
            remove_claim(session.connection(), "s", "1")
        assert one.live("s") == []
        other.release_all()
        assert other.live("t") == []


def test_what_is_not_allowed_is_not_taken(joined: Join, shared_storage: Storage) -> None:
    """The last word is asked in the transaction, and sees the living claims of the scope."""
    seen: list[list[str]] = []

    def two_at_most(connection: Connection, claims: Sequence[Claim]) -> bool:
        seen.append([own.item for own in claims])
        assert len(holders(connection, "s")) == len(claims)
        return len(claims) < 2

    with Database.open(shared_storage, shared=True) as database:
        claims = joined(database)
        claims.take("other scope", "0")
        taken = [claims.take("s", item, allowed=two_at_most) for item in ("1", "2", "3")]
        assert [claim is not None for claim in taken] == [True, True, False]
        assert seen == [[], ["1"], ["1", "2"]]


@pytest.mark.parametrize("why", ["killed", "lease", "row"])
def test_the_claims_of_the_dead_are_free(joined: Join, shared_storage: Storage, why: str) -> None:
    """Whether the process was killed, the lease ran out, or the row is gone."""
    with Database.open(shared_storage, shared=True) as database, Forks() as forks:

        def take() -> None:
            own = Database.open(shared_storage, shared=True)
            claims = Claims(own, Worker.join(own))
            claims.take("s", "1")
            claims.take("s", "2")
            signal.pause()

        process, claims = forks.start(take), joined(database)
        wait_until(lambda: len(claims.live("s")) == 2)
        assert claims.take("s", "1") is None
        name = claims.live("s")[0].worker
        if why == "killed":
            forks.kill(process)
        else:
            os.kill(process, signal.SIGSTOP)
            with database.writing() as session:
                row = session.get_one(WorkerRow, name)
                if why == "lease":
                    row.seen -= 61.0
                else:
                    session.delete(row)
        assert claims.live("s") == []
        assert claims.take("s", "1") is not None
        with database.reading() as session:
            assert holders(session.connection(), "s") == [claims.worker.name]


def test_reaping_says_what_the_dead_had(joined: Join, shared_storage: Storage) -> None:
    """Each claim of a dead worker is told once, and those of the living stay."""
    with Database.open(shared_storage, shared=True) as database:
        living, dead = joined(database), joined(database)
        living.take("s", "1")
        claim = dead.take("s", "2", {"label": "none"})
        dead.take("t", "2")
        with database.writing() as session:
            session.get_one(WorkerRow, dead.worker.name).lease_s = 0.0
        assert living.reap("s") == [claim]
        assert living.reap("s") == []
        with database.reading() as session:
            assert len(living_claims(session.connection(), "s")) == 1
            assert len(holders(session.connection(), "t")) == 1


def test_four_processes_never_hold_one_item_together(
    shared_storage: Storage, tmp_path: Path
) -> None:
    """Each holder makes a file that must not be there; a few of them die holding it."""
    Database.open(shared_storage, shared=True).close()

    def hammer(number: int) -> dict[str, int]:
        chance, counted = random.Random(number), Counter[str]()
        with Database.open(shared_storage, shared=True) as database, Worker.join(database) as own:
            claims = Claims(database, own)
            for _ in range(TAKES):
                item = str(chance.randrange(ITEMS))
                claim = claims.take("s", item)
                if claim is None:
                    counted["refused"] += 1
                    continue
                counted["held"] += 1
                try:
                    os.close(os.open(tmp_path / item, os.O_CREAT | os.O_EXCL))
                except FileExistsError:
                    counted["together"] += 1
                with suppress(FileNotFoundError):
                    (tmp_path / item).unlink()
                claims.release(claim)
        return counted

    def die(item: str) -> None:
        database = Database.open(shared_storage, shared=True)
        claims = Claims(database, Worker.join(database))
        while claims.take("s", item) is None:
            pass
        os.kill(os.getpid(), signal.SIGKILL)

    with Forks() as forks:
        dying = [forks.start(die, str(item)) for item in range(2)]
        hammering = [forks.start(hammer, number) for number in range(PROCESSES)]
        for process in dying:
            os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        total = sum((Counter(forks.result(process)) for process in hammering), Counter[str]())
    assert total["together"] == 0
    assert total["held"] + total["refused"] == PROCESSES * TAKES
    assert total["held"] >= TAKES


def test_a_take_whose_answer_was_lost_is_undone(
    joined: Join, postgres: PostgresServer, postgres_url: str
) -> None:
    """The commit arrived and the answer did not: the same call may be made again."""
    with Database.open(parse_storage(postgres_url)) as database:
        claims, other = joined(database), joined(database)

        def lose(connection: Connection) -> None:
            event.remove(database.engine, "commit", lose)
            connection.connection.commit()
            raise LostDatabaseError("the answer is lost")

        event.listen(database.engine, "commit", lose)
        with pytest.raises(LostDatabaseError):
            claims.take("s", "1")
        assert claims.take("s", "1") is not None
        with postgres.stopped(), pytest.raises(LostDatabaseError):
            claims.take("s", "2")
        assert other.take("s", "2") is not None


def test_a_lost_take_is_undone_without_another_one(joined: Join, shared_storage: Storage) -> None:
    """What may have been taken and is not wanted goes with the next beat."""
    with Database.open(shared_storage, shared=True) as database:
        claims = joined(database)
        claim = claims.take("s", "1")
        assert claim is not None
        claims.worker.discard(claim.token)
        wait_until(lambda: claims.live("s") == [], wait_s=5)  # a beat comes every 15 s


def test_keys_of_any_length_are_told_apart(joined: Join, shared_storage: Storage) -> None:
    """A long study has a scope of its own, and the columns of the tables hold it."""
    long = "x" * 300
    keys = [short_key(text) for text in ("a" * LONGEST, long + "1", long + "2", "\ud800" * 300)]
    assert len(set(keys)) == 4
    assert (
        max(map(len, keys))
        == LONGEST
        == Table.metadata.tables[ClaimRow.__tablename__].c.scope.type.length
    )
    with Database.open(shared_storage, shared=True) as database:
        claims = joined(database)
        for study in (long + "1", long + "2"):
            claim = claims.take(trials_scope(study), long)
            assert claim is not None
            assert claims.live(trials_scope(study)) == [claim]
            assert claims.take(trials_scope(study), long) is None


def test_a_take_is_one_transaction(joined: Join, shared_storage: Storage) -> None:
    """Where the last word raises, dead claims are not removed either."""
    with Database.open(shared_storage, shared=True) as database:
        claims = joined(database)
        with database.writing() as session:
            values = {"scope": "s", "item": "1", "worker": "dead", "token": "t", "taken": 0.0}
            session.execute(insert(ClaimRow).values(**values, details="{}"))
        with pytest.raises(ZeroDivisionError):
            claims.take("s", "2", allowed=lambda *_: bool(1 / 0))
        with database.reading() as session:
            assert list(session.scalars(select(ClaimRow.worker))) == ["dead"]
        with database.writing() as session:
            session.execute(delete(ClaimRow))
