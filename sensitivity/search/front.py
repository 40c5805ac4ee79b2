"""Which skip-lists are worth having, and which one do the search prompts choose?

Pareto front, hypervolume, constraints and the first choice. Both axes are minimised: seconds and
typical LPIPS (`fidelity.typical`). A point is on the front if no other point is at most as large on
both and smaller on one. Seconds are priced ones, of one pipeline run.

A choice is made by constraints, never by a weighted sum:

    typical <= t, mean <= x, flips <= n           the fastest that meets all of them,
    (one or several), with or without time        bounds on time included
    speedup >= y, seconds <= z, or both           the least typical LPIPS that meets all of them
    no constraint                                 the knee

A bound on memory may stand beside any of these, or alone: it only leaves out what does not fit, and
the choice is the same one among the rest (alone: the knee of the front of what fits). Memory is no
third axis of the front. It is the predicted peak of a run, without what CUDA itself takes
(`latency.memory`).

    front = pareto_front(points)
    choose(offers, bf16_s=2.1, constraints=Constraints(max_lpips=0.15))

The choice here is a first one: `search.winner` confirms or overrules it on held-out prompts.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import moocore
import numpy as np

from sensitivity.core.words import gigabytes
from sensitivity.errors import ConstraintError, UserError
from sensitivity.fidelity.score import JudgeValues
from sensitivity.fidelity.words import lpips_words
from sensitivity.search.choice_memory import check_bound, unknown_memory

Point = tuple[float, float]
"""(seconds, typical LPIPS)"""
Rule = Literal["fastest", "least LPIPS", "knee"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Offer:
    """What is known of a skip-list when one is chosen.

    Attributes:
        seconds: priced, of one pipeline run.
        typical: its typical LPIPS.
        mean: its expected mean LPIPS.
        flips: how many of the prompts became another picture.
        memory_bytes: predicted peak of GPU memory in a run; None is not known.
    """

    seconds: float
    typical: float
    mean: float
    flips: int = 0
    memory_bytes: int | None = None

    @property
    def point(self) -> Point:
        """Where it lies beside a front."""
        return self.seconds, self.typical


@dataclass(frozen=True, kw_only=True, slots=True)
class Constraints:
    """Bounds that the winner must keep to; None is no bound. What lies on a bound keeps to it.

    Attributes:
        max_lpips: the largest mean LPIPS.
        max_typical: the largest typical LPIPS.
        max_flips: how many prompts of a set may become another picture.
        min_speedup: the smallest speedup over bf16.
        max_seconds: the most priced seconds of one pipeline run, quantized.
        max_memory_bytes: the largest peak of GPU memory in a run, as it is predicted.
        max_judge, min_judge: {judge: bound on its mean over held-out prompts}, of judges where
            lower, or higher, is better. They are no part of the first choice, since judges look at
            held-out pictures only.
    """

    max_lpips: float | None = None
    max_typical: float | None = None
    max_flips: int | None = None
    min_speedup: float | None = None
    max_seconds: float | None = None
    max_memory_bytes: int | None = None
    max_judge: Mapping[str, float] = field(default_factory=dict, hash=False)
    min_judge: Mapping[str, float] = field(default_factory=dict, hash=False)

    @property
    def bounds_damage(self) -> bool:
        """Whether any bound is on what happens to the pictures."""
        bounds = (self.max_lpips, self.max_typical, self.max_flips)
        return any(bound is not None for bound in bounds)

    @property
    def bounds_time(self) -> bool:
        """Whether any bound is on time."""
        return self.min_speedup is not None or self.max_seconds is not None

    @property
    def rule(self) -> Rule:
        """Which of the skip-lists that meet the constraints is chosen."""
        if self.bounds_damage:
            return "fastest"
        return "least LPIPS" if self.bounds_time else "knee"

    @property
    def words(self) -> tuple[str, ...]:
        """Each constraint as text: "mean LPIPS <= 0.1"."""
        bounds = (
            ("mean LPIPS <=", self.max_lpips, ""),
            ("typical LPIPS <=", self.max_typical, ""),
            ("flips <=", self.max_flips, ""),
            ("speedup >=", self.min_speedup, ""),
            ("seconds a run <=", self.max_seconds, " s"),
        )
        asked = [f"{what} {bound:g}{unit}" for what, bound, unit in bounds if bound is not None]
        if self.max_memory_bytes is not None:
            asked.append(f"peak memory <= {gigabytes(self.max_memory_bytes)}")
        return (*asked, *self.judge_words)

    @property
    def judge_words(self) -> tuple[str, ...]:
        """Each bound on a judge as text: "flip <= 0.05"."""
        sides = (("<=", self.max_judge), (">=", self.min_judge))
        return tuple(f"{name} {side} {x:g}" for side, all_of in sides for name, x in all_of.items())

    def displeased(self, judges: Mapping[str, JudgeValues]) -> list[str]:
        """Judges whose bound held-out pictures break, and what they have: "flip (here 0.07)".

        A judge that did not look is one.
        """
        broken = [n for n, x in self.max_judge.items() if n in judges and judges[n].mean > x]
        broken += [n for n, x in self.min_judge.items() if n in judges and judges[n].mean < x]
        unseen = [n for n in (*self.max_judge, *self.min_judge) if n not in judges]
        return [
            *(f"{name} (here {judges[name].mean:.4g})" for name in broken),
            *(f"{name} (it did not look)" for name in unseen),
        ]

    def is_met(self, offer: Offer, *, bf16_s: float) -> bool:
        """Whether a skip-list keeps to all constraints."""
        return (
            self.fits(offer.memory_bytes)
            and self.is_fast_enough(offer.seconds, bf16_s=bf16_s)
            and self.is_good_enough(typical=offer.typical, mean=offer.mean, flips=offer.flips)
        )

    def fits(self, memory_bytes: int | None) -> bool:
        """Whether a run with this peak keeps to the bound on memory; one that is not known does
        not.
        """
        most = self.max_memory_bytes
        return most is None or (memory_bytes is not None and memory_bytes <= most)

    def is_good_enough(self, *, typical: float, mean: float, flips: int) -> bool:
        """Whether such pictures keep to the constraints on damage."""
        return (
            (self.max_lpips is None or mean <= self.max_lpips)
            and (self.max_typical is None or typical <= self.max_typical)
            and (self.max_flips is None or flips <= self.max_flips)
        )

    def is_fast_enough(self, seconds: float, *, bf16_s: float) -> bool:
        """Whether a run of this many priced seconds keeps to the constraints on time."""
        return (self.min_speedup is None or bf16_s / seconds >= self.min_speedup) and (
            self.max_seconds is None or seconds <= self.max_seconds
        )


def check_constraints(constraints: Constraints) -> None:
    """Raise UserError for a bound that makes no sense, such as NaN or a negative time."""
    for name, what in (("max_lpips", "mean"), ("max_typical", "typical")):
        lpips = getattr(constraints, name)
        if lpips is not None and not lpips >= 0:
            raise UserError(
                f"`{name}` is {lpips}; expected a {what} LPIPS of 0 or more: choose one such as"
                " 0.1, which is hardly visible on LPIPS alex"
            )
    flips, speedup = constraints.max_flips, constraints.min_speedup
    if flips is not None and flips < 0:
        raise UserError(
            f"`max_flips` is {flips}; expected a number of prompts, 0 or more: choose 0 where no"
            " picture may become another one"
        )
    if speedup is not None and not 0 < speedup < math.inf:
        raise UserError(
            f"`min_speedup` is {speedup}; expected a factor above 0: choose one such as 1.2"
        )
    seconds = constraints.max_seconds
    if seconds is not None and not 0 < seconds < math.inf:
        raise UserError(
            f"`max_seconds` is {seconds}; expected a time above 0: choose priced seconds of one"
            " pipeline run, such as 1.5"
        )
    check_bound(constraints.max_memory_bytes)


def pareto_front(points: Sequence[Point]) -> list[int]:
    """Indices of the non-dominated points, fastest first; of equal points the first stays."""
    if not points:
        return []
    array = np.asarray(points, dtype=np.float64)
    keep = np.flatnonzero(moocore.is_nondominated(array, maximise=False, keep_weakly=False))
    return sorted((int(i) for i in keep), key=lambda i: points[i])


def hypervolume(points: Sequence[Point], *, reference: Point) -> float:
    """Area (seconds x typical LPIPS) that points dominate up to a reference point; 0 for none."""
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
        ends: the fastest point and the one of least typical LPIPS.

    Returns:
        One distance for each point; None where the ends span no box.
    """
    (left, top), (right, bottom) = ends
    if right <= left or top <= bottom:
        return None
    return [1 - (x - left) / (right - left) - (y - bottom) / (top - bottom) for x, y in points]


