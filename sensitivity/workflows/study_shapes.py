"""Which shapes do the shipped studies have? `study_runs`, and `running_studies` in another process.

    with running_studies() as shapes:
        ...                                  # something else meanwhile
        for run in shapes.wait():
            run.name, len(run.table.linears)

Method. Each study is run without weights (`shapes.run`), which takes some seconds a study.

What it does not do: choose what is measured (`device_plan`).
"""

import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Protocol

from sensitivity.core.words import first_line
from sensitivity.errors import MeasurementError
from sensitivity.latency.pricer import at_priced_scale
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.loading import load_spec
from sensitivity.spec.shipped import list_studies


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyRun:
    """A study's shapes at the scale that is priced.

    Attributes:
        name: The study.
        table: Its Linears, with counts of the whole run.
        components: Names of the denoisers.
    """

    name: str
    table: ShapeTable
    components: tuple[str, ...]


class StudyShapes(Protocol):
    """Shapes that may not be there yet."""

    def are_there(self) -> bool:
        """Whether `wait` returns at once."""
        ...

    def wait(self) -> Sequence[StudyRun]:
        """The studies' shapes. Raises what running a study raised."""
        ...


@dataclass(slots=True)
class _PendingShapes:
    """Shapes that another process finds and sends."""

    pipe: Connection
    found: Sequence[StudyRun] = ()

    def are_there(self) -> bool:
        return bool(self.found) or self.pipe.poll(0)

    def wait(self) -> Sequence[StudyRun]:
        if not self.found:
            try:
                answer = self.pipe.recv()
            except (EOFError, OSError) as error:
                raise MeasurementError(
                    "the process that runs the studies without weights died; expected their shapes:"
                    " free some memory, and measure again"
                ) from error
            if isinstance(answer, str):
                raise MeasurementError(
                    f"the studies could not be run without weights ({answer}); expected their"
                    " shapes: see whether `sensitivity profile` runs for each of them"
                )
            self.found = answer
        return self.found


def study_runs() -> list[StudyRun]:
    """Run every shipped study without weights."""
    return [_run(name) for name in list_studies()]


def _run(name: str) -> StudyRun:
    spec = load_spec(list_studies()[name])
    run = run_shapes(spec)
    return StudyRun(
        name=name, table=at_priced_scale(run.table, spec), components=tuple(run.classes)
    )


@contextmanager
def running_studies() -> Iterator[StudyShapes]:
    """Run the studies in another process while the context lasts.

    `wait` raises MeasurementError if that fails.
    """
    context = multiprocessing.get_context("spawn")
    pipe, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_send_runs, args=(theirs,))
    process.start()
    theirs.close()
    try:
        yield _PendingShapes(pipe)
    finally:
        pipe.close()
        process.kill()
        process.join(10)


def _send_runs(pipe: Connection) -> None:
    """In the other process: neither obey Ctrl-C, which its parent does, nor print to its stdout."""
    os.dup2(2, 1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pipe.send(study_runs())
    except Exception as error:
        pipe.send(first_line(error))
