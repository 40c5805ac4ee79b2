"""What went wrong in SQLite, and what is the next step? `sqlite_error`.

SQLite says what failed by a code (https://www.sqlite.org/rescode.html): a primary one, and an
extended one that says more. Each kind has its own words here, and none of them advises to remove a
database: what lies in it took hours.

    translate_errors(engine, held)      # from now on the engine's errors are UserErrors
"""

import errno
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from sqlalchemy import Engine, event
from sqlalchemy.engine import ExceptionContext

from sensitivity.core.disk_room import free_words
from sensitivity.core.words import first_line, printable
from sensitivity.errors import DamageError, InUseError, OutputError, StoreError, UserError
from sensitivity.search.open_file import BUSY_WAIT_S, OpenFile, moved, too_many_files

LOCK_WAIT_S = 30.0
"""How long a statement, or `Place.locked`, waits for what others have locked: then they are named.
"""
GOES_ON = "run the same command, it goes on"
_WRITES = (
    sqlite3.SQLITE_IOERR_WRITE,
    sqlite3.SQLITE_IOERR_FSYNC,
    sqlite3.SQLITE_IOERR_DIR_FSYNC,
    sqlite3.SQLITE_IOERR_TRUNCATE,
)
_MOVED = (sqlite3.SQLITE_READONLY_DBMOVED, sqlite3.SQLITE_IOERR_VNODE)
_ROLLBACK = (
    sqlite3.SQLITE_READONLY_ROLLBACK,
    sqlite3.SQLITE_READONLY_RECOVERY,
    sqlite3.SQLITE_READONLY_CANTINIT,
    sqlite3.SQLITE_READONLY_CANTLOCK,
)
_LOCKING = (
    sqlite3.SQLITE_IOERR_LOCK,
    sqlite3.SQLITE_IOERR_UNLOCK,
    sqlite3.SQLITE_IOERR_RDLOCK,
    sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK,
    sqlite3.SQLITE_IOERR_BLOCKED,
)
_PATH_BYTES = 512 - len("-journal")
"""The longest path that SQLite opens."""


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what a driver reported in it, and the same of its causes."""
    while error is not None:
        yield error
        if isinstance(original := getattr(error, "orig", None), BaseException):
            yield original
        error = error.__cause__ or error.__context__


def connect(held: OpenFile) -> sqlite3.Connection:
    """A connection to an open file. Raises UserErrors for what SQLite reports."""
    try:
        return held.connect()
    except (sqlite3.Error, MemoryError) as error:
        raise sqlite_error(held, error) from None


def translate_errors(engine: Engine, held: OpenFile) -> None:
    """Have an engine raise UserErrors for what SQLite reports.

    IntegrityError is left as it is: Optuna handles it where two processes add the same row.
    """

    @event.listens_for(engine, "handle_error")
    def translate(context: ExceptionContext) -> None:
        error = context.original_exception
        if isinstance(error, sqlite3.IntegrityError):
            return
        if isinstance(error, sqlite3.Error | MemoryError):
            raise sqlite_error(held, error)


def sqlite_error(held: OpenFile, error: sqlite3.Error | MemoryError) -> UserError:
    """The error of a database in words: what was found, what was expected, the next step."""
    path, reason = held.path, printable(first_line(error))
    code = getattr(error, "sqlite_errorcode", None)
    primary = None if code is None else code & 0xFF
    if (
        isinstance(error, MemoryError)
        or primary == sqlite3.SQLITE_NOMEM
        or (code == sqlite3.SQLITE_IOERR_NOMEM)
    ):
        return StoreError(
            f"{path} cannot be read or written: too little memory; expected some to be free: close"
            f" other programs and {GOES_ON}"
        )
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL):
        return _busy(held)
    if code in _MOVED or not held.is_in_place():
        return moved(path)
    if primary == sqlite3.SQLITE_FULL or code in _WRITES:
        return OutputError(
            f"{path} cannot be written ({reason}): the disk, a quota or a limit on the size of"
            f" files is reached ({free_words(path)}); expected a disk with room: free some and"
            f" {GOES_ON}"
        )
    if primary == sqlite3.SQLITE_READONLY:
        return _read_only(path, code, reason)
    if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH):
        return _cannot_open(path, reason)
    if primary == sqlite3.SQLITE_NOTADB:
        return StoreError(
            f"{path} is no database of sensitivity ({reason}); expected an SQLite file that a"
            " search made: name another `storage`"
        )
    if code in _LOCKING:
        return StoreError(
            f"{path} cannot be locked ({reason}); expected a file system with locks: name a"
            " `storage` on another one, or copy the database there"
        )
    if primary == sqlite3.SQLITE_IOERR:
        return StoreError(
            f"{path} cannot be read or written ({reason}); expected a disk that works: look at it"
            f" and at the connection to it, then {GOES_ON}"
        )
    return damaged(path, reason)


def damaged(path: Path | str, reason: str) -> DamageError:
    """What is said of a file whose tables cannot be read."""
    return DamageError(
        f"{path} is damaged ({reason}); expected the tables that a search wrote: keep the file, and"
        " name as `storage` a backup of it, what `sqlite3 FILE .recover` saves, or a new database"
    )


def _busy(held: OpenFile) -> InUseError:
    who = held.other_user()
    return InUseError(
        f"{held.path} is busy: another program has locked it for more than {BUSY_WAIT_S:g} s"
        f"{f' ({who})' if who else ''}; expected it to be free: wait until that program is done,"
        f" or end it, and {GOES_ON}"
    )


def _read_only(path: Path, code: int | None, reason: str) -> OutputError:
    if code in _ROLLBACK:
        return OutputError(
            f"{path} is read-only, and a process that was killed left a change in it half done"
            " (its -journal file); expected to be allowed to write: open it once with the rights"
            " to write"
        )
    what = (
        "lies in a folder that" if code == sqlite3.SQLITE_READONLY_DIRECTORY else "is a file that"
    )
    return OutputError(
        f"{path} cannot be written ({reason}): it {what} may only be read; expected the right to"
        " write: give it, or name a `storage` in a folder that can be written"
    )


def _cannot_open(path: Path, reason: str) -> OutputError:
    """SQLite says only "unable to open database file"; what is seen from here says why."""
    if _no_descriptor_left():
        return too_many_files(path)
    length = len(os.fsencode(path.absolute()))
    if length > _PATH_BYTES:
        return OutputError(
            f"{path} cannot be opened: its path has {length} bytes; SQLite opens at most"
            f" {_PATH_BYTES}: name a `storage` with a shorter path"
        )
    return OutputError(
        f"{path} cannot be written ({reason}); name a `storage` in a folder that can be, on a disk"
        " with room"
    )


def _no_descriptor_left() -> bool:
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno in (errno.EMFILE, errno.ENFILE)
    return False


def refuse_unreadable(path: Path | str, error: Exception) -> NoReturn:
    """Raise what is said of an error that no code explains."""
    raise damaged(path, printable(first_line(error))) from None