def knee(points: Sequence[Point]) -> int:
    """Index of the knee of a front: the point farthest below the line between its ends.

    With two points or fewer, or where no point lies below the line, it is the point of least damage
    in the faster half. `points` are a front, fastest first.
    """
    below = below_chord(points, (points[0], points[-1])) if len(points) > 2 else None
    if below is not None and max(below) > 1e-9:
        return int(np.argmax(below))
    return (len(points) - 1) // 2


def choose(offers: Sequence[Offer], *, bf16_s: float, constraints: Constraints) -> int:
    """Index of what the constraints choose among `offers` (see the module).

    Raises:
        ConstraintError: nothing meets the constraints; the message says how near the front comes.
        UserError: memory is bounded, and no offer says what it needs.
    """
    if not offers:
        raise ConstraintError(
            "there is no scored skip-list; expected at least one: raise `budget` (the study is"
            " kept)"
        )
    known = any(offer.memory_bytes is not None for offer in offers)
    if constraints.max_memory_bytes is not None and not known:
        raise unknown_memory("these skip-lists")
    meets = [i for i, o in enumerate(offers) if constraints.is_met(o, bf16_s=bf16_s)]
    if not meets:
        raise ConstraintError(_unmet(offers, bf16_s, constraints))
    front = [meets[i] for i in pareto_front([offers[i].point for i in meets])]
    if constraints.rule == "fastest":
        return front[0]
    if constraints.rule == "least LPIPS":
        return front[-1]
    return front[knee([offers[i].point for i in front])]


