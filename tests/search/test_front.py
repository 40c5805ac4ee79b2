"""Fronts, hypervolumes and choices agree with brute force on small cases."""

import itertools
import random
import re
from dataclasses import replace

import pytest

from sensitivity.errors import ConstraintError, UserError
from sensitivity.search.front import (
    Constraints,
    Offer,
    Point,
    check_constraints,
    choose,
    hypervolume,
    knee,
    pareto_front,
)


def random_points(seed: int, count: int, side: int = 6) -> list[Point]:
    rng = random.Random(seed)
    return [(float(rng.randint(1, side)), float(rng.randint(1, side))) for _ in range(count)]


def offers(points: list[Point]) -> list[Offer]:
    """Skip-lists at these points; the mean LPIPS is twice the typical one."""
    return [Offer(seconds=x, typical=y, mean=2 * y) for x, y in points]


def dominates(a: Point, b: Point) -> bool:
    return a[0] <= b[0] and a[1] <= b[1] and a != b


@pytest.mark.parametrize("seed", range(30))
def test_front_is_what_nothing_dominates(seed: int) -> None:
    """On random points with many ties: each index is not dominated, each value appears once, by its
    first index, fastest first.
    """
    points = random_points(seed, 1 + seed % 12)
    free = [
        i
        for i, p in enumerate(points)
        if not any(dominates(q, p) for q in points) and p not in points[:i]
    ]
    assert pareto_front(points) == sorted(free, key=lambda i: points[i])


def test_front_of_nothing_is_empty() -> None:
    """No points have no front and no volume."""
    assert pareto_front([]) == []
    assert hypervolume([], reference=(1.0, 1.0)) == 0.0


@pytest.mark.parametrize("seed", range(20))
def test_hypervolume_counts_dominated_cells(seed: int) -> None:
    """On whole numbers the area is the number of unit cells that some point dominates; points
    beyond the reference add nothing.
    """
    points, reference = random_points(seed, 1 + seed % 8, side=9), (7.0, 8.0)
    cells = itertools.product(range(int(reference[0])), range(int(reference[1])))
    count = sum(any(p[0] <= x and p[1] <= y for p in points) for x, y in cells)
    assert hypervolume(points, reference=reference) == pytest.approx(count)


def test_knee_is_farthest_below_the_chord() -> None:
    """Of (0, 10), (1, 4), (2, 2), (10, 0) the third bends most, whatever the units of the axes."""
    front = [(0.0, 10.0), (1.0, 4.0), (2.0, 2.0), (10.0, 0.0)]
    assert knee(front) == 2
    assert knee([(5 + 1000 * x, 0.01 * y) for x, y in front]) == 2


@pytest.mark.parametrize(
    ("front", "index"),
    [
        ([(1.0, 1.0)], 0),
        ([(1.0, 2.0), (2.0, 1.0)], 0),
        ([(0.0, 3.0), (1.0, 2.0), (2.0, 1.0), (3.0, 0.0)], 1),  # a straight line
        ([(0.0, 10.0), (8.0, 9.0), (10.0, 0.0)], 1),  # bends above it
    ],
)
def test_knee_without_a_bend_is_in_the_faster_half(front: list[Point], index: int) -> None:
    """Where no point lies below the chord it is the last of the faster half."""
    assert knee(front) == index


@pytest.mark.parametrize("seed", range(30))
def test_choice_by_constraint_is_brute_force(seed: int) -> None:
    """A bound on damage takes the fastest, bounds on time alone the least typical LPIPS, of all
    skip-lists that meet every bound, not only of the front.
    """
    rng = random.Random(seed)
    points, bf16_s = random_points(seed, 10), 6.0
    rows = [replace(offer, flips=rng.randint(0, 3)) for offer in offers(points)]
    for typical, mean, flips, speedup, seconds in itertools.product(
        (None, 3.0), (None, 4.0, 8.0), (None, 1), (None, 1.5), (None, 2.0, 5.0)
    ):
        asked = Constraints(
            max_typical=typical,
            max_lpips=mean,
            max_flips=flips,
            min_speedup=speedup,
            max_seconds=seconds,
        )
        if asked == Constraints():
            continue
        allowed = [
            row
            for row in rows
            if (typical is None or row.typical <= typical)
            and (mean is None or row.mean <= mean)
            and (flips is None or row.flips <= flips)
            and (speedup is None or bf16_s / row.seconds >= speedup)
            and (seconds is None or row.seconds <= seconds)
        ]
        if not allowed:
            with pytest.raises(ConstraintError, match="no scored skip-list has"):
                choose(rows, bf16_s=bf16_s, constraints=asked)
            continue
        by_time = min(row.point for row in allowed)
        by_damage = min(row.point[::-1] for row in allowed)[::-1]
        is_bounded = not typical is mean is flips is None
        found = rows[choose(rows, bf16_s=bf16_s, constraints=asked)]
        assert found.point == (by_time if is_bounded else by_damage)
        assert found in allowed


