"""Databases of earlier versions, and processes that use one database at the same time.

`tests/data/databases/schema-N.sql` is what the last version of that schema wrote: a search without
a model (`support.fake_search`), as SQL. A new file is made by `write_dump`, from a database that
this version wrote.
"""

import multiprocessing
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from support.paths import ROOT

FOLDER = ROOT / "tests" / "data" / "databases"


def restore_dump(name: str, path: Path) -> Path:
    """The database of `name` at `path`."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript((FOLDER / f"{name}.sql").read_text())
    return path


def write_dump(path: Path, name: str) -> None:
    """Keep the database at `path` as `name`."""
    with closing(sqlite3.connect(path)) as connection:
        (FOLDER / f"{name}.sql").write_text("\n".join(connection.iterdump()) + "\n")


def run_at_once(count: int, work: Callable[[int], None], *, wait_s: float = 60) -> list[int | None]:
    """Call `work(number)` in so many forks of this process, which begin at the same moment.

    Returns their exit codes: 0 for what returned, 1 for what raised.
    """
    context = multiprocessing.get_context("fork")
    begin = context.Barrier(count)

    def main(number: int) -> None:
        begin.wait(wait_s)
        work(number)

    processes = [context.Process(target=main, args=(number,)) for number in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(wait_s)
    codes = [process.exitcode for process in processes]
    for process in processes:
        process.kill()
        process.join()
    return codes
