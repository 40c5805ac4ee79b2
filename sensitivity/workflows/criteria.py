"""Does what was found keep to a bound, break it, or is that open? `Criterion`, decided by an
interval.

    decide((0.010, 0.026), most=0.03)                   # Decision.PASSES
    decide((0.010, 0.026), most=0.02)                   # Decision.UNDECIDED
    speed_criterion(1.31, (1.22, 1.40), 1.2, "predicted for b200").decision    # Decision.PASSES

A statistic passes only if its whole interval keeps to the bound, and fails only if its whole
interval lies beyond. Between the two the criterion is open.

Here are the record and the criteria on what a run takes: a speedup has the 90 % interval of its
source, and a predicted peak of memory one up to what a prediction may lack. Where a source gives no
interval, the value decides. `picture_criteria` has those on pictures.

This module computes with numbers only: `check` gets them.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sensitivity.fidelity.words import Interval

_TO_TIME = "; the interval contains the bound: a run that is timed on that GPU has a narrower one"
_TO_MEASURE = "; the bound lies between: a run that is timed on that GPU says the peak"


class Decision(StrEnum):
    """What is known of a criterion."""

    PASSES = "passes"
    FAILS = "fails"
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True, slots=True)
class Criterion:
    """One bound, and what was found.

    Attributes:
        field: the option of the bound, such as "max_lpips"; of a judge "max_judge".
        asked: the bound in words: "mean LPIPS <= 0.15".
        decision: whether it is kept.
        value: what was found.
        interval: its interval; None for a count.
        found: the same in words.
        why: why it is open, and what would decide it; or what else to know of it. "" for nothing.
        prompts: on how many prompts it rests; None: on none.
        prompts_needed: about how many would decide it; None where it is decided, or where more
            prompts would not.
    """

    field: str
    asked: str
    decision: Decision
    value: float
    interval: Interval | None = None
    found: str = ""
    why: str = ""
    prompts: int | None = None
    prompts_needed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """As an object of JSON; a number that is infinite is null."""
        interval = None if self.interval is None else [_finite(x) for x in self.interval]
        return {
            "field": self.field,
            "asked": self.asked,
            "decision": self.decision.value,
            "value": _finite(self.value),
            "interval": interval,
            "found": self.found,
            "why": self.why or None,
            "prompts": self.prompts,
            "prompts_needed": self.prompts_needed,
        }


def decide(
    interval: Interval, *, most: float | None = None, least: float | None = None
) -> Decision:
    """Whether an interval lies within a bound or beyond it; what lies on the bound is within.

    Args:
        interval: (low, high) of the value.
        most: the largest value that is allowed; None: any.
        least: the smallest one; None: any.
    """
    low, high = interval
    if (most is not None and low > most) or (least is not None and high < least):
        return Decision.FAILS
    if (most is None or high <= most) and (least is None or low >= least):
        return Decision.PASSES
    return Decision.UNDECIDED


def speed_criterion(
    speedup: float, interval: Interval | None, least: float, source: str
) -> Criterion:
    """The bound on the speedup over bf16.

    Args:
        speedup: what was found.
        interval: its 90 % interval; None where the source gives none.
        least: the bound.
        source: where it comes from, in words.
    """
    decision = decide(interval or (speedup, speedup), least=least)
    shown = "" if interval is None else f" [{interval[0]:.3f}, {interval[1]:.3f}]"
    return Criterion(
        field="min_speedup",
        asked=f"speedup >= {least:g}",
        decision=decision,
        value=speedup,
        interval=interval,
        found=f"{speedup:.3f}x{shown}",
        why=f"{source}{_TO_TIME if decision is Decision.UNDECIDED else ''}",
    )


def memory_criterion(nbytes: int, missing_bytes: int, most_bytes: int, source: str) -> Criterion:
    """The bound on the peak of GPU memory.

    Args:
        nbytes: the peak that was found.
        missing_bytes: what it may lack.
        most_bytes: the bound.
        source: where it comes from, in words.
    """
    interval = (float(nbytes), float(nbytes + missing_bytes))
    decision = decide(interval, most=most_bytes)
    more = f" to {interval[1] / 1e9:.1f}" if missing_bytes else ""
    return Criterion(
        field="max_memory",
        asked=f"peak memory <= {most_bytes / 1e9:g} GB",
        decision=decision,
        value=nbytes,
        interval=interval,
        found=f"{nbytes / 1e9:.1f}{more} GB",
        why=f"{source}{_TO_MEASURE if decision is Decision.UNDECIDED else ''}",
    )


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
