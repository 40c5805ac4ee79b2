"""Who may use a database file, and who does? `HeldFile`: one process at a time, by inode.

A lock lies on the database file itself, not on its name or on a file beside it. So it holds under
every name of the file: symlinks, hard links, bind mounts, a folder that was renamed. The system
releases it when the process ends, however it ends, and nothing is left behind. A child process that
was forked does not keep it.

    held = HeldFile.take(Path("study.db"), wait_s=0)
    connection = held.connect()                       # SQLite's, on this file and no other
    held.release()

Method. On Linux it is an open file description lock (`fcntl(2)`, F_OFD_SETLK) on one byte far
behind the data. It is independent of the locks that SQLite puts on the same file, on NFS too, where
`flock` is not. SQLite's own locks are of a process: closing any descriptor of the file drops them,
so a file that this process holds is never opened a second time. Elsewhere a lock file beside the
database is used (`filelock`), and what is said of names above does not hold.

This module does not look into the file. `search.database` does.
"""

import errno
import logging
import os
import sqlite3
import stat
import struct
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from sensitivity.core.file_names import url_scheme
from sensitivity.core.words import printable
from sensitivity.errors import OutputError, StoreError

if sys.platform == "linux":
    import fcntl

BUSY_WAIT_S = 30.0
"""How long SQLite waits for another program's lock inside the file."""
_BYTE = 2**62
"""The byte that is locked; SQLite locks 512 bytes from 2**30."""
_SQLITE_BYTES = (2**30, 512)
_EVERY_S = 0.05
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_FULL = (errno.ENOSPC, errno.EDQUOT)
_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)
_NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS)

log = logging.getLogger(__name__)
_held: "dict[tuple[int, int], HeldFile]" = {}
"""What this process holds, by (device, inode)."""
_guard = threading.Lock()


class HeldFile:
    """A database file that this process holds. Make it with `take`.

    Attributes:
        path: as it was given.
        is_writable: whether the file may be written.
    """

    def __init__(self, path: Path, descriptor: int, *, is_writable: bool) -> None:
        self.path, self.is_writable = path, is_writable
        self._where = path.absolute()
        self._descriptor = descriptor
        self._identity = _identity(os.fstat(descriptor))
        self._beside: FileLock | None = None

    @classmethod
    def take(cls, path: Path, *, wait_s: float = 0) -> Self:
        """Hold the file at `path`, which is made if it is not there, as its folder is.

        Waits up to `wait_s` seconds for another process that holds it.

        Raises:
            OutputError: the file or its folder cannot be made or opened, or it is no regular file;
                or the path is a URL, which is not shown, since it may hold a password.
            StoreError: another process holds it; the message says which.
        """
        scheme = url_scheme(path)
        if scheme is not None:
            raise OutputError(
                f"`storage` is a {scheme}:// URL; expected a path on this machine, since a study is"
                " kept in an SQLite file: name one, such as sensitivity-runs/my-study.db"
            )
        until = time.monotonic() + wait_s
        while True:
            try:
                held = cls._try(path)
            except OSError as error:
                raise _cannot_open(path, error) from None
            except ValueError as error:  # a NUL in the name
                raise OutputError(
                    f"{printable(str(path))} cannot be opened ({error}); name another `storage`"
                ) from None
            if isinstance(held, cls):
                return held
            if time.monotonic() >= until:
                raise StoreError(
                    f"{path} is in use by another search{held}; expected one at a time: wait for"
                    " it, or name another `storage`"
                )
            time.sleep(_EVERY_S)

    @classmethod
    def _try(cls, path: Path) -> Self | str:
        """The held file; in words which process holds it, where another does."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with _guard:
            if path.exists():
                _check_regular(path)
                if _identity(os.stat(path)) in _held:
                    return f" (of this process, {os.getpid()})"
            descriptor, is_writable = _opened(path)
            held = cls(path, descriptor, is_writable=is_writable)
            if not held._lock():
                who = holder_of(descriptor)
                os.close(descriptor)
                return f" ({who})" if who else ""
            _held[held._identity] = held
        if not held.is_in_place():  # it was replaced while it was opened
            held.release()
            return ""
        names = os.fstat(descriptor).st_nlink
        if names > 1:
            log.warning(
                "%s has %d names (hard links): use one of them only, since SQLite finds what a"
                " process left half done under the name that it used",
                path,
                names,
            )
        return held

    def _lock(self) -> bool:
        if sys.platform == "linux":
            kind = fcntl.F_WRLCK if self.is_writable else fcntl.F_RDLCK
            try:
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _flock(kind, _BYTE, 1))
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    return False
                os.close(self._descriptor)
                raise
            return True
        self._beside = FileLock(f"{os.path.realpath(self.path)}.lock")
        try:
            self._beside.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def is_in_place(self) -> bool:
        """Whether the path still leads to this file: it was not moved, deleted or replaced."""
        try:
            return _identity(os.stat(self._where)) == self._identity
        except OSError:
            return False

    def connect(self) -> sqlite3.Connection:
        """A connection to this file. It makes none, and waits `BUSY_WAIT_S` for locks in the file.

        Text that is no UTF-8 is read with surrogates in place of its bytes.

        Raises:
            OutputError: the path leads to another file or to none.
            sqlite3.Error: as SQLite says.
        """
        if not self.is_in_place():
            raise moved(self.path)
        mode = "rw" if self.is_writable else "ro"
        connection = sqlite3.connect(
            f"{self._where.as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_WAIT_S,
            check_same_thread=False,
        )
        connection.text_factory = _text
        return connection

    def other_user(self) -> str | None:
        """Which process has locked the file inside SQLite, in words; None where none is seen."""
        return _process(_locker(self._descriptor))

    def release(self) -> None:
        """Let other processes have the file. The connections must be closed before."""
        with _guard:
            if _held.get(self._identity) is not self:
                return
            del _held[self._identity]
            if sys.platform == "linux":  # for a child that was forked just now, too
                fcntl.fcntl(self._descriptor, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, _BYTE, 1))
            os.close(self._descriptor)
        if self._beside is not None:
            self._beside.release()


def moved(path: Path) -> OutputError:
    """What is said where a database is no longer where it was opened."""
    return OutputError(
        f"{path} was moved, renamed, replaced or deleted while it was in use; expected the same"
        " file to the end: put it back, or name its new place as `storage`, and run the same"
        " command, it goes on"
    )


def holder_of(descriptor: int) -> str | None:
    """Which process holds the file of a descriptor, in words; None where that cannot be seen.

    It is seen for processes of the same user and of the same container.
    """
    wanted = _identity(os.fstat(descriptor))
    for process in _processes():
        try:
            numbers = os.listdir(f"/proc/{process}/fd")
        except OSError:
            continue
        for number in numbers:
            try:
                if _identity(os.stat(f"/proc/{process}/fd/{number}")) != wanted:
                    continue
                with open(f"/proc/{process}/fdinfo/{number}", encoding="utf-8") as file:
                    if "OFDLCK" in file.read():
                        return _process(process)
            except OSError:
                continue
    return None


def _processes() -> Iterator[int]:
    try:
        names = os.listdir("/proc")
    except OSError:
        return
    own = os.getpid()
    yield from (int(name) for name in names if name.isdigit() and int(name) != own)


def _process(number: int | None) -> str | None:
    if number is None:
        return None
    try:
        with open(f"/proc/{number}/comm", encoding="utf-8", errors="replace") as file:
            return f"process {number}, {printable(file.read().strip())}"
    except OSError:
        return f"process {number}"


def _locker(descriptor: int) -> int | None:
    """The process that has one of SQLite's locks on the file, if it is another one."""
    if sys.platform != "linux":
        return None
    try:
        found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, *_SQLITE_BYTES))
    except OSError:
        return None
    kind, _, _, _, process = struct.unpack_from("hhqqi", found)
    return process if kind != fcntl.F_UNLCK and process not in (-1, 0, os.getpid()) else None


