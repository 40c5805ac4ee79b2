"""How do tests run the same code in several processes? `Forks`: forks of this one, cheap to start.

    with Forks() as forks:
        forks.start(work, 1)             # work(1) in a process of its own, which then ends
        forks.start(work, 2)
        forks.results()                  # what both returned, as JSON gives it back

A fork has the modules of this process, and opens databases itself. It ends without the cleanup of
the interpreter. What is left at the end is killed.
"""

import json
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

WAIT_S = 30.0
"""How long a process may take."""


class Forks:
    """Processes of one test, by number."""

    def __init__(self) -> None:
        self.running: dict[int, int] = {}
        """{process: the descriptor that its result comes from}"""

    def start(self, work: Callable[..., Any], *arguments: Any) -> int:
        """Run `work` in a new process, whose number is returned."""
        reads, writes = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of threads, from Python 3.12 on
            process = os.fork()
        if process:
            os.close(writes)
            self.running[process] = reads
            return process
        code = 1
        try:
            os.close(reads)
            answer = json.dumps(work(*arguments)).encode()
            while answer:
                answer = answer[os.write(writes, answer) :]
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def results(self) -> list[Any]:
        """What each process returned, in the order of their beginning. Raises where one failed."""
        return [self.result(process) for process in list(self.running)]

    def result(self, process: int) -> Any:
        """What a process returned, once it has ended."""
        with os.fdopen(self.running.pop(process), "rb") as file:
            answer = file.read()
        _, status = os.waitpid(process, 0)
        if status:
            raise AssertionError(f"a process ended with {os.waitstatus_to_exitcode(status)}")
        return json.loads(answer)

    def kill(self, process: int) -> None:
        """Kill a process with SIGKILL, and wait until it is gone."""
        os.close(self.running.pop(process))
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in list(self.running):
            with suppress(OSError):
                self.kill(process)


def wait_until(holds: Callable[[], Any], *, wait_s: float = WAIT_S) -> None:
    """Come back once something holds. Raises AssertionError where it does not for long."""
    until = time.monotonic() + wait_s
    while not holds():
        if time.monotonic() > until:
            raise AssertionError(f"it did not come to hold within {wait_s:g} s")
        time.sleep(0.01)