def _unmet(offers: Sequence[Offer], bf16_s: float, constraints: Constraints) -> str:
    """What was asked, what the front offers, and what to do."""
    front = [offers[i] for i in pareto_front([offer.point for offer in offers])]
    fastest, best = (_describe(offer, bf16_s, constraints) for offer in (front[0], front[-1]))
    fast = [offer for offer in front if constraints.is_fast_enough(offer.seconds, bf16_s=bf16_s)]
    nearest = ""
    if constraints.bounds_damage and constraints.bounds_time and fast:
        least = _describe(fast[-1], bf16_s, constraints)
        nearest = f", and what is fast enough comes down to {least}"
    if constraints.max_memory_bytes is not None:
        nearest += f"; {_least_memory(offers)}"
    return (
        f"no scored skip-list has {' and '.join(constraints.words)}; the front runs from {fastest}"
        f" to {best}{nearest}: relax the constraint (`sensitivity select` chooses again from these"
        " trials) or raise `budget` (the study is kept)"
    )


def _least_memory(offers: Sequence[Offer]) -> str:
    """The least peak that a scored skip-list has, in words."""
    least = min(offer.memory_bytes for offer in offers if offer.memory_bytes is not None)
    return f"the least peak memory of a scored skip-list is {gigabytes(least)}, predicted"


def _describe(offer: Offer, bf16_s: float, constraints: Constraints) -> str:
    """Speedup, seconds and typical LPIPS as text, and what else is bounded."""
    mean = "" if constraints.max_lpips is None else f", mean {lpips_words(offer.mean)}"
    flips = "" if constraints.max_flips is None else f", flips {offer.flips}"
    memory = ""
    if constraints.max_memory_bytes is not None and offer.memory_bytes is not None:
        memory = f", peak memory {gigabytes(offer.memory_bytes)}"
    return (
        f"{bf16_s / offer.seconds:.3f}x ({offer.seconds:.4g} s a run) at typical LPIPS"
        f" {lpips_words(offer.typical)}{mean}{flips}{memory}"
    )
