"""Hypervolume, the best points of a front, and the damage at a speedup."""

import itertools

import numpy as np
import pytest
from measures import best_subset, damage_at, front_of, hypervolume_of, student_interval, typical_of

CORNER = (1.0, 1.0)


def test_hypervolume_is_the_area_of_rectangles() -> None:
    """Two steps of a staircase, by hand; points beyond the corner add nothing."""
    assert hypervolume_of([(0.5, 0.5)], CORNER) == pytest.approx(0.25)
    points = [(0.2, 0.8), (0.6, 0.1), (1.2, 0.0), (0.1, 1.5)]
    assert hypervolume_of(points, CORNER) == pytest.approx(0.8 * 0.2 + 0.4 * 0.7)
    assert hypervolume_of(np.zeros((0, 2)), CORNER) == 0.0


def test_front_has_what_no_other_point_dominates() -> None:
    """The fastest first; a point that is slower and no better is left out."""
    assert front_of([(0.5, 0.5), (0.4, 0.6), (0.6, 0.5), (0.7, 0.1)]).tolist() == [1, 0, 3]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_best_subset_is_that_of_trying_all(count: int) -> None:
    """Dynamic programming finds the largest area of any so many points."""
    points = np.random.default_rng(count).random((9, 2)) * 1.1
    tried = itertools.combinations(range(9), count)
    most = max(hypervolume_of(points[list(chosen)], CORNER) for chosen in tried)
    chosen = best_subset(points, count, CORNER)
    assert len(chosen) <= count
    assert hypervolume_of(points[chosen], CORNER) == pytest.approx(most)


def test_best_subset_of_a_short_front_is_the_front() -> None:
    """There are no more points than those that no other dominates."""
    assert best_subset([(0.5, 0.5), (0.6, 0.6)], 5, CORNER).tolist() == [0]


def test_damage_at_a_speedup_is_that_of_the_best_fast_enough_list() -> None:
    """A list that is exactly so fast counts; where none is, the answer is NaN."""
    points = [(0.5, 0.4), (0.4, 0.6), (0.9, 0.1)]
    assert damage_at(points, 2.0, 1.0) == 0.4
    assert damage_at(points, 2.1, 1.0) == 0.6
    assert np.isnan(damage_at(points, 3.0, 1.0))


def test_typical_is_the_geometric_mean_and_0_of_zeros() -> None:
    """Over the last axis, far above the floor."""
    found = typical_of([[0.01, 0.04], [0.0, 0.0]], 0.0)
    assert found == pytest.approx([0.02, 0.0], rel=1e-3)
    assert typical_of([0.0] * 7, 3.7e-5) == 0.0


def test_interval_of_one_value_has_no_width() -> None:
    """Two values have Student's with one degree of freedom."""
    assert student_interval([0.3]) == [0.3, 0.3]
    low, high = student_interval([0.0, 2.0])
    assert (high - low) / 2 == pytest.approx(12.706, rel=1e-3)
