"""May a rank that failed end now, without stopping the others? `LocalRanks`.

torchrun stops every rank of a host when one exits with an error. A rank whose own work is over for
good must not end the work of the others, so it stays until they have ended too, and exits then with
its own code.

    with LocalRanks(rank) as ranks:
        code = supervise()
        ranks.is_over()
        while code and ranks.others_work():
            time.sleep(0.5)

Method. Each rank holds a lock on a file of its own in a folder that all ranks of a launch know. The
system drops the lock with the process, however it ends. A rank whose work is over gives its lock up
and looks at those of the others; so of two ranks that failed, none waits for the other.
"""

import fcntl
import hashlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from sensitivity.workflows.launch import Rank

APPEAR_S = 60.0
"""Seconds that the other ranks may take to begin: torchrun starts all of them at once."""


class LocalRanks:
    """The ranks of a launch on this host. Use as a context manager.

    Args:
        rank: this one.
        folder: where the files lie; None: a folder of this user and launch below the system's
            temporary one.
        clock: gives seconds, from any start.
    """

    def __init__(
        self,
        rank: Rank,
        folder: Path | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rank, self.clock = rank, clock
        self.folder = folder or _folder_of(rank)
        self._held: int | None = None
        self._began = clock()

    def __enter__(self) -> Self:
        """Begin to work: this rank's file is there from now on, and is locked."""
        with suppress(OSError):  # without the folder a rank that failed just ends
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.folder.stat().st_uid == os.geteuid():
                self._held = _locked_file(self.folder, self._name(self.rank.local))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.is_over()
        if not self.others_work():
            shutil.rmtree(self.folder, ignore_errors=True)

    def is_over(self) -> None:
        """This rank's work is over."""
        if self._held is not None:
            os.close(self._held)
            self._held = None

    def others_work(self) -> bool:
        """Whether another rank of this host still works, or has not begun yet."""
        others = [i for i in range(self.rank.local_of) if i != self.rank.local]
        return any(self._works(local) for local in others)

    def _works(self, local: int) -> bool:
        try:
            file = os.open(self.folder / self._name(local), os.O_RDWR)
        except FileNotFoundError:
            return self.folder.is_dir() and self.clock() - self._began < APPEAR_S
        except OSError:
            return False
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(file)
        return False

    @staticmethod
    def _name(local: int) -> str:
        return f"rank-{local}"


def _folder_of(rank: Rank) -> Path:
    """A folder for a launch: torchrun's own number tells launches apart that have one name."""
    text = f"{rank.launch} {os.getppid()}"
    digest = hashlib.sha256(text.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"sensitivity-{os.geteuid()}-{digest}"


def _locked_file(folder: Path, name: str) -> int:
    """A file that is locked before it has its name, so that nobody finds it without its lock."""
    file, path = tempfile.mkstemp(dir=folder, prefix=f".{name}-")
    fcntl.flock(file, fcntl.LOCK_EX)
    os.replace(path, folder / name)
    return file
