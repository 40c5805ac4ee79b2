"""What a process is at is kept in the database: at once where it matters, seldom where not."""

from contextlib import closing
from pathlib import Path

from sensitivity.search.activity import EVERY_S, Activity, ActivityLog, read_activities
from sensitivity.search.store import Store


def kept(store: Store) -> list[Activity]:
    """The rows of a database."""
    with store.engine.connect() as connection:
        return read_activities(connection)


def test_stages_are_written_at_once_and_the_rest_when_due(store: Store) -> None:
    """Of a hundred pictures in a second only the stage is seen; the count is, once it is due."""
    clock = [0.0]
    log = ActivityLog(store, work="search", device="cpu", budget=5, clock=lambda: clock[0])
    log.seconds_left = lambda: 90.0
    log.update(stage="trials", what="trial 1", total=10)
    for done in range(100):
        log.update(done=done)
    (row,) = kept(store)
    assert (row.stage, row.what, row.done, row.total, row.budget) == ("trials", "trial 1", 0, 10, 5)
    assert row.ends is not None
    assert (row.ends - row.seen).total_seconds() == 90
    clock[0] += EVERY_S
    log.update(done=7)
    assert kept(store)[0].done == 7
    log.end("finished")
    (row,) = kept(store)
    assert (row.stage, row.how, row.done, row.ends) == ("ended", "finished", 0, None)


def test_a_new_process_removes_the_rows_of_those_before(store: Store) -> None:
    """The row of a process that was killed is there until the next one begins."""
    with store.engine.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO sensitivity_meta VALUES ('worker:gone:1', 'no JSON'), ('other', 'x')"
        )
    assert kept(store) == []
    ActivityLog(store, work="calibration", device="cpu")
    with store.engine.connect() as connection:
        keys = connection.exec_driver_sql("SELECT key FROM sensitivity_meta ORDER BY key").all()
    assert [key for (key,) in keys][:2] == ["other", "schema"]
    assert len(keys) == 3


def test_a_row_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    """A database that is only read, or that is full, keeps no row and raises no error."""
    path = tmp_path / "study.db"
    with Store.open(path) as store:
        log = ActivityLog(store, work="search", device="cpu")
        with closing(store.file.connect()) as raw:
            raw.execute("DROP TABLE sensitivity_meta")
        log.update(stage="trials")
        log.end("finished")
    with Store.read(path) as store:
        ActivityLog(store, work="choice", device="cpu").end("finished")
