"""What was measured is kept exactly and once, and whatever else lies at the database's path is
refused with a next step.
"""

import multiprocessing
import os
import signal
import sqlite3
import time
from multiprocessing.connection import Connection
from pathlib import Path

import pytest
from sqlalchemy import event

from sensitivity.core.format_name import FormatName
from sensitivity.errors import DamageError, OutputError, StoreError
from sensitivity.fidelity.score import Score
from sensitivity.search.store import Store, assignment_key

SCORE = Score(
    net="tiny",
    mean=0.1 + 0.2,
    per_prompt=(0.1, 0.2, 5e-324),
    noise_floor=1 / 3,
)
OTHER = Score(net="alex", mean=1.0, per_prompt=(1.0,), noise_floor=None)


def test_scores_read_back_equal(tmp_path: Path) -> None:
    """A score comes back to the last bit, in the same store and in one opened later."""
    path = tmp_path / "new" / "folder" / "study.db"
    with Store.open(path) as store:
        store.save_score("e", "a", SCORE, seconds=1.5)
        store.save_score("e", "b", OTHER, seconds=1.5)
        assert store.find_score("e", "a") == SCORE
    with Store.open(path) as store:
        assert store.find_score("e", "a") == SCORE
        assert store.find_score("e", "b") == OTHER
        assert store.find_score("f", "a") is None
        assert store.find_score("e", "c") is None


def test_a_score_is_never_changed(tmp_path: Path) -> None:
    """A second score of the same evaluation and assignment is not written: the first is a fact."""
    with Store.open(tmp_path / "study.db") as store:
        store.save_score("e", "a", SCORE, seconds=1.0)
        store.save_score("e", "a", OTHER, seconds=1.0)
        assert store.find_score("e", "a") == SCORE


def test_sensitivities_read_back_by_calibration(tmp_path: Path) -> None:
    """Errors come back for their own calibration only, the first written of each, in a store opened
    later too.
    """
    path = tmp_path / "study.db"
    with Store.open(path) as store:
        store.save_sensitivity("one", "a", 0.1)
        store.save_sensitivity("one", "b", 1e-300)
        store.save_sensitivity("one", "a", 0.5)
        store.save_sensitivities({("two", "a"): 0.7, ("one", "b"): 0.5, ("one", "c"): 0.2})
    with Store.open(path) as store:
        assert store.find_sensitivities("one") == {"a": 0.1, "b": 1e-300, "c": 0.2}
        assert store.find_sensitivities("two") == {"a": 0.7}
        assert store.find_sensitivities("three") == {}


def test_assignment_key_says_what_is_quantized() -> None:
    """Order and explicit bf16 do not matter; a Linear or a format more does."""
    nvfp4, mxfp8, bf16 = FormatName.NVFP4, FormatName.MXFP8, FormatName.BF16
    key = assignment_key({"a": nvfp4, "b": mxfp8})
    assert key == assignment_key({"b": mxfp8, "c": bf16, "a": nvfp4})
    others = [
        {},
        {"a": nvfp4},
        {"a": nvfp4, "b": nvfp4},
        {"a": mxfp8, "b": nvfp4},
        {"a": nvfp4, "b": mxfp8, "c": nvfp4},
    ]
    assert len({key, *map(assignment_key, others)}) == 6


def test_what_is_no_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    """A text file at the path is not overwritten."""
    path = tmp_path / "notes.txt"
    path.write_text("my notes\n" * 200)
    with pytest.raises(
        StoreError, match=r"notes\.txt is no database of sensitivity .*name another `storage`"
    ):
        Store.open(path)
    assert path.read_text() == "my notes\n" * 200
    with pytest.raises(
        StoreError, match="no database"
    ):  # refused for what it is, not as one that is in use
        Store.open(path)


def test_a_foreign_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    """Another program's SQLite file keeps its tables, and gets none of ours."""
    path = tmp_path / "bookmarks.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("create table bookmarks (url text)")
    connection.close()
    with pytest.raises(
        StoreError, match=r"bookmarks.* which sensitivity did not make.*name another `storage`"
    ):
        Store.open(path)
    with sqlite3.connect(path) as connection:
        assert [row[0] for row in connection.execute("select name from sqlite_master")] == [
            "bookmarks"
        ]
    connection.close()


