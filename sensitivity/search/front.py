"""Which skip-lists are worth having, and which one do the search prompts choose?

Pareto front, hypervolume, constraints and the first choice. Both axes are minimised: seconds and
LPIPS. A point is on the front if no other point is at most as large on both and smaller on one.
Seconds are priced ones, of one pipeline run.

A choice is made by constraints, never by a weighted sum:

    LPIPS <= x, with or without bounds on time    the fastest that meets all of them
    speedup >= y, seconds <= z, or both           the least LPIPS that meets all of them
    no constraint                                 the knee

    front = pareto_front(points)
    choose(points, bf16_s=2.1, constraints=Constraints(max_lpips=0.15))

The choice here is a first one: `search.winner` confirms or overrules it on held-out prompts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import moocore
import numpy as np

from sensitivity.errors import ConstraintError, UserError

Point = tuple[float, float]
"""(seconds, LPIPS)"""
Rule = Literal["fastest", "least LPIPS", "knee"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraints:
    """Bounds that the winner must keep to; None is no bound. A point on a bound keeps to it.

    Attributes:
        max_lpips: the largest LPIPS.
        min_speedup: the smallest speedup over bf16.
        max_seconds: the most priced seconds of one pipeline run, quantized.
    """

    max_lpips: float | None = None
    min_speedup: float | None = None
    max_seconds: float | None = None

    @property
    def rule(self) -> Rule:
        """Which of the skip-lists that meet the constraints is chosen."""
        if self.max_lpips is not None:
            return "fastest"
        return "knee" if self.min_speedup is None and self.max_seconds is None else "least LPIPS"

    @property
    def words(self) -> tuple[str, ...]:
        """Each constraint as text: "LPIPS <= 0.1"."""
        bounds = (
            ("LPIPS <=", self.max_lpips, ""),
            ("speedup >=", self.min_speedup, ""),
            ("seconds a run <=", self.max_seconds, " s"),
        )
        return tuple(f"{what} {bound:g}{unit}" for what, bound, unit in bounds if bound is not None)

    def is_met(self, point: Point, *, bf16_s: float) -> bool:
        """Whether a point keeps to all constraints."""
        return self.is_fast_enough(point[0], bf16_s=bf16_s) and (
            self.max_lpips is None or point[1] <= self.max_lpips
        )

    def is_fast_enough(self, seconds: float, *, bf16_s: float) -> bool:
        """Whether a run of this many priced seconds keeps to the constraints on time."""
        return (self.min_speedup is None or bf16_s / seconds >= self.min_speedup) and (
            self.max_seconds is None or seconds <= self.max_seconds
        )


def check_constraints(constraints: Constraints) -> None:
    """Raise UserError for a bound that makes no sense, such as NaN or a negative time."""
    lpips = constraints.max_lpips
    speedup, seconds = constraints.min_speedup, constraints.max_seconds
    if lpips is not None and not lpips >= 0:
        raise UserError(
            f"`max_lpips` is {lpips}; expected 0 or more: choose one such as 0.1, which is hardly"
            " visible on LPIPS alex"
        )
    if speedup is not None and not 0 < speedup < math.inf:
        raise UserError(
            f"`min_speedup` is {speedup}; expected a factor above 0: choose one such as 1.2"
        )
    if seconds is not None and not 0 < seconds < math.inf:
        raise UserError(
            f"`max_seconds` is {seconds}; expected a time above 0: choose priced seconds of one"
            " pipeline run, such as 1.5"
        )


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Indices of the non-dominated points, fastest first; of equal points the first stays."""
    if not points:
        return []
    array = np.asarray(points, dtype=np.float64)
    keep = np.flatnonzero(moocore.is_nondominated(array, maximise=False, keep_weakly=False))
    return sorted((int(i) for i in keep), key=lambda i: points[i])


def hypervolume(points: Sequence[Point], *, reference: Point) -> float:
    """Area (seconds x LPIPS) that the points dominate up to a reference point; 0 for no points."""
    if not points:
        return 0.0
    return float(
        moocore.hypervolume(
            np.asarray(points, dtype=np.float64), ref=np.asarray(reference, dtype=np.float64)
        )
    )


def below_chord(points: Sequence[Point], ends: tuple[Point, Point]) -> list[float] | None:
    """How far each point lies below the straight line between two ends, axes scaled to the ends.

    Source: the chord distance of Das 1999, "On characterizing the 'knee' of the Pareto curve".

    Args:
        points: any.
        ends: the fastest point and the one of least LPIPS.

    Returns:
        One distance for each point; None where the ends span no box.
    """
    (left, top), (right, bottom) = ends
    if right <= left or top <= bottom:
        return None
    return [1 - (x - left) / (right - left) - (y - bottom) / (top - bottom) for x, y in points]


def knee(points: Sequence[Point]) -> int:
    """Index of the knee of a front: the point farthest below the line between its ends.

    With two points or fewer, or where no point lies below the line, it is the point of least LPIPS
    in the faster half. `points` are a front, fastest first.
    """
    below = below_chord(points, (points[0], points[-1])) if len(points) > 2 else None
    if below is not None and max(below) > 1e-9:
        return int(np.argmax(below))
    return (len(points) - 1) // 2


def choose(points: Sequence[Point], *, bf16_s: float, constraints: Constraints) -> int:
    """Index of the point that the constraints choose among `points` (see the module).

    Raises:
        ConstraintError: no point meets the constraints; the message says how near the front comes.
    """
    if not points:
        raise ConstraintError(
            "there is no scored skip-list; expected at least one: raise `budget` (the study is"
            " kept)"
        )
    front = pareto_front(points)
    meets = [i for i in front if constraints.is_met(points[i], bf16_s=bf16_s)]
    if not meets:
        raise ConstraintError(_unmet([points[i] for i in front], bf16_s, constraints))
    if constraints.rule == "fastest":
        return meets[0]
    if constraints.rule == "least LPIPS":
        return meets[-1]
    return front[knee([points[i] for i in front])]


def _unmet(front: Sequence[Point], bf16_s: float, constraints: Constraints) -> str:
    """What was asked, what the front offers, and what to do."""
    fastest, best = (describe_point(point, bf16_s=bf16_s) for point in (front[0], front[-1]))
    bounds_time = constraints.min_speedup is not None or constraints.max_seconds is not None
    fast = [point for point in front if constraints.is_fast_enough(point[0], bf16_s=bf16_s)]
    nearest = ""
    if constraints.max_lpips is not None and bounds_time and fast:
        least = describe_point(fast[-1], bf16_s=bf16_s)
        nearest = f", and what is fast enough comes down to {least}"
    return (
        f"no scored skip-list has {' and '.join(constraints.words)}; the front runs from {fastest}"
        f" to {best}{nearest}: relax the constraint (`sensitivity select` chooses again without a"
        " trial) or raise `budget` (the study is kept)"
    )


def describe_point(point: Point, *, bf16_s: float) -> str:
    """Speedup, seconds and LPIPS of a point as text."""
    return f"{bf16_s / point[0]:.3f}x ({point[0]:.4g} s a run) at LPIPS {point[1]:.4f}"