def test_choice_without_constraint_is_the_knee_of_the_front() -> None:
    """The index is into the points that were given, dominated ones included."""
    points = [(9.0, 9.0), (10.0, 0.0), (0.0, 10.0), (1.0, 2.0), (9.5, 9.5)]
    assert choose(offers(points), bf16_s=10.0, constraints=Constraints()) == 3


@pytest.mark.parametrize(
    ("asked", "rule", "words"),
    [
        (Constraints(), "knee", ()),
        (Constraints(max_lpips=0.1), "fastest", ("mean LPIPS <= 0.1",)),
        (Constraints(max_typical=0.05), "fastest", ("typical LPIPS <= 0.05",)),
        (Constraints(max_flips=0), "fastest", ("flips <= 0",)),
        (Constraints(min_speedup=1.2), "least LPIPS", ("speedup >= 1.2",)),
        (Constraints(max_seconds=0.5), "least LPIPS", ("seconds a run <= 0.5 s",)),
        (
            Constraints(min_speedup=1.2, max_seconds=0.5),
            "least LPIPS",
            ("speedup >= 1.2", "seconds a run <= 0.5 s"),
        ),
        (Constraints(max_memory_bytes=24 * 10**9), "knee", ("peak memory <= 24 GB",)),
        (
            Constraints(min_speedup=1.2, max_memory_bytes=22 * 2**30),
            "least LPIPS",
            ("speedup >= 1.2", "peak memory <= 23.622 GB"),
        ),
        (
            Constraints(max_lpips=0.1, max_seconds=0.5),
            "fastest",
            ("mean LPIPS <= 0.1", "seconds a run <= 0.5 s"),
        ),
    ],
)
def test_every_combination_of_constraints_has_a_rule(
    asked: Constraints, rule: str, words: tuple[str, ...]
) -> None:
    """What is taken of those that meet the bounds, and the bounds in words."""
    assert (asked.rule, asked.words) == (rule, words)


def test_an_unmet_constraint_says_how_near_the_front_comes() -> None:
    """The message has what was asked, both ends of the front in speedup, seconds and LPIPS, and the
    next step.
    """
    points = [(1.0, 0.4), (2.0, 8e-5)]
    with pytest.raises(
        ConstraintError,
        match=(
            r"mean LPIPS <= 0\.01 and speedup >= 3; the front runs from 2\.000x \(1 s a run\) at"
            r" typical LPIPS 0\.4000, mean 0\.8000 to 1\.000x \(2 s a run\) at typical LPIPS 8e-05,"
            r" mean 0\.00016: relax"
        ),
    ):
        choose(offers(points), bf16_s=2.0, constraints=Constraints(max_lpips=0.01, min_speedup=3.0))


def test_two_bounds_that_are_only_met_apart_are_said_with_what_the_time_allows() -> None:
    """Where LPIPS and time cannot both be kept, the least LPIPS in that time is in the message."""
    with pytest.raises(
        ConstraintError,
        match=(
            r"flips <= 0 and seconds a run <= 1\.5 s; .* fast enough comes down to 2\.000x"
            r" \(1 s a run\) at typical LPIPS 0\.4000, flips 2: relax"
        ),
    ):
        choose(
            [replace(offer, flips=2) for offer in offers([(1.0, 0.4), (2.0, 0.1)])],
            bf16_s=2.0,
            constraints=Constraints(max_flips=0, max_seconds=1.5),
        )


