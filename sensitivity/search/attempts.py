"""What does a skip-list score, whatever goes wrong on the way? `known_or_scored`, `attempt`.

A score that the store has is read. Another one is computed, which generates pictures, and kept. The
search asks so for its trials, and the verification for held-out scores. Layer sensitivities and
native rounding, which a search can do without, have the same `attempt` and `counting_deaths`.

    score = known_or_scored(evaluator, store, formats, "search", print)

What may go wrong, and what happens then:

- The run fails with an error of any kind. Memory is given back and it is tried once more
  (`ATTEMPTS`), since running out of memory may pass. Then `RunError` says why. An error that this
  program raises itself (pictures that are not finite, a format that refuses a shape) would come
  again, so it counts at once.
- The run ends the process: the system kills it for its memory, a library crashes, or the GPU no
  longer answers the process after it (`DeviceLostError`). The store counts the runs that began and
  never ended. After `DEATHS` of them the next one is not begun, and `RunError` says so. These are
  more than `ATTEMPTS`, since a process that somebody kills looks the same.
- It is not the skip-list's fault: the disk is full, the database cannot be written, the study is
  wrong, or Ctrl-C. The error passes, nothing is counted, and the same command goes on.

`search.log` records trials, `search.held_out` what could not be verified.
"""

import errno
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, ParamSpec, TypeVar, overload

from sensitivity.core.devices import poisons_the_device
from sensitivity.core.disk_room import free_words
from sensitivity.core.format_name import FormatName
from sensitivity.core.words import first_line, printable
from sensitivity.errors import (
    DeviceLostError,
    FormatError,
    MeasurementError,
    OutputError,
    PatternError,
    SensitivityError,
)
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.score import PartialScore, Score
from sensitivity.fidelity.splits import Split
from sensitivity.search.store import Store, assignment_key

T = TypeVar("T")
P = ParamSpec("P")

ATTEMPTS = 2
"""Runs that may fail, in one process, before a skip-list counts as failed."""
DEATHS = 3
"""Runs that may end their process before a skip-list counts as failed."""
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
"""What the system says where a disk takes no more, whoever writes."""
NO_ROOM_WORDS = ("No space left on device", "Disk quota exceeded", "disk is full")
"""The same, where a library passes on the words only."""

log = logging.getLogger(__name__)


class RunError(MeasurementError):
    """A run failed for good; the message is the reason, which begins with the error's class."""


@overload
def known_or_scored(
    evaluator: Evaluator,
    store: Store,
    formats: Mapping[str, FormatName],
    split: Split,
    pictures: Callable[[int], Any],
    *,
    noted: Callable[[str], Any] = ...,
    is_enough: Callable[[Score], bool] = ...,
) -> Score: ...


@overload
def known_or_scored(
    evaluator: Evaluator,
    store: Store,
    formats: Mapping[str, FormatName],
    split: Split,
    pictures: Callable[[int], Any],
    *,
    noted: Callable[[str], Any] = ...,
    is_enough: Callable[[Score], bool] = ...,
    keep_going: Callable[[tuple[float, ...]], bool] | None,
) -> Score | PartialScore: ...


def known_or_scored(
    evaluator: Evaluator,
    store: Store,
    formats: Mapping[str, FormatName],
    split: Split,
    pictures: Callable[[int], Any],
    *,
    noted: Callable[[str], Any] = lambda _text: None,
    is_enough: Callable[[Score], bool] = lambda _known: True,
    keep_going: Callable[[tuple[float, ...]], bool] | None = None,
) -> Score | PartialScore:
    """The score of an assignment on a split, from the store, else computed and kept.

    Args:
        evaluator: computes it.
        store: keeps it.
        formats: {FQN: format}.
        split: which prompts.
        pictures: called with the number of pictures done.
        noted: called with a text where a run is tried again.
        is_enough: whether a known score says all that is asked for. If not, it is computed again
            and replaces the known one; what only that said is kept where the pictures are the same.
        keep_going: called with the damages so far; False ends the scoring. The result is then a
            PartialScore, which is not kept.

    Raises:
        RunError: the skip-list cannot be scored.
        MeasurementError: bf16 itself cannot be run.
        UserError: something else is at fault (see the module).
    """
    evaluation, assignment = evaluator.evaluation_key(split), assignment_key(formats)
    known = store.find_score(evaluation, assignment)
    if known is not None and is_enough(known):
        return evaluator.judged(known)
    make_references(evaluator, split, noted=noted)  # its failures are not the skip-list's
    after_batch = of_the_caller(pictures)
    with counting_deaths(store, evaluation, assignment, noted):
        begun = time.monotonic()
        try:
            score = attempt(
                lambda: evaluator.score(
                    formats, split, after_batch=after_batch, keep_going=keep_going
                ),
                evaluator,
                noted=noted,
            )
            _check_finite(score)
        except RunError:
            raise
        except (MeasurementError, FormatError, PatternError) as error:
            evaluator.recover()
            raise RunError(_reason(error)) from error
        if isinstance(score, Score):
            seconds, again = time.monotonic() - begun, known is not None
            if known is not None and known.per_prompt == score.per_prompt:
                score = replace(score, judges={**known.judges, **score.judges})
            store.save_score(evaluation, assignment, score, seconds=seconds, replaces=again)
    return score


