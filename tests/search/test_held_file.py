"""One process has a database file at a time, under whatever name; what is no file is refused."""

import multiprocessing
import os
import resource
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from sensitivity.errors import OutputError, StoreError
from sensitivity.search.held_file import HeldFile

FORK = multiprocessing.get_context("fork")


def hold(path: Path, ready: Connection) -> None:
    """Holds a file until it is killed."""
    HeldFile.take(path)
    ready.send(True)
    time.sleep(60)


@pytest.fixture
def holder() -> Iterator[Callable[[Path], BaseProcess]]:
    """Starts processes that hold a file."""
    started: list[BaseProcess] = []

    def start(path: Path) -> BaseProcess:
        here, there = FORK.Pipe()
        process = FORK.Process(target=hold, args=(path, there), daemon=True)
        process.start()
        started.append(process)
        assert here.poll(30)
        return process

    yield start
    for process in started:
        process.kill()
        process.join()


def symlink(path: Path) -> Path:
    """A symlink to the file."""
    other = path.parent.parent / "other.db"
    other.symlink_to(path)
    return other


def linked_folder(path: Path) -> Path:
    """The file through a symlink to its folder."""
    other = path.parent.parent / "linked"
    other.symlink_to(path.parent)
    return other / path.name


def hard_link(path: Path) -> Path:
    """Another name of the file itself."""
    other = path.parent.parent / "hard.db"
    os.link(path, other)
    return other


def renamed_folder(path: Path) -> Path:
    """The file after its folder was renamed."""
    folder = path.parent.with_name("renamed")
    path.parent.rename(folder)
    return folder / path.name


def nothing_beside(path: Path) -> Path:
    """The file after everything that lies beside it was deleted."""
    for other in path.parent.iterdir():
        if other != path:
            other.unlink()
    return path


def relative(path: Path) -> Path:
    """The same path, written otherwise."""
    return path.parent / ".." / path.parent.name / path.name


def test_the_lock_follows_the_file(tmp_path: Path, holder: Callable[[Path], BaseProcess]) -> None:
    """Under every name a held file is refused, with the process that holds it; when that is killed
    nothing is left behind and the file is free.
    """
    path = tmp_path / "folder" / "study.db"
    process = holder(path)
    for name in (relative, nothing_beside, symlink, linked_folder, hard_link, renamed_folder):
        other = name(path)
        with pytest.raises(StoreError, match=rf"in use by another .*\(process {process.pid}, "):
            HeldFile.take(other)
    process.kill()
    process.join()
    HeldFile.take(other).release()
    assert [entry.name for entry in other.parent.iterdir()] == ["study.db"]


def test_a_waiting_process_gets_the_file(
    tmp_path: Path, holder: Callable[[Path], BaseProcess]
) -> None:
    """Who waits has the file as soon as the other process has ended."""
    path = tmp_path / "study.db"
    process = holder(path)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    HeldFile.take(path, wait_s=30).release()


def test_closing_another_opening_frees_nothing(
    tmp_path: Path, holder: Callable[[Path], BaseProcess]
) -> None:
    """A file that this process holds stays held when it is read or asked for again here."""
    path = tmp_path / "study.db"
    held = HeldFile.take(path)
    path.read_bytes()
    with pytest.raises(StoreError, match=f"of this process, {os.getpid()}"):
        HeldFile.take(path)
    child = FORK.Process(target=_expect_in_use, args=(path,))
    child.start()
    child.join()
    assert child.exitcode == 0
    held.release()
    held.release()  # twice does no harm
    holder(path)


def _expect_in_use(path: Path) -> None:
    try:
        HeldFile.take(path)
    except StoreError as error:
        os._exit(0 if "in use" in str(error) else 1)
    os._exit(2)


def test_a_forked_child_keeps_nothing(tmp_path: Path) -> None:
    """The file is free when its holder lets go, though a child that was forked lives on."""
    held = HeldFile.take(tmp_path / "study.db")
    child = FORK.Process(target=time.sleep, args=(60,), daemon=True)
    child.start()
    held.release()
    HeldFile.take(tmp_path / "study.db").release()
    child.kill()
    child.join()


def test_two_first_openings_at_once(tmp_path: Path) -> None:
    """Of many processes that make one database at the same moment, each gets it in turn."""
    go = FORK.Event()
    children = [
        FORK.Process(target=_take_in_turn, args=(tmp_path / "new" / "study.db", go))
        for _ in range(4)
    ]
    for child in children:
        child.start()
    go.set()
    for child in children:
        child.join(60)
    assert [child.exitcode for child in children] == [0] * 4


def _take_in_turn(path: Path, go: Any) -> None:
    from sensitivity.search.store import Store

    go.wait()
    with Store.open(path, wait_s=30) as store:
        store.save_sensitivity("one", str(os.getpid()), 0.5)
        known = len(store.find_sensitivities("one"))
    os._exit(0 if 1 <= known <= 4 else 1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda path: path.mkdir(), "it is a folder"),
        (lambda path: os.mkfifo(path), "it is a FIFO"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device"),
        (lambda path: path.symlink_to(path), "symbolic links"),
        (lambda path: path.symlink_to("/nowhere/study.db"), "No such file"),
    ],
    ids=["folder", "FIFO", "device", "loop", "dangling"],
)
def test_what_is_no_file_is_refused(
    tmp_path: Path, make: Callable[[Path], None], words: str
) -> None:
    """A folder, a FIFO, a device and a link to nothing are named, at once."""
    make(tmp_path / "study.db")
    with pytest.raises(OutputError, match=rf"cannot be written.*{words}.*name a `storage`"):
        HeldFile.take(tmp_path / "study.db")


@pytest.mark.parametrize("url", ["postgresql+psycopg://me:hunter2@host/db", "sqlite:///a.db"])
def test_a_url_makes_no_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """A database's URL is refused without its password, and nothing is made."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OutputError, match="expected a path on this machine") as raised:
        HeldFile.take(Path(url))
    assert "hunter2" not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    """Names that are too long or hold a NUL are refused, and shown only in part."""
    with pytest.raises(OutputError, match=r"File name too long.*shorter name") as raised:
        HeldFile.take(tmp_path / ("x" * 300))
    assert len(str(raised.value)) < 300
    with pytest.raises(OutputError, match="name another `storage`"):
        HeldFile.take(tmp_path / "a\0b")


def test_no_descriptor_left(tmp_path: Path) -> None:
    """Where the process may open no more files, that is what is said."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        with pytest.raises(OutputError, match=r"too many open files.*ulimit -n"):
            HeldFile.take(tmp_path / "study.db")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("change", ["deleted", "renamed", "replaced"])
def test_a_file_that_was_moved_is_not_opened(tmp_path: Path, change: str) -> None:
    """No connection is made to another file than the one that is held."""
    path = tmp_path / "study.db"
    held = HeldFile.take(path)
    held.connect().close()
    path.rename(tmp_path / "other.db")
    if change == "deleted":
        (tmp_path / "other.db").unlink()
    if change == "replaced":
        path.write_bytes(b"")
    with pytest.raises(OutputError, match=r"moved, renamed, replaced or deleted while it was in"):
        held.connect()
    held.release()
    assert path.exists() == (change == "replaced")