def test_another_schema_is_refused(tmp_path: Path) -> None:
    """A database of a later version says which schema it has and which one is read."""
    path = tmp_path / "study.db"
    Store.open(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute("update sensitivity_meta set value = '7' where key = 'schema'")
    connection.close()
    with pytest.raises(
        StoreError, match="has schema 7; this version of sensitivity reads schema 3"
    ):
        Store.open(path)


def test_an_empty_file_is_a_new_database(tmp_path: Path) -> None:
    """A file of no bytes, as mktemp makes it, becomes a database."""
    path = tmp_path / "study.db"
    path.touch()
    with Store.open(path) as store:
        store.save_sensitivity("one", "a", 0.1)
        assert store.find_sensitivities("one") == {"a": 0.1}


@pytest.mark.parametrize(
    "name", ["with space.db", "100%.db", "what?.db", "a#b.db", "ü.db", "a%20b.db"]
)
def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    """The database lies at the given path, whatever signs are in its name, and Optuna's URL
    means the same file.
    """
    from sqlalchemy import make_url

    with Store.open(tmp_path / name) as store:
        assert (tmp_path / name).is_file()
        assert make_url(store.url).database == str(tmp_path / name)
    assert {p.name for p in tmp_path.iterdir()} <= {name, f"{name}.lock"}


def hold(path: Path, ready: Connection) -> None:
    store = Store.open(path)
    ready.send(store.path == path)
    time.sleep(60)


def test_a_second_process_is_refused_at_once(tmp_path: Path) -> None:
    """While one process has the database another is refused without waiting; when the first is
    killed the database is free.
    """
    path = tmp_path / "study.db"
    here, there = multiprocessing.Pipe()
    holder = multiprocessing.get_context("fork").Process(
        target=hold, args=(path, there), daemon=True
    )
    holder.start()
    assert here.poll(30)
    assert here.recv() is True
    begun = time.monotonic()
    with pytest.raises(
        StoreError, match=r"study\.db is in use by another search.*name another `storage`"
    ):
        Store.open(path)
    assert time.monotonic() - begun < 15
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with Store.open(path) as store:
        assert store.find_sensitivities("one") == {}


def test_a_second_store_in_one_process_is_refused(tmp_path: Path) -> None:
    """The rule holds within a process; closing frees the database, after a refused opening too."""
    path = tmp_path / "study.db"
    with Store.open(path), pytest.raises(StoreError, match="in use"):
        Store.open(path)
    Store.open(path).close()


@pytest.mark.parametrize(
    "where",
    ["file/study.db", "file/deeper/study.db", "folder", "/proc/study.db", "/proc/deeper/study.db"],
)
def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, where: str) -> None:
    """A path under a file, a folder itself and a read-only file system are the user's to change."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=r"cannot be written.*name a `storage`"):
        Store.open(tmp_path / where)


def test_a_full_disk_says_so_and_keeps_what_was_written(tmp_path: Path) -> None:
    """When no page is left the write fails with a next step, and what was there is still there."""
    path = tmp_path / "study.db"
    with Store.open(path) as store:
        store.save_sensitivity("one", "a", 0.1)
        store.engine.dispose()
        event.listen(
            store.engine,
            "connect",
            lambda connection, _: connection.execute("pragma max_page_count = 1"),
        )
        big = Score(
            net="tiny",
            mean=0.0,
            per_prompt=(0.1234567,) * 10_000,
            noise_floor=None,
        )
        with pytest.raises(OutputError, match=r"full.*free some and run the same command"):
            store.save_score("e", "a", big, seconds=1.0)
        assert store.find_score("e", "a") is None
        assert store.find_sensitivities("one") == {"a": 0.1}


@pytest.mark.parametrize("intact_pages", [1, 2, 4, 6])
def test_a_damaged_database_says_so(tmp_path: Path, intact_pages: int) -> None:
    """Pages that were overwritten are a StoreError, when it is opened or when they are read."""
    path = tmp_path / "study.db"
    with Store.open(path) as store:
        for i in range(40):
            store.save_sensitivity("one", f"{i:0400}", 0.1)
        store.save_score("e", "a", SCORE, seconds=1.0)
    data = path.read_bytes()
    path.write_bytes(data[: 4096 * intact_pages] + b"\x5a" * (len(data) - 4096 * intact_pages))

    def read() -> None:
        with Store.open(path) as store:
            store.find_score("e", "a")
            store.find_sensitivities("one")

    with pytest.raises(
        DamageError, match=r"study\.db is damaged .*keep the file.*name as `storage` a backup"
    ):
        read()
