"""How is a database read while another process writes it? `ReadFile`: without the writer's lock.

Reading beside a search is safe, since SQLite's own locks keep a reader from half of a transaction.
A reader sees one state of the database within a transaction, and waits for a commit that is under
way; a commit waits for it. So transactions of readers are short.

    file = ReadFile.open(Path("study.db"))
    connection = file.connect()                       # refuses to write
    file.holder()                                     # "process 4711, python", None

What a process that was killed left half done is undone by whoever opens the file next, a reader
too, where the file may be written. Nothing else is changed.
"""

import os
import sqlite3
from pathlib import Path
from typing import Self

from sensitivity.errors import StoreError
from sensitivity.search.held_file import holder_seen
from sensitivity.search.open_file import OpenFile, cannot_open, check_regular, refuse_url


class ReadFile(OpenFile):
    """A database file that this process reads. Make it with `open`."""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open the file at `path`.

        Raises:
            StoreError: it is not there.
            OutputError: it cannot be opened, or is no regular file.
        """
        refuse_url(path)
        try:
            check_regular(path)
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_NONBLOCK", 0))
            return cls(path, descriptor, is_writable=os.access(path, os.W_OK))
        except FileNotFoundError:
            raise StoreError(
                f"{path} is not there; expected the database of a search: run `sensitivity search`"
                " first, or name its database in `storage`"
            ) from None
        except (OSError, ValueError) as error:
            raise cannot_open(path, error) from None

    def connect(self) -> sqlite3.Connection:
        """A connection that refuses to write.

        Raises as `OpenFile.connect`.
        """
        connection = super().connect()
        connection.execute("PRAGMA query_only = ON")
        return connection

    def holder(self) -> str | None:
        """Which process writes the file, in words; None where none does."""
        return holder_seen(self.descriptor, self.identity)
