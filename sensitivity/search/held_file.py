"""Who may write a database file, and who does? `HeldFile`: one process, or several that share it.

A lock lies on the database file itself, not on its name or on a file beside it. So it holds under
every name of the file: symlinks, hard links, bind mounts, a folder that was renamed. The system
releases it when the process ends, however it ends, and nothing is left behind. A child process that
was forked does not keep it. Who only reads takes no lock, and can see whether a process holds it
(`search.read_file`).

    held = HeldFile.take(Path("study.db"), wait_s=0)
    connection = held.connect()                       # SQLite's, on this file and no other
    held.release()
    held = HeldFile.take(Path("study.db"), shared=True)       # beside others that share it
    with held.locked("schema", number=17, wait_s=30):         # one of them at a time
        ...

Method. On Linux it is an open file description lock (`fcntl(2)`, F_OFD_SETLK) on one byte far
behind the data: a write lock for who has the file alone, a read lock for who shares it. It is
independent of the locks that SQLite puts on the same file, on NFS too, where `flock` is not.
Elsewhere a lock file beside the database is used (`filelock`), what is said of names above does not
hold, and a file cannot be shared.

This module does not look into the file. `search.database` does.
"""

import errno
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from filelock import FileLock, Timeout

from sensitivity.errors import InUseError, OutputError
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
"""The byte that is locked; SQLite locks 512 bytes from 2**30. Names have the 65,536 bytes behind
it.
"""
_EVERY_S = 0.05

log = logging.getLogger(__name__)
_held: "dict[Identity, list[HeldFile]]" = {}
"""What this process holds."""
_guard = threading.Lock()


