"""Damages fitted to scored lists, and the ceiling's lists."""

from pathlib import Path

import numpy as np
import pytest
from ceiling import Front, features_of, fit_damages, front_by, items_of, kept_front, link
from landscape_kinds import Landscape, make
from measures import hypervolume_of


@pytest.fixture(scope="module")
def plain() -> Landscape:
    """A landscape whose damages add up."""
    return make("additive", 0)


def _lists(groups: int, count: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(0)
    return [tuple(map(int, rng.random(groups) < rng.uniform(0.05, 0.9))) for _ in range(count)]


def test_fit_finds_damages_and_where_they_saturate(plain: Landscape) -> None:
    """Of lists without noise: each large damage within a twentieth, and the bend of the link."""
    items, rng = items_of(plain.world.candidates), np.random.default_rng(1)
    lists = _lists(len(plain.world.candidates.groups), 600)
    damages = np.exp(rng.normal(-6.5, 1.0, len(items)))
    fit = fit_damages(items, lists, link(features_of(items, lists) @ damages, 0.2))
    large = damages > np.median(damages)
    assert fit.damages[large] == pytest.approx(damages[large], rel=0.05)
    assert fit.most == pytest.approx(0.2, rel=0.1)
    assert fit.missed < 0.01


def test_more_points_have_more_hypervolume(plain: Landscape) -> None:
    """The best n lists of the ceiling are a front, and each speedup is reached by one."""
    candidates, items = plain.world.candidates, items_of(plain.world.candidates)
    lists = _lists(len(candidates.groups), 400)
    fit = fit_damages(items, lists, plain.truth(lists)[:, 0])
    corner = (candidates.bf16_s, 0.02)
    front = front_by(fit, candidates, corner, savings=20)
    areas = [hypervolume_of(front.points[best], corner) for _, best in sorted(front.best.items())]
    assert areas == sorted(areas)
    assert areas[0] < areas[-1] <= hypervolume_of(front.points, corner) * (1 + 1e-9)
    for speedup, i in front.at.items():
        assert candidates.bf16_s / candidates.latency_s(front.choices[i]) >= speedup * (1 - 1e-9)


def test_kept_lists_stay_those_of_the_file(tmp_path: Path) -> None:
    """They are made once; the next call reads the same."""
    front = Front(
        ((0, 1), (1, 1)), np.array([[0.9, 0.1], [0.8, 0.2]]), {5: np.array([1])}, {1.2: 0}
    )
    path = tmp_path / "ceiling.json"
    first = kept_front(path, lambda: front)
    again = kept_front(path, lambda: pytest.fail("made twice"))
    assert first.choices == again.choices == front.choices
    assert again.best[5].tolist() == [1]
    assert again.at == {1.2: 0}