def _check_finite(score: Score | PartialScore) -> None:
    """Raise MeasurementError where a score is no number, whatever computed it."""
    values = [score.mean, *score.per_prompt]
    if isinstance(score, Score):
        values += [score.damage, *score.damages]
    wrong = [value for value in values if not math.isfinite(value)]
    if wrong:
        raise MeasurementError(
            f"its score is not finite: {len(wrong)} of its {len(values)} values are NaN or infinite"
        )


def make_references(
    evaluator: Evaluator, split: Split, *, noted: Callable[[str], Any] = lambda _text: None
) -> None:
    """See to it that bf16's pictures of a split are there, and the noise floor.

    Raises:
        MeasurementError: bf16 itself cannot be run.
    """

    def make() -> None:
        evaluator.references(split)
        _ = evaluator.noise_floors

    try:
        attempt(make, evaluator, noted=noted)
    except RunError as error:
        raise MeasurementError(
            f"bf16's own pictures cannot be generated ({error}); expected that the model runs here"
            " unquantized: if memory is short, lower `search.batch_size` in the study; the same"
            " command goes on"
        ) from error


def attempt(
    run: Callable[[], T], evaluator: Evaluator, *, noted: Callable[[str], Any] = lambda _text: None
) -> T:
    """The result of a run that may fail in passing: memory is given back, and it is tried again.

    Raises:
        RunError: it failed `ATTEMPTS` times; the message is the last reason.
        DeviceLostError: the GPU no longer answers this process.
        OutputError: the disk is full.
        SensitivityError: as `run` raises it; it is not tried again.
    """
    reason = ""
    for number in range(1, ATTEMPTS + 1):
        try:
            return run()
        except _CallersError as error:
            raise error.error from None
        except SensitivityError:
            raise
        except Exception as error:
            if says_no_room(error):
                raise OutputError(
                    f"{_no_room(error)}; expected a disk with room: free some and run the same"
                    " command, it goes on"
                ) from error
            if poisons_the_device(error):
                raise DeviceLostError(
                    f"the GPU no longer answers this process ({_reason(error)}); expected a new"
                    " process, which may use it: run the same command, it goes on"
                ) from error
            reason = _reason(error)
            log.debug("run %d of %d failed", number, ATTEMPTS, exc_info=True)
        # Here the error is gone, and with it the tensors that its traceback held.
        evaluator.recover()
        if number < ATTEMPTS:
            noted(f"it failed and is tried once more: {reason}")
    raise RunError(reason)


def of_the_caller(call: Callable[P, Any]) -> Callable[P, None]:
    """The same function for use inside `attempt`: its errors are not taken for the run's."""

    def passing(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            call(*args, **kwargs)
        except Exception as error:
            raise _CallersError(error) from error

    return passing


def says_no_room(error: BaseException | None) -> bool:
    """Whether a full or read-only disk is behind an error, however it was wrapped."""
    seen: list[BaseException] = []
    while error is not None and error not in seen:
        if isinstance(error, OSError) and error.errno in NO_ROOM:
            return True
        if any(words in str(error) for words in NO_ROOM_WORDS):
            return True
        seen.append(error)
        error = error.__cause__ or error.__context__
    return False


def _no_room(error: BaseException) -> str:
    """Which file could not be written, where the error or its causes name one, and what is free."""
    found: BaseException | None = error
    for _ in range(10):
        if found is None:
            break
        if isinstance(found, OSError) and isinstance(found.filename, str | bytes):
            name = os.fsdecode(found.filename)
            return f"{printable(name)} cannot be written ({found.strerror}): {free_words(name)}"
        found = found.__cause__ or found.__context__
    return f"a file cannot be written ({first_line(error)})"


@contextmanager
def counting_deaths(
    store: Store, evaluation: str, assignment: str, noted: Callable[[str], Any]
) -> Iterator[None]:
    """What happens inside counts as a death of the process unless it ends in any way.

    Args:
        store: counts.
        evaluation, assignment: what is run: the key of a score, or one of the same kind.
        noted: called with a text where earlier processes died of it.

    Raises:
        RunError: that has happened `DEATHS` times.
    """
    deaths = store.find_deaths(evaluation, assignment)
    if deaths >= DEATHS:
        raise RunError(f"it ended its process {deaths} times (killed, out of memory, or a crash)")
    if deaths:
        noted(
            "the last process ended in the middle of it; it is tried again, attempt"
            f" {deaths + 1} of {DEATHS}"
        )
    store.save_deaths(evaluation, assignment, deaths + 1)
    try:
        yield
    except DeviceLostError:
        raise  # it ends the process
    except (Exception, KeyboardInterrupt, SystemExit):
        with suppress(Exception):  # the first error is the one to tell
            store.save_deaths(evaluation, assignment, deaths, waits=False)
        raise
    store.save_deaths(evaluation, assignment, 0)


def forget_deaths(
    evaluator: Evaluator, store: Store, formats: Mapping[str, FormatName], split: Split
) -> None:
    """Let a skip-list be tried again, whatever its runs did."""
    evaluation, assignment = evaluator.evaluation_key(split), assignment_key(formats)
    if store.find_deaths(evaluation, assignment):
        store.save_deaths(evaluation, assignment, 0)


class _CallersError(Exception):
    """Carries an error of the caller's own function through a run."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def _reason(error: Exception) -> str:
    """An error as trials keep it: its class and the first line of its message."""
    text = printable(first_line(error, most=1_000)) if str(error) else "no message"
    return f"{type(error).__name__}: {text}"