class HeldFile(OpenFile):
    """A database file that this process holds. Make it with `take`.

    Attributes:
        is_shared: whether other processes may hold it too.
    """

    def __init__(
        self, path: Path, descriptor: int, *, is_writable: bool, is_shared: bool = False
    ) -> None:
        super().__init__(path, descriptor, is_writable=is_writable)
        self.is_shared = is_shared
        self._beside: FileLock | None = None
        self._names: dict[int, threading.Lock] = {}

    @classmethod
    def take(cls, path: Path, *, wait_s: float = 0, shared: bool = False) -> Self:
        """Hold the file at `path`, which is made if it is not there, as its folder is.

        Waits up to `wait_s` seconds for another process that holds it.

        Args:
            path: of the file.
            wait_s: in seconds.
            shared: hold it beside others that share it; else alone.

        Raises:
            OutputError: the file or its folder cannot be made or opened, or it is no regular file;
                or it is to be shared on another system than Linux; or the path is a URL, which is
                not shown, since it may hold a password.
            InUseError: another process holds it; the message says which.
        """
        refuse_url(path)
        if shared and sys.platform != "linux":
            raise OutputError(
                f"{path} cannot be shared by several workers on {sys.platform}; expected Linux, or"
                " a PostgreSQL server: name one as `storage`, or use one worker"
            )
        until = time.monotonic() + wait_s
        while True:
            try:
                return cls._try(path, shared=shared)
            except InUseError:
                if time.monotonic() >= until:
                    raise
            except (OSError, ValueError) as error:
                raise cannot_open(path, error) from None
            time.sleep(_EVERY_S)

    @classmethod
    def _try(cls, path: Path, *, shared: bool) -> Self:
        """The held file. Raises InUseError where another process holds it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with _guard:
            if path.exists():
                check_regular(path)
                own = _held.get(identity_of(os.stat(path)), [])
                if not all(shared and held.is_shared for held in own):
                    raise _in_use(path, shared, own[0].is_shared, f"of this process, {os.getpid()}")
            descriptor, is_writable = open_descriptor(path)
            held = cls(path, descriptor, is_writable=is_writable, is_shared=shared)
            if not held._lock():
                who, is_shared = holder_of(descriptor), _is_shared(descriptor)
                held.close()
                raise _in_use(path, shared, is_shared, who)
            _held.setdefault(held.identity, []).append(held)
        if not held.is_in_place():  # it was replaced while it was opened
            held.release()
            raise _in_use(path, shared, shared, None)
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
            alone = self.is_writable and not self.is_shared
            try:
                return _set_lock(self.descriptor, fcntl.F_WRLCK if alone else fcntl.F_RDLCK, _BYTE)
            except OSError:
                self.close()
                raise
        self._beside = FileLock(f"{os.path.realpath(self.path)}.lock")
        try:
            self._beside.acquire(timeout=0)
        except Timeout:
            return False
        return True

    @contextmanager
    def locked(self, name: str, *, number: int, wait_s: float) -> Iterator[None]:
        """One process and thread at a time has a name; not twice within one another.

        Args:
            name: for the message.
            number: of the name, the same in all processes.
            wait_s: how long to wait for another one, in seconds.

        Raises:
            InUseError: another one has it for longer.
        """
        byte = _BYTE + 1 + number % 2**16
        until = time.monotonic() + wait_s
        with _guard:
            of_threads = self._names.setdefault(byte, threading.Lock())
        if not of_threads.acquire(timeout=wait_s):
            raise self._name_taken(name, wait_s)
        try:
            while sys.platform == "linux" and not _set_lock(self.descriptor, fcntl.F_WRLCK, byte):
                if time.monotonic() >= until:
                    raise self._name_taken(name, wait_s)
                time.sleep(_EVERY_S)
            try:
                yield
            finally:
                if sys.platform == "linux":
                    _set_lock(self.descriptor, fcntl.F_UNLCK, byte)
        finally:
            of_threads.release()

    def _name_taken(self, name: str, wait_s: float) -> InUseError:
        who = holder_of(self.descriptor)
        return InUseError(
            f"{self.path} is busy: another worker has had the lock {name!r} for more than"
            f" {wait_s:g} s{f' ({who})' if who else ''}; expected it to be free: wait until that"
            " worker is done, or end it, and run the same command, it goes on"
        )

    def release(self) -> None:
        """Let other processes have the file. The connections must be closed before."""
        with _guard:
            own = _held.get(self.identity, [])
            if self not in own:
                return
            own.remove(self)
            if not own:
                del _held[self.identity]
            if sys.platform == "linux":  # for a child that was forked just now, too
                _set_lock(self.descriptor, fcntl.F_UNLCK, _BYTE)
            self.close()
        if self._beside is not None:
            self._beside.release()


def _set_lock(descriptor: int, kind: int, byte: int) -> bool:
    """Lock or unlock a byte; False where another one has locked it."""
    try:
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, flock(kind, byte, 1))
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            return False
        raise
    return True


def _is_shared(descriptor: int) -> bool:
    """Whether those that hold a file share it."""
    if sys.platform != "linux":
        return False
    found = fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, flock(fcntl.F_RDLCK, _BYTE, 1))
    return flock_found(found)[0] == fcntl.F_UNLCK


def _in_use(path: Path, shared: bool, is_shared: bool, who: str | None) -> InUseError:
    """What is said of a file that is held.

    Args:
        path: of the file.
        shared: whether it was to be shared.
        is_shared: whether those that hold it share it.
        who: holds it.
    """
    named = f" ({who})" if who else ""
    if is_shared:
        return InUseError(
            f"{path} is in use by workers that share it{named}; expected nobody to use it: wait for"
            " them (`sensitivity status` shows how far they are), join them with `sensitivity"
            " worker`, or name another `storage`"
        )
    if shared:
        return InUseError(
            f"{path} is in use by another search, which has it alone{named}; expected workers that"
            " share it: wait for that search, or end it and start it again as a worker, or name"
            " another `storage`"
        )
    return InUseError(
        f"{path} is in use by another search{named}; expected one at a time: wait for it"
        " (`sensitivity status` shows how far it is), or name another `storage`"
    )


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
    for held in [held for all_held in _held.values() for held in all_held]:
        held.close()
    _held.clear()
    _guard = threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
