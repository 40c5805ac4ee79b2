"""What is timed in turns, how, and what comes out? The records of `interleaved`.

    how = Conditions(runtime=get_runtime("torchao-graphs"), device="cuda", rounds=5)
    timed.ratio.value, timed.ratio.interval90, timed.rounds_s

Conventions. Seconds of a whole run are those of its units, each times its calls. A speedup is the
ratio of bf16's seconds to the list's, round by round (`paired`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from sensitivity.latency.runtimes import Runtime
from sensitivity.latency.timing.paired import PairedRatio, paired_ratio, typical_seconds
from sensitivity.latency.timing.run_timing import RunTiming, burst_seconds

FEWEST_ROUNDS = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class Unit:
    """What is timed: a denoiser call, or a whole pipeline call.

    Attributes:
        work: Makes the call.
        calls: How often a run makes it.
        whole: Whether it is timed by the host's clock from an idle GPU to an idle GPU, as a whole
            pipeline call is. Otherwise calls follow one another, as the steps of a pipeline do.
    """

    work: Callable[[], object]
    calls: int = 1
    whole: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Conditions:
    """How lists are timed.

    Attributes:
        runtime: The way of running.
        device: "cuda", "cuda:N" or "cpu".
        rounds: How often each list is timed.
        most_s: About the most seconds of all rounds together, of which there are at least
            `FEWEST_ROUNDS`; None sets no bound.
        warmups: Calls after the compiling one that are not timed; CUDA graphs need two of them.
        recompile_limit: Graphs that torch may compile for one class of blocks; None is its own.
        activation_bytes: Memory that a run needs beside weights.
        seed: Of the order within rounds.
        backend: torch.compile's.
        say: Called with each step as it begins.
        clock: (unit, seconds of one call, device) -> seconds of one call, timed in one round.
    """

    runtime: Runtime
    device: str
    rounds: int = 10
    most_s: float | None = None
    warmups: int = 2
    recompile_limit: int | None = None
    activation_bytes: int = 0
    seed: int = 0
    backend: Any = "inductor"
    say: Callable[[str], None] = lambda _text: None
    clock: Callable[[Unit, float, torch.device], float] = lambda unit, about_s, device: (
        burst_seconds(unit.work, about_s, device, whole=unit.whole)
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class TimedList:
    """One list, and bf16 beside it.

    Attributes:
        name: The list's.
        timings: One for each unit; repetition i is of round i. Empty if the list did not run.
        bf16: Those of bf16 in the same rounds.
        group: Number of the group that it was timed in.
        failure: Why it did not run; "" if it did.
    """

    name: str
    timings: tuple[RunTiming, ...] = ()
    bf16: tuple[RunTiming, ...] = ()
    group: int = 0
    failure: str = ""

    @property
    def rounds_s(self) -> tuple[float, ...]:
        """(rounds,) seconds of a whole run."""
        return round_totals(self.timings)

    @property
    def bf16_rounds_s(self) -> tuple[float, ...]:
        """(rounds,) seconds of a whole run in bf16."""
        return round_totals(self.bf16)

    @property
    def ratio(self) -> PairedRatio:
        """The speedup over bf16, round by round."""
        return paired_ratio(self.bf16_rounds_s, self.rounds_s)

    @property
    def seconds(self) -> float:
        """Typical seconds of a whole run: the geometric mean over rounds."""
        return typical_seconds(self.rounds_s)

    @property
    def bf16_s(self) -> float:
        """The same in bf16, in the same rounds."""
        return typical_seconds(self.bf16_rounds_s)


def in_sequence(parts: Sequence[TimedList]) -> TimedList:
    """One list whose run has several parts, such as denoisers, each timed by itself.

    It fails where one of them does.
    """
    failure = next((part.failure for part in parts if part.failure), "")
    rounds = min((len(part.rounds_s) for part in parts), default=0)
    return TimedList(
        name=parts[0].name,
        timings=() if failure else _first(rounds, [t for part in parts for t in part.timings]),
        bf16=() if failure else _first(rounds, [t for part in parts for t in part.bf16]),
        group=max(part.group for part in parts),
        failure=failure,
    )


def _first(rounds: int, timings: Sequence[RunTiming]) -> tuple[RunTiming, ...]:
    return tuple(replace(timing, seconds=timing.seconds[:rounds]) for timing in timings)


def round_totals(timings: Sequence[RunTiming]) -> tuple[float, ...]:
    """(rounds,) seconds of a whole run: repetition x calls, summed over its units."""
    if not timings:
        return ()
    rounds = zip(*(timing.seconds for timing in timings), strict=True)
    calls = [timing.calls for timing in timings]
    return tuple(sum(s * n for s, n in zip(row, calls, strict=True)) for row in rounds)
