"""How is a database file opened, by whoever writes it or only reads it? `OpenFile`.

An `OpenFile` is one file, known by its inode, whatever happens to its name meanwhile. Two kinds of
it are used: `search.held_file` writes, alone or with others that share the file, and
`search.read_file` reads beside whoever writes.

    file.connect()                      # SQLite's connection to this file and no other
    file.is_in_place()                  # whether the path still leads to it

Descriptors. SQLite's own locks belong to a process, and closing any descriptor of a file drops all
of them (https://www.sqlite.org/howtocorrupt.html, 2.2). So a descriptor that is no longer needed is
closed when nothing else in this process has the file open, and kept until then.

This module does not look into the file. `search.database` does.
"""

import errno
import os
import sqlite3
import stat
import struct
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from sensitivity.core.disk_room import free_words
from sensitivity.core.file_names import url_scheme
from sensitivity.core.words import printable
from sensitivity.errors import OutputError

if sys.platform == "linux":
    import fcntl

Identity = tuple[int, int]
"""(device, inode) of a file."""

BUSY_WAIT_S = 30.0
"""How long SQLite waits for another program's lock inside the file."""
_SQLITE_BYTES = (2**30, 512)
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

_guard = threading.Lock()
_users: Counter[Identity] = Counter()
_unneeded: dict[Identity, list[int]] = {}
"""Descriptors that are closed when the file's last user is gone."""


class OpenFile:
    """A database file that this process has open.

    Args:
        path: as it was given.
        descriptor: of the file; it is this object's from now on.
        is_writable: whether the file may be written.
    """

    def __init__(self, path: Path, descriptor: int, *, is_writable: bool) -> None:
        self.path, self.is_writable = path, is_writable
        self.where = path.absolute()
        self.descriptor = descriptor
        self.identity = identity_of(os.fstat(descriptor))
        self._is_open = True
        with _guard:
            _users[self.identity] += 1

    def is_in_place(self) -> bool:
        """Whether the path still leads to this file: it was not moved, deleted or replaced."""
        try:
            return identity_of(os.stat(self.where)) == self.identity
        except OSError:
            return False

    def connect(self) -> sqlite3.Connection:
        """A connection to this file. It makes none, and waits `BUSY_WAIT_S` for locks in the file.

        It begins no transaction by itself: `search.places` does, as each kind needs. Text that is
        no UTF-8 is read with surrogates in place of its bytes.

        Raises:
            OutputError: the path leads to another file or to none.
            sqlite3.Error: as SQLite says.
        """
        if not self.is_in_place():
            raise moved(self.path)
        mode = "rw" if self.is_writable else "ro"
        connection = sqlite3.connect(
            f"{self.where.as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_WAIT_S,
            check_same_thread=False,
            isolation_level=None,
        )
        connection.text_factory = _text
        return connection

    def other_user(self) -> str | None:
        """Which process has locked the file inside SQLite, in words; None where none is seen."""
        return _process(_locker(self.descriptor))

    def release(self) -> None:
        """Leave the file. The connections must be closed before."""
        self.close()

    def close(self) -> None:
        """Close the descriptor, now or when nothing in this process uses the file."""
        if not self._is_open:
            return
        self._is_open = False
        with _guard:
            _users[self.identity] -= 1
            _unneeded.setdefault(self.identity, []).append(self.descriptor)
            if _users[self.identity] <= 0:
                del _users[self.identity]
                for unneeded in _unneeded.pop(self.identity):
                    os.close(unneeded)


def identity_of(found: os.stat_result) -> Identity:
    """What a file is known by, under each of its names."""
    return found.st_dev, found.st_ino


def refuse_url(path: Path) -> None:
    """Raise OutputError for a URL, which is not shown, since it may hold a password."""
    scheme = url_scheme(path)
    if scheme is not None:
        raise OutputError(
            f"`storage` is a {scheme}:// URL where a file is meant; expected a path on this"
            " machine: name one, such as sensitivity-runs/my-study.db"
        )


def open_descriptor(path: Path) -> tuple[int, bool]:
    """A descriptor, and whether it may be written; a file that is not there is made, for its owner
    alone: what a study measures is nobody else's.
    """
    flags = os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0)
    try:
        return os.open(path, flags | os.O_RDWR | os.O_CREAT, 0o600), True
    except OSError as error:
        if error.errno not in _READ_ONLY or not path.is_file():
            raise
        return os.open(path, flags | os.O_RDONLY), False


def check_regular(path: Path) -> None:
    """Raise OutputError for what is there and is no file."""
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind != stat.S_IFREG:
        raise OutputError(
            f"{path} cannot be written: it is {_KINDS.get(kind, 'no regular file')}, expected a"
            " file; name a `storage` that is one, or that is not there yet"
        )


def cannot_open(path: Path, error: OSError | ValueError) -> OutputError:
    """What is said where a file cannot be made, opened or locked."""
    if isinstance(error, ValueError):  # a NUL in the name
        return OutputError(
            f"{printable(str(path))} cannot be opened ({error}); name another `storage`"
        )
    reason = error.strerror or str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return too_many_files(path)
    if error.errno in _FULL:
        return OutputError(
            f"{path} cannot be written ({reason}; {free_words(path)}); expected a disk with room:"
            " free some and run the same command, or name a `storage` on another disk"
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


def moved(path: Path) -> OutputError:
    """What is said where a database is no longer where it was opened."""
    return OutputError(
        f"{path} was moved, renamed, replaced or deleted while it was in use; expected the same"
        " file to the end: put it back, or name its new place as `storage`, and run the same"
        " command, it goes on"
    )


def too_many_files(path: Path) -> OutputError:
    """What is said where this process or the system has no descriptor left."""
    return OutputError(
        f"{path} cannot be opened: too many open files; expected a few descriptors to be free:"
        " raise the limit (`ulimit -n`) or close other programs, and run the same command, it"
        " goes on"
    )


def holder_of(descriptor: int) -> str | None:
    """Which process holds the file of a descriptor, in words; None where that cannot be seen.

    It is seen for processes of the same user and of the same container.
    """
    wanted = identity_of(os.fstat(descriptor))
    for process in _processes():
        try:
            numbers = os.listdir(f"/proc/{process}/fd")
        except OSError:
            continue
        for number in numbers:
            try:
                if identity_of(os.stat(f"/proc/{process}/fd/{number}")) != wanted:
                    continue
                with open(f"/proc/{process}/fdinfo/{number}", encoding="utf-8") as file:
                    if "OFDLCK" in file.read():
                        return _process(process)
            except OSError:
                continue
    return None


def flock(kind: int, start: int, length: int) -> bytes:
    """`struct flock` of Linux for a range of bytes."""
    return struct.pack("hhqqi0q", kind, os.SEEK_SET, start, length, 0)


def flock_found(found: bytes) -> tuple[int, int]:
    """(kind, process) of what F_GETLK or F_OFD_GETLK answered; the process is -1 for a lock of an
    open file description.
    """
    kind, _, _, _, process = struct.unpack_from("hhqqi", found)
    return kind, process


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
        found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, flock(fcntl.F_WRLCK, *_SQLITE_BYTES))
    except OSError:
        return None
    kind, process = flock_found(found)
    return process if kind != fcntl.F_UNLCK and process not in (-1, 0, os.getpid()) else None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def _let_go() -> None:
    """In a forked child: what its parent no longer needs, the child does not need either."""
    global _guard
    for descriptors in _unneeded.values():
        for descriptor in descriptors:
            os.close(descriptor)
    _unneeded.clear()
    _guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
