"""The benchmark of storages joins what it wrote, and its workers lose no trial."""

import queue
import threading
from pathlib import Path

import storage_throughput as benchmark


def test_a_study_is_written_and_joined(tmp_path: Path) -> None:
    """Every trial that was written is read, by both ways to open a study."""
    found = benchmark._join(tmp_path / "study.db", trials=5, layers=7)
    assert found["trials"] == 5
    assert found["reading_cpu_seconds"] > 0
    assert found["written_ms_each"] > 0


def test_a_worker_adds_its_trials(tmp_path: Path) -> None:
    """Each is in the study once, and what finishing took is told."""
    path, told = tmp_path / "study.db", queue.Queue()  # type: ignore[var-annotated]
    benchmark._work(str(path), 0, 4, 7, threading.Barrier(1), told)
    assert len(told.get()["finish_s"]) == 4
    with benchmark.Store.read(path) as store:
        log = benchmark.read_log(store, "throughput", benchmark._candidates(7))
        choices = [trial.choice for trial in log.history()]
    assert len(set(choices)) == len(choices) == 4
