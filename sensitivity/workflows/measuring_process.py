"""How are jobs done in a process that a kernel may kill? `MeasuringProcess`.

Method. A child process imports torch, reports that it is ready, and does one job after another. If
it dies, or its GPU no longer answers (a failed assertion in a kernel breaks the CUDA context for
good), it is replaced by a new one, and the job's result is the reason. The parent waits no longer
than it is told.

    with MeasuringProcess(runner) as process:
        result = process.run(job, patience_s=60)

What it does not do: keep results, or choose jobs.
"""

import gc
import multiprocessing
import os
import signal
from contextlib import suppress
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any, Protocol, Self

import torch

from sensitivity.latency.timing.device_jobs import Job, Result
from sensitivity.latency.timing.stopwatch import failure_reason

READY_S = 180.0
"""Seconds that a new process may take to import torch and to start its GPU."""


GENTLE_S = 3.0
"""Seconds that an idle process may take to end."""


class Runner(Protocol):
    """Does jobs: `JobRunner`, or another in tests."""

    @property
    def device(self) -> str:
        """The device that must still answer after a job."""
        ...

    def run(self, job: Job) -> Result:
        """Do one job."""
        ...


class ProcessLost(Exception):  # noqa: N818 - it is no error of the program
    """The process died, broke its GPU's context or did not answer; the message says which."""


class MeasuringProcess:
    """A child process that does jobs. Use as a context manager.

    Args:
        runner: What does a job there; it is sent to the child.
        start_method: Of `multiprocessing`; a GPU needs "spawn".
    """

    def __init__(self, runner: Runner, *, start_method: str = "spawn") -> None:
        self.runner = runner
        self._context: Any = multiprocessing.get_context(start_method)
        self._child: multiprocessing.process.BaseProcess | None = None
        self._pipe: Connection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def run(self, job: Job, *, patience_s: float) -> Result:
        """Do a job in the child, which is started if there is none.

        Raises:
            ProcessLost: The child died, lost its GPU, or took longer than `patience_s` seconds. It
                is gone then, and the next job gets a new one.
        """
        pipe = self._started()
        try:
            pipe.send(job)
            kind, answer = self._answer(pipe, patience_s)
        except (OSError, EOFError) as error:
            reason = self._death()
            self.stop(wait_s=0)
            raise ProcessLost(reason) from error
        if kind == "lost":
            self.stop(wait_s=0)
            raise ProcessLost(answer)
        return answer

    def stop(self, *, wait_s: float = GENTLE_S) -> None:
        """End the child: it ends of its own accord if it waits for a job, and is killed if not.

        Args:
            wait_s: Seconds that it may take to end.
        """
        if self._pipe is not None:
            self._pipe.close()
        if self._child is not None:
            self._child.join(wait_s)
            self._child.kill()
            self._child.join(10)
        self._child = self._pipe = None

    def _started(self) -> Connection:
        if self._child is None or self._pipe is None:
            mine: Connection
            mine, theirs = self._context.Pipe()
            child = self._context.Process(target=_serve, args=(theirs, self.runner))
            child.start()
            theirs.close()
            self._child, self._pipe = child, mine
            try:
                self._answer(mine, READY_S)
            except (OSError, EOFError) as error:
                reason = self._death()
                self.stop(wait_s=0)
                raise ProcessLost(f"no process to measure in: {reason}") from error
            return mine
        return self._pipe

    def _answer(self, pipe: Connection, patience_s: float) -> tuple[str, Result]:
        if not pipe.poll(patience_s):
            raise TimeoutError
        answer: tuple[str, Result] = pipe.recv()
        return answer

    def _death(self) -> str:
        """Why there is no answer."""
        child = self._child
        if child is None:
            return "the process could not be started"
        child.join(0.3)
        if child.exitcode is None:
            return "it did not end in time"
        if child.exitcode < 0:
            return f"the process died ({signal.Signals(-child.exitcode).name})"
        return f"the process ended with exit code {child.exitcode}"


def _serve(pipe: Connection, runner: Runner) -> None:
    """The child: do the jobs that come until the pipe closes."""
    os.dup2(2, 1)  # the parent's stdout may hold JSON
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides what an interruption means
    device = torch.device(runner.device)
    if device.type == "cuda":
        torch.zeros(1, device=device)
    gc.collect()
    gc.freeze()  # memory is released after each job; what was imported is not searched then
    pipe.send(("ready", {}))
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        try:
            answer: tuple[str, object] = ("done", runner.run(job))
        except Exception as error:
            answer = ("done", {"failed": [failure_reason(error)]})
        if (lost := _lost_gpu(device)) is not None:
            answer = ("lost", lost)
        with suppress(OSError):  # the parent has gone
            pipe.send(answer)


def _lost_gpu(device: torch.device) -> str | None:
    """Why the GPU no longer answers this process; None if it does."""
    if device.type != "cuda":
        return None
    try:
        torch.cuda.synchronize(device)
        torch.zeros(1, device=device).cpu()
    except Exception as error:
        return failure_reason(error)
    return None
