"""Who may write a database file, and who does? `HeldFile`: one process at a time, by inode.

A lock lies on the database file itself, not on its name or on a file beside it. So it holds under
every name of the file: symlinks, hard links, bind mounts, a folder that was renamed. The system
releases it when the process ends, however it ends, and nothing is left behind. A child process that
was forked does not keep it. Who only reads takes no lock, and can see whether a process holds it
(`search.read_file`).

    held = HeldFile.take(Path("study.db"), wait_s=0)
    connection = held.connect()                       # SQLite's, on this file and no other
    held.release()

Method. On Linux it is an open file description lock (`fcntl(2)`, F_OFD_SETLK) on one byte far
behind the data. It is independent of the locks that SQLite puts on the same file, on NFS too, where
`flock` is not. Elsewhere a lock file beside the database is used (`filelock`), and what is said of
names above does not hold.

This module does not look into the file. `search.database` does.
"""

import errno
import logging
import os
import sys
import threading
import time
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from sensitivity.errors import InUseError
from sensitivity.search.open_file import (
    Identity,
    OpenFile,
    cannot_open,
    check_regular,
    flock,
    flock_found,
    holder_of,
    identity_of,
    open_descriptor,
    refuse_url,
)

if sys.platform == "linux":
    import fcntl

_BYTE = 2**62
"""The byte that is locked; SQLite locks 512 bytes from 2**30."""
_EVERY_S = 0.05

log = logging.getLogger(__name__)
_held: "dict[Identity, HeldFile]" = {}
"""What this process holds."""
_guard = threading.Lock()


class HeldFile(OpenFile):
    """A database file that this process holds. Make it with `take`."""

    def __init__(self, path: Path, descriptor: int, *, is_writable: bool) -> None:
        super().__init__(path, descriptor, is_writable=is_writable)
        self._beside: FileLock | None = None

    @classmethod
    def take(cls, path: Path, *, wait_s: float = 0) -> Self:
        """Hold the file at `path`, which is made if it is not there, as its folder is.

        Waits up to `wait_s` seconds for another process that holds it.

        Raises:
            OutputError: the file or its folder cannot be made or opened, or it is no regular file;
                or the path is a URL, which is not shown, since it may hold a password.
            InUseError: another process holds it; the message says which.
        """
        refuse_url(path)
        until = time.monotonic() + wait_s
        while True:
            try:
                held = cls._try(path)
            except (OSError, ValueError) as error:
                raise cannot_open(path, error) from None
            if isinstance(held, cls):
                return held
            if time.monotonic() >= until:
                raise InUseError(
                    f"{path} is in use by another search{held}; expected one at a time: wait for"
                    " it (`sensitivity status` shows how far it is), or name another `storage`"
                )
            time.sleep(_EVERY_S)

    @classmethod
    def _try(cls, path: Path) -> Self | str:
        """The held file; in words which process holds it, where another does."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with _guard:
            if path.exists():
                check_regular(path)
                if identity_of(os.stat(path)) in _held:
                    return f" (of this process, {os.getpid()})"
            descriptor, is_writable = open_descriptor(path)
            held = cls(path, descriptor, is_writable=is_writable)
            if not held._lock():
                who = holder_of(descriptor)
                held.close()
                return f" ({who})" if who else ""
            _held[held.identity] = held
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
                fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, flock(kind, _BYTE, 1))
            except OSError as error:
                if error.errno in (errno.EACCES, errno.EAGAIN):
                    return False
                self.close()
                raise
            return True
        self._beside = FileLock(f"{os.path.realpath(self.path)}.lock")
        try:
            self._beside.acquire(timeout=0)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Let other processes have the file. The connections must be closed before."""
        with _guard:
            if _held.get(self.identity) is not self:
                return
            del _held[self.identity]
            if sys.platform == "linux":  # for a child that was forked just now, too
                fcntl.fcntl(self.descriptor, fcntl.F_OFD_SETLK, flock(fcntl.F_UNLCK, _BYTE, 1))
            self.close()
        if self._beside is not None:
            self._beside.release()


def holder_seen(descriptor: int, identity: Identity) -> str | None:
    """Which process holds a file, in words: "process 12, python"; None where none does.

    "another process" where it holds the file and cannot be looked at. Only Linux tells: elsewhere
    it is None unless this process holds the file.
    """
    if identity in _held:
        return f"process {os.getpid()}, this one"
    if sys.platform != "linux":
        return None
    try:
        found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, flock(fcntl.F_WRLCK, _BYTE, 1))
    except OSError:
        return None
    if flock_found(found)[0] == fcntl.F_UNLCK:
        return None
    return holder_of(descriptor) or "another process"


def _let_go() -> None:
    """In a forked child: it holds nothing of its parent's."""
    global _guard
    for held in _held.values():
        held.close()
    _held.clear()
    _guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