def _flock(kind: int, start: int, length: int) -> bytes:
    """`struct flock` of Linux for a range of bytes."""
    return struct.pack("hhqqi0q", kind, os.SEEK_SET, start, length, 0)


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


def _check_regular(path: Path) -> None:
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind != stat.S_IFREG:
        raise OutputError(
            f"{path} cannot be written: it is {_KINDS.get(kind, 'no regular file')}, expected a"
            " file; name a `storage` that is one, or that is not there yet"
        )


def _opened(path: Path) -> tuple[int, bool]:
    """A descriptor, and whether it may be written; a file that is not there is made."""
    flags = os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)
    try:
        return os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o644), True
    except OSError as error:
        if error.errno not in _READ_ONLY or not path.is_file():
            raise
        return os.open(path, flags | os.O_RDONLY), False


def _cannot_open(path: Path, error: OSError) -> OutputError:
    reason = error.strerror or str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return too_many_files(path)
    if error.errno in _FULL:
        return OutputError(
            f"{path} cannot be written ({reason}); expected a disk with room: free some and run"
            " the same command, or name a `storage` on another disk"
        )
    if error.errno in _NO_LOCKS:
        return OutputError(
            f"{path} cannot be locked ({reason}); expected a file system with locks: name a"
            " `storage` on another one"
        )
    if error.errno == errno.ENAMETOOLONG:
        return OutputError(
            f"{printable(str(path)[:80])}... cannot be written ({reason}); name a `storage` with a"
            " shorter name"
        )
    return OutputError(
        f"{path} cannot be written ({reason}); name a `storage` in a folder that can be"
    )


def too_many_files(path: Path) -> OutputError:
    """What is said where this process or the system has no descriptor left."""
    return OutputError(
        f"{path} cannot be opened: too many open files; expected a few descriptors to be free:"
        " raise the limit (`ulimit -n`) or close other programs, and run the same command, it"
        " goes on"
    )


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _let_go() -> None:
    """In a forked child: it holds nothing of its parent's."""
    global _guard
    for held in _held.values():
        os.close(held._descriptor)
    _held.clear()
    _guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
