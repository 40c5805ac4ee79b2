"""Who may use a database at the same time: names, files and servers are shared as they say."""

import logging
import multiprocessing
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from sensitivity.core.storage_url import Storage
from sensitivity.errors import InUseError, OutputError
from sensitivity.search import file_systems
from sensitivity.search.database import Database
from sensitivity.search.dialects import lock_name
from sensitivity.search.places import open_place

FORK = multiprocessing.get_context("fork")
WORKERS, TIMES = 4, 12


def hold(kind: str, storage: Storage, ready: Connection) -> None:
    """Holds a file, or the name "schema", until it is killed."""
    place = open_place(storage, shared=kind != "alone")
    with place.locked("schema") if kind == "name" else nullcontext():
        ready.send(True)
        time.sleep(60)


@pytest.fixture
def holder() -> Iterator[Callable[[str, Storage], BaseProcess]]:
    """Starts processes that hold something."""
    started: list[BaseProcess] = []

    def start(kind: str, storage: Storage) -> BaseProcess:
        here, there = FORK.Pipe()
        process = FORK.Process(target=hold, args=(kind, storage, there), daemon=True)
        process.start()
        started.append(process)
        assert here.poll(30)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def test_one_process_at_a_time_has_a_name(
    shared_storage: Storage, holder: Callable[[str, Storage], BaseProcess]
) -> None:
    """A name that another process has is refused after the time that was given; other names are
    free, and it is free at once when that process is killed.
    """
    process = holder("name", shared_storage)
    place = open_place(shared_storage, shared=True)
    begun = time.monotonic()
    with (
        pytest.raises(InUseError, match=r"is busy: another .*'schema' for more than 0.1 s \(proc"),
        place.locked("schema", wait_s=0.1),
    ):
        pass
    assert time.monotonic() - begun < 5
    with place.locked("another", wait_s=0.1):
        pass
    process.kill()
    with place.locked("schema", wait_s=20), place.locked("another", wait_s=1):
        pass
    place.release()


