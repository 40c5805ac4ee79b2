"""What a process is at is kept in the database: at once where it matters, seldom where not."""

from contextlib import closing
from datetime import timedelta
from pathlib import Path

from sensitivity.search.activity import EVERY_S, EVERY_SHARED_S, Activity, ActivityLog
from sensitivity.search.store import Store
from sensitivity.search.tables import WorkerRow
from sensitivity.search.workers import Worker, live_workers


def kept(store: Store) -> list[Activity]:
    """What the workers of a database do."""
    with store.reading() as session:
        return [own.activity for own in live_workers(session.connection())]


def test_stages_are_written_at_once_and_the_rest_when_due(store: Store) -> None:
    """Of a hundred pictures in a second only the stage is seen; the count is, once it is due."""
    clock = [0.0]
    with Worker.join(store, work="search", device="cpu", budget=5) as worker:
        log = ActivityLog(worker, clock=lambda: clock[0])
        log.seconds_left, log.paces = lambda: 90.0, lambda: (30.0, 12.0)
        log.update(stage="trials", what="trial 1", total=10)
        for done in range(100):
            log.update(done=done)
        (row,) = kept(store)
        assert (row.stage, row.what, row.done, row.total) == ("trials", "trial 1", 0, 10)
        assert (row.budget, row.pace_s, row.beside_s) == (5, 30.0, 12.0)
        assert row.ends is not None
        assert abs((row.ends - row.seen).total_seconds() - 90) < 1
        clock[0] += EVERY_S
        log.update(done=7)
        assert kept(store)[0].done == 7
        log.update(done=8)
        assert kept(store)[0].done == 7
        assert worker.beat()
        assert kept(store)[0].done == 8
        log.end("finished")
        (row,) = kept(store)
        assert (row.stage, row.how, row.done, row.ends) == ("ended", "finished", 0, None)


def test_many_workers_write_less_often(tmp_path: Path) -> None:
    """Where others write the database too, counts may be older; the trial is not."""
    with (
        Store.open(tmp_path / "study.db", shared=True) as store,
        Worker.join(store) as worker,
    ):
        clock = [0.0]
        log = ActivityLog(worker, clock=lambda: clock[0])
        clock[0] += EVERY_SHARED_S - 1
        log.update(done=6)
        assert kept(store)[0].done == 0
        clock[0] += 1
        log.update(done=7)
        assert kept(store)[0].done == 7
        log.update(what="trial 2", done=8)
        assert kept(store)[0].done == 7
        clock[0] += EVERY_S
        log.update(what="trial 3", done=9)
        assert (kept(store)[0].what, kept(store)[0].done) == ("trial 3", 9)


def test_a_row_that_is_none_is_left_out(store: Store) -> None:
    """What another program has written in the place of an activity hides no worker."""
    with Worker.join(store) as worker:
        with store.writing() as session:
            session.add(WorkerRow(worker="x", seen=0.0, began=0.0, lease_s=0.0, activity="no JSON"))
        with store.reading() as session:
            (found,) = live_workers(session.connection())
        assert found.worker == worker.name


def test_times_are_moved_to_another_clock() -> None:
    """All by the same amount, and the times between them stay."""
    own = Activity.new(work="search")
    own = own.model_copy(update={"ends": own.began + timedelta(hours=1)})
    moved = own.by_clock_of(own.seen + timedelta(days=1))
    for name in ("began", "stage_began", "seen", "ends"):
        assert getattr(moved, name) - getattr(own, name) == timedelta(days=1)
    assert Activity.parsed(moved.model_dump_json()) == moved


def test_a_row_that_cannot_be_written_ends_nothing(tmp_path: Path) -> None:
    """A table that is gone raises nothing here, and where nothing is kept nothing is written."""
    with Store.open(tmp_path / "study.db") as store, Worker.join(store) as worker:
        log = ActivityLog(worker)
        with closing(store.engine.raw_connection()) as raw:
            raw.cursor().execute("DROP TABLE sensitivity_workers")
            raw.commit()
        log.update(stage="trials")
        log.end("finished")
        assert worker.lost_contact_s > 0
    log = ActivityLog(None)
    log.update(stage="trials", done=3)
    log.end("finished")
    assert (log.now.stage, log.now.how) == ("ended", "finished")