def test_a_bound_that_is_met_exactly_is_met() -> None:
    """Both "at most" and "at least" include equality."""
    rows = offers([(1.0, 0.4), (2.0, 0.1)])
    assert choose(rows, bf16_s=2.0, constraints=Constraints(max_lpips=0.2, min_speedup=1.0)) == 1
    assert choose(rows, bf16_s=2.0, constraints=Constraints(max_seconds=1.0)) == 0


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Constraints(max_lpips=float("nan")), "`max_lpips` is nan; expected a mean LPIPS of 0"),
        (Constraints(max_typical=-1.0), "`max_typical` is -1.0; expected a typical LPIPS of 0"),
        (Constraints(max_flips=-1), "`max_flips` is -1; expected a number of prompts, 0 or more"),
        (Constraints(min_speedup=0.0), "`min_speedup` is 0.0; expected a factor above 0"),
        (Constraints(max_seconds=-1.0), "`max_seconds` is -1.0; expected a time above 0"),
        (Constraints(max_seconds=float("inf")), "`max_seconds` is inf; expected a time above 0"),
        (Constraints(max_memory_bytes=0), "`max_memory_bytes` is 0; expected bytes above 0"),
        (Constraints(max_memory_bytes=-1), "`max_memory_bytes` is -1; expected bytes above 0"),
    ],
)
def test_bounds_that_mean_nothing_are_refused(asked: Constraints, message: str) -> None:
    """The message has the value, what was expected and an example."""
    with pytest.raises(UserError, match=re.escape(message)):
        check_constraints(asked)


GB = 10**9


def sized(points: list[tuple[float, float, int | None]]) -> list[Offer]:
    """Skip-lists at (seconds, typical LPIPS, GB of peak memory)."""
    return [
        Offer(seconds=x, typical=y, mean=2 * y, memory_bytes=None if gb is None else gb * GB)
        for x, y, gb in points
    ]


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    "others", [{}, {"max_typical": 3.0}, {"min_speedup": 1.5}], ids=["alone", "damage", "time"]
)
def test_a_bound_on_memory_leaves_the_same_choice_among_what_fits(
    seed: int, others: dict[str, float]
) -> None:
    """Beside any rule the choice is that of a search that had never seen what does not fit."""
    rng = random.Random(seed)
    rows = sized([(x, y, rng.randint(18, 30)) for x, y in random_points(seed, 12)])
    fitting = [row for row in rows if row.memory_bytes is not None and row.memory_bytes <= 24 * GB]
    asked = Constraints(max_memory_bytes=24 * GB, **others)
    if not any(Constraints(**others).is_met(row, bf16_s=6.0) for row in fitting):
        with pytest.raises(ConstraintError):
            choose(rows, bf16_s=6.0, constraints=asked)
        return
    found = rows[choose(rows, bf16_s=6.0, constraints=asked)]
    assert found is fitting[choose(fitting, bf16_s=6.0, constraints=Constraints(**others))]


def test_memory_between_two_members_flips_the_choice() -> None:
    """The fastest within a bound on damage needs 25 GB: at 24 it is the next one, which lies on
    another front than before; a peak on the bound fits.
    """
    rows = sized([(1.0, 0.3, 25), (1.5, 0.2, 24), (1.4, 0.1, 26)])
    asked = Constraints(max_typical=0.5)
    assert choose(rows, bf16_s=2.0, constraints=asked) == 0
    for most, index in ((25 * GB, 0), (25 * GB - 1, 1), (24 * GB, 1)):
        bounded = replace(asked, max_memory_bytes=most)
        assert choose(rows, bf16_s=2.0, constraints=bounded) == index


def test_where_nothing_fits_the_least_memory_is_said() -> None:
    """The message has the bound, what the front needs, and the least of all as a prediction."""
    with pytest.raises(
        ConstraintError,
        match=(
            r"has peak memory <= 20 GB; the front runs from 2\.000x .* peak memory 25 GB to .*"
            r" peak memory 36 GB; the least peak memory of a scored skip-list is 23 GB, predicted"
        ),
    ):
        choose(
            sized([(1.0, 0.4, 25), (2.0, 0.0, 36), (1.5, 0.6, 23)]),
            bf16_s=2.0,
            constraints=Constraints(max_memory_bytes=20 * GB),
        )


def test_a_bound_on_memory_that_is_not_known_is_refused() -> None:
    """What to do is said, and nothing is taken for small because it was not counted; one skip-list
    whose memory is not known is left out.
    """
    asked = Constraints(max_memory_bytes=24 * GB)
    with pytest.raises(UserError, match=r"was not counted; expected .*: leave it out"):
        choose(sized([(1.0, 0.4, None)]), bf16_s=2.0, constraints=asked)
    rows = sized([(1.0, 0.4, None), (1.5, 0.3, 23)])
    assert choose(rows, bf16_s=2.0, constraints=asked) == 1