def test_one_thread_at_a_time_has_a_name(shared_storage: Storage) -> None:
    """Threads of one process exclude one another, by one place and by several; an error inside
    frees the name.
    """
    place, other = (open_place(shared_storage, shared=True) for _ in range(2))
    inside: list[int] = []
    most: list[int] = []

    def work(by: Any) -> None:
        for _ in range(3):
            with by.locked("name", wait_s=20):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.001)
                inside.pop()

    threads = [threading.Thread(target=work, args=(by,)) for by in (place, place, other)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == [1] * 9
    with pytest.raises(KeyError), place.locked("name"):
        raise KeyError
    with other.locked("name", wait_s=0):
        pass
    place.release()
    other.release()


@pytest.mark.parametrize(
    ("held", "wanted", "words"),
    [
        ("alone", True, r"another search, which has it alone \(process {}, .*share it.*another"),
        ("shared", False, r"workers that share it \(process {}, .*`sensitivity worker`"),
    ],
)
def test_sharing_and_having_alone_exclude_each_other(
    tmp_path: Path,
    holder: Callable[[str, Storage], BaseProcess],
    held: str,
    wanted: bool,
    words: str,
) -> None:
    """A file that a search has alone is not shared, nor the other way round; the message says who
    has it and what to do, and the end of that process frees it.
    """
    path = tmp_path / "study.db"
    process = holder(held, path)
    with pytest.raises(InUseError, match=words.format(process.pid)):
        open_place(path, shared=wanted)
    process.kill()
    open_place(path, shared=wanted, wait_s=20).release()
    place = open_place(path, shared=not wanted)
    with pytest.raises(InUseError, match=f"of this process, {os.getpid()}"):
        open_place(path, shared=wanted)
    place.release()


def test_a_file_is_shared_by_processes_and_within_one(
    tmp_path: Path, holder: Callable[[str, Storage], BaseProcess]
) -> None:
    """Workers that share do so at the same time, and one that leaves takes nothing from others."""
    path = tmp_path / "study.db"
    process = holder("shared", path)
    first, second = (open_place(path, shared=True) for _ in range(2))
    assert (first.is_shared, first.is_server, first.may_write) == (True, False, True)
    first.release()
    first.release()
    process.kill()
    process.join()
    with pytest.raises(InUseError, match="workers that share it"):
        open_place(path)
    second.release()
    open_place(path).release()


def add_up(storage: Storage, go: Any) -> None:
    """Reads a number and writes one more, again and again."""
    with Database.open(storage, shared=True) as database:
        go.wait()
        for _ in range(TIMES):
            with database.writing() as session:
                connection = session.connection()
                lock_name(connection, "number")
                (number,) = connection.execute(text("SELECT n FROM sensitivity_test")).one()
                connection.execute(text("UPDATE sensitivity_test SET n = :n"), {"n": number + 1})
    os._exit(0)


def test_workers_that_write_wait_for_each_other(shared_storage: Storage) -> None:
    """What several processes read and then write, under a name, is as if one after the other had
    done it: none is lost, and none fails.
    """
    with Database.open(shared_storage) as database, database.writing() as session:
        session.execute(text("CREATE TABLE sensitivity_test (n INTEGER)"))
        session.execute(text("INSERT INTO sensitivity_test VALUES (0)"))
    go = FORK.Event()
    children = [FORK.Process(target=add_up, args=(shared_storage, go)) for _ in range(WORKERS)]
    for child in children:
        child.start()
    go.set()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * WORKERS
    with Database.read(shared_storage) as database, database.reading() as session:
        assert session.scalar(text("SELECT n FROM sensitivity_test")) == WORKERS * TIMES


def test_a_new_file_is_its_owners_alone(tmp_path: Path) -> None:
    """Others can neither read nor write it, whatever the umask; a file that is there stays as it
    is.
    """
    old = os.umask(0)
    try:
        open_place(tmp_path / "new.db").release()
        open_place(tmp_path / "shared.db", shared=True).release()
    finally:
        os.umask(old)
    (tmp_path / "old.db").touch(mode=0o640)
    open_place(tmp_path / "old.db").release()
    modes = [stat.S_IMODE((tmp_path / f"{name}.db").stat().st_mode) for name in ("new", "shared")]
    assert modes == [0o600, 0o600]
    assert stat.S_IMODE((tmp_path / "old.db").stat().st_mode) == 0o640


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes a folder, and a list of mounts in which it is on a file system of some kind."""

    def mount(kind: str, *, by_device: bool = False) -> Path:
        folder = tmp_path / "a share"
        folder.mkdir(exist_ok=True)
        device = folder.stat().st_dev
        number = f"{os.major(device)}:{os.minor(device)}" if by_device else "0:9999"
        escaped = str(folder).replace(" ", "\\040")
        lines = [
            "22 1 0:9998 / / rw - ext4 /dev/sda rw",
            f"23 22 {number} / {escaped} rw shared:1 - {kind} host:/export rw",
            f"24 22 0:9997 / {escaped}2 rw - tmpfs tmpfs rw",
        ]
        mounts = tmp_path / "mountinfo"
        mounts.write_text("\n".join(lines))
        monkeypatch.setattr(file_systems, "MOUNTS", mounts)
        return folder

    return mount


@pytest.mark.parametrize("kind", ["nfs4", "cifs", "lustre", "fuse.sshfs"])
@pytest.mark.parametrize("by_device", [False, True])
def test_network_file_systems_are_told_of(
    kind: str, by_device: bool, mounted: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """There one search is warned and goes on, and workers that would share are refused before
    anything is made.
    """
    folder = mounted(kind, by_device=by_device)
    with pytest.raises(OutputError, match=rf"network file system \({kind}\).*postgresql://"):
        open_place(folder / "new" / "study.db", shared=True)
    assert not list(folder.iterdir())
    with caplog.at_level(logging.WARNING):
        open_place(folder / "new" / "study.db").release()
    assert [kind in record.getMessage() for record in caplog.records] == [True]


@pytest.mark.parametrize("kind", ["ext4", "xfs", "tmpfs", "overlay", "fuseblk"])
def test_disks_of_this_host_are_not_told_of(
    kind: str, mounted: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    """A local file is shared, and nothing is said; so where the system tells nothing."""
    folder = mounted(kind)
    open_place(folder / "study.db", shared=True).release()
    file_systems.MOUNTS.unlink()
    open_place(folder / "study.db", shared=True).release()
    assert not caplog.records
