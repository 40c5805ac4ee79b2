"""Whatever is asked, the knapsack answers as brute force would: enough saved, least damage; and its
curve is the lower hull of all that is possible.
"""

import ctypes
import itertools
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog, milp
from scipy.sparse import csr_array

from sensitivity.search.knapsack import Knapsack

Array = NDArray[np.float64]
SHARES = (0.02, 0.2, 0.5, 0.8, 0.97, 0.9999, 1.0)


@dataclass(frozen=True)
class World:
    """A question, and where it is small the gain and damage of every possible choice."""

    gains: Array
    damage: Array
    allowed: NDArray[np.bool_]

    @property
    def knapsack(self) -> Knapsack:
        return Knapsack(self.gains, self.allowed)

    @property
    def every(self) -> NDArray[np.int64]:
        """(choices, groups) all that the groups allow, options that lose time included."""
        return np.array(list(itertools.product(*(np.flatnonzero(row) for row in self.allowed))))

    def totals(self, choices: NDArray[np.int64]) -> tuple[Array, Array]:
        """Seconds and damage of (..., groups) choices."""
        rows = np.arange(len(self.gains))
        return self.gains[rows, choices].sum(-1), self.damage[rows, choices].sum(-1)


def world(
    groups: int,
    options: int,
    *,
    seed: int,
    tail: float = 1.0,
    holes: float = 0.25,
    digits: int | None = None,
) -> World:
    """Log-normal gains (a tenth or more below 0) and damages; `holes` of the options are missing;
    `digits` rounds, so that many are equal.
    """
    rng = np.random.default_rng(seed)
    gains, damage = (
        rng.lognormal(0, tail, (groups, options)) - 0.3,
        rng.lognormal(0, tail, (groups, options)),
    )
    if digits is not None:
        gains, damage = gains.round(digits), damage.round(digits)
    gains[:, 0] = damage[:, 0] = 0.0
    allowed = rng.random((groups, options)) >= holes
    allowed[:, 0] = True
    return World(gains, damage, allowed)


@pytest.mark.parametrize("digits", [None, 1])
@pytest.mark.parametrize("tail", [0.3, 1.0, 2.5])
@pytest.mark.parametrize(("groups", "options"), [(1, 3), (5, 4), (6, 3), (9, 2)])
def test_solve_is_brute_force(groups: int, options: int, tail: float, digits: int | None) -> None:
    """Never less is saved than was asked, and the damage is within 0.1 % of the least; missing
    options, losses and equals included.
    """
    for seed in range(6):
        drawn = world(groups, options, seed=seed, tail=tail, digits=digits)
        gains, damages = drawn.totals(drawn.every)
        for share in SHARES:
            wanted = share * gains.max()
            found = drawn.knapsack.solve(drawn.damage, wanted)
            saved, harm = drawn.totals(found)
            assert drawn.allowed[np.arange(groups), found].all()
            assert saved >= wanted * (1 - 1e-12)
            assert harm <= damages[gains >= wanted * (1 - 1e-12)].min() * 1.001 + 1e-12


def by_dynamic_programming(drawn: World) -> Array:
    """(seconds + 1,) the least damage that saves at least so many whole seconds."""
    least = np.array([0.0])
    for gains, damage, allowed in zip(
        drawn.gains.astype(int), drawn.damage, drawn.allowed, strict=True
    ):
        useful = np.flatnonzero(allowed & (gains >= 0))
        longer = np.full(len(least) + gains[useful].max(), np.inf)
        for option in useful:
            part = longer[gains[option] : gains[option] + len(least)]
            np.minimum(part, least + damage[option], out=part)
        least = longer
    return np.asarray(np.minimum.accumulate(least[::-1])[::-1])


@pytest.mark.parametrize("options", [2, 3, 5])
@pytest.mark.parametrize("tail", [0.3, 1.0, 2.0])
def test_solve_is_dynamic_programming(options: int, tail: float) -> None:
    """25 groups, too many for brute force, whose gains are whole numbers: within 0.1 % of the least
    damage.
    """
    for seed in range(4):
        drawn = world(25, options, seed=seed, tail=tail)
        drawn = World((20 * drawn.gains).round(), drawn.damage, drawn.allowed)
        least = by_dynamic_programming(drawn)
        for share in SHARES:
            wanted = int(share * (len(least) - 1))
            saved, harm = drawn.totals(drawn.knapsack.solve(drawn.damage, wanted))
            assert saved >= wanted
            assert least[wanted] * (1 - 1e-9) <= harm <= least[wanted] * 1.001


@pytest.mark.parametrize("tail", [0.3, 1.0])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
def test_fourteen_hundred_groups_come_near_the_relaxation(share: float, tail: float) -> None:
    """1,400 groups of 4 options: within 0.2 % of the linear program's bound, which no choice can be
    below.
    """
    drawn = world(1400, 4, seed=1, tail=tail)
    group, option = np.nonzero(drawn.allowed)
    wanted = share * drawn.knapsack.most_gain
    one_each = csr_array(
        (np.ones(len(group)), (group, np.arange(len(group)))), shape=(1400, len(group))
    )
    bound = linprog(
        drawn.damage[group, option],
        A_ub=-drawn.gains[group, option][None, :],
        b_ub=[-wanted],
        A_eq=one_each,
        b_eq=np.ones(1400),
        bounds=(0, 1),
    ).fun
    saved, harm = drawn.totals(drawn.knapsack.solve(drawn.damage, wanted))
    assert saved >= wanted
    assert bound * (1 - 1e-9) <= harm <= bound * 1.002


@pytest.mark.parametrize("seconds", [1e-9, 1e6])
@pytest.mark.parametrize("damages", [1e-9, 1e6])
def test_units_do_not_matter(seconds: float, damages: float) -> None:
    """Gains of nanoseconds or of weeks, and damages of any size, give the choices that units of 1
    give.
    """
    drawn = world(14, 3, seed=3)
    other = World(drawn.gains * seconds, drawn.damage * damages, drawn.allowed)
    assert other.knapsack.most_gain == pytest.approx(drawn.knapsack.most_gain * seconds)
    for share in (0.2, 0.5, 0.8, 1.0):
        wanted = share * drawn.knapsack.most_gain
        assert (
            other.knapsack.solve(other.damage, wanted * seconds).tolist()
            == drawn.knapsack.solve(drawn.damage, wanted).tolist()
        )
    plain, scaled = (
        drawn.knapsack.curve(drawn.damage, points=32),
        other.knapsack.curve(other.damage, points=32),
    )
    np.testing.assert_array_equal(plain.choices, scaled.choices)
    np.testing.assert_allclose(scaled.gains, plain.gains * seconds)
    np.testing.assert_allclose(scaled.damages, plain.damages * damages)


@pytest.mark.parametrize("wanted", [0.0, -1.0])
def test_nothing_wanted_is_all_bf16(wanted: float) -> None:
    """No saving is asked, so nothing is quantized, even where damages are 0."""
    drawn = world(8, 3, seed=0)
    assert not drawn.knapsack.solve(drawn.damage, wanted).any()
    assert not drawn.knapsack.solve(np.zeros_like(drawn.damage), wanted).any()


def test_more_than_everything_is_the_fastest() -> None:
    """A saving that no choice has is answered by the largest there is, whatever its damage; of
    equally fast options by the least damage.
    """
    drawn = world(6, 3, seed=1)
    fastest = drawn.every[drawn.totals(drawn.every)[0].argmax()]
    for wanted in (drawn.knapsack.most_gain, drawn.knapsack.most_gain * 1.001, 1e9):
        assert drawn.knapsack.solve(drawn.damage, wanted).tolist() == fastest.tolist()
    assert drawn.knapsack.most_gain == pytest.approx(drawn.totals(fastest)[0])
    equals = Knapsack(np.array([[0.0, 2.0, 2.0, 1.0]]), np.ones((1, 4), dtype=bool))
    assert equals.solve(np.array([[0.0, 5.0, 3.0, 0.1]]), 9.0).tolist() == [2]


@pytest.mark.parametrize("seed", range(4))
def test_options_without_gain_are_never_chosen(seed: int) -> None:
    """Options that lose time or save none stay out of solutions, single prices and curves, though
    they do no damage at all.
    """
    drawn = world(10, 4, seed=seed)
    gains = np.where(np.random.default_rng(seed).random(drawn.gains.shape) < 0.2, 0.0, drawn.gains)
    knapsack, damage = Knapsack(gains, drawn.allowed), np.where(gains > 0, drawn.damage, 0.0)
    choices = [knapsack.solve(damage, share * knapsack.most_gain) for share in SHARES]
    choices += [knapsack.at_price(damage, price) for price in (0.0, 0.1, 1.0, 1e9)]
    for choice in [*choices, *knapsack.curve(damage, points=64).choices]:
        quantized = np.flatnonzero(choice)
        assert (gains[quantized, choice[quantized]] > 0).all()
        assert drawn.allowed[np.arange(10), choice].all()


def test_a_world_without_gain_stays_bf16() -> None:
    """Where every format is slower, or no group takes any, every answer is bf16."""
    damage = np.array([[0.0, 1.0], [0.0, 2.0]])
    for knapsack in (
        Knapsack(np.array([[0.0, -1.0], [0.0, -2.0]]), np.ones((2, 2), dtype=bool)),
        Knapsack(np.array([[0.0, 1.0], [0.0, 2.0]]), np.array([[True, False]] * 2)),
    ):
        assert knapsack.most_gain == 0.0
        assert knapsack.solve(damage, 1.0).tolist() == [0, 0]
        curve = knapsack.curve(damage, points=16)
        assert (curve.gains.tolist(), curve.damages.tolist(), curve.choices.tolist()) == (
            [0.0],
            [0.0],
            [[0, 0]],
        )


@pytest.mark.parametrize("tail", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("seed", range(4))
def test_curve_choices_are_optimal_for_their_own_gain(seed: int, tail: float) -> None:
    """No choice saves as much as a point of the curve at less damage; the curve rises from bf16 to
    the fastest and never bends back.
    """
    drawn = world(6, 3, seed=seed, tail=tail)
    curve = drawn.knapsack.curve(drawn.damage, points=64)
    gains, damages = drawn.totals(drawn.every)
    for point, choice in enumerate(curve.choices):
        assert (curve.gains[point], curve.damages[point]) == pytest.approx(drawn.totals(choice))
        assert curve.damages[point] <= damages[gains >= curve.gains[point] * (1 - 1e-12)].min() * (
            1 + 1e-9
        )
    assert not curve.choices[0].any()
    assert curve.gains[-1] == pytest.approx(drawn.knapsack.most_gain)
    assert (np.diff(curve.gains) > 0).all()
    assert (np.diff(curve.damages) > 0).all()
    slopes = np.diff(curve.damages) / np.diff(curve.gains)
    assert (np.diff(slopes) >= -1e-9 * slopes[1:]).all()


def test_more_prices_draw_a_finer_curve() -> None:
    """Large worlds too: choices are distinct, 256 prices leave no larger gap than 16 do, and both
    lie on one hull.
    """
    drawn = world(300, 4, seed=2)
    few, many = (drawn.knapsack.curve(drawn.damage, points=points) for points in (16, 256))
    assert len(np.unique(many.choices, axis=0)) == len(many.choices) > len(few.choices)
    assert np.diff(many.gains).max() <= np.diff(few.gains).max()
    assert (np.interp(few.gains, many.gains, many.damages) >= few.damages * (1 - 1e-9)).all()


def test_a_price_weighs_damage_against_seconds() -> None:
    """At a price of 2 a second, 3 of damage for 2 seconds is bought and 3 for 1 is not; of equals
    the one that saves more is.
    """
    knapsack = Knapsack(np.array([[0.0, 2.0], [0.0, 1.0], [0.0, 1.5]]), np.ones((3, 2), dtype=bool))
    damage = np.array([[0.0, 3.0], [0.0, 3.0], [0.0, 3.0]])
    assert knapsack.at_price(damage, 2.0 * knapsack.unit).tolist() == [1, 0, 1]


def test_solving_prints_nothing(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stdout may be somebody's JSON: the solver's own lines, here one at each call, do not reach
    it, and what is printed around it does.
    """
    calls: list[int] = []

    def talkative(*args: Any, **options: Any) -> Any:
        calls.append(os.write(1, b"HiGHS says\n"))
        return milp(*args, **options)

    monkeypatch.setattr("sensitivity.search.knapsack.milp", talkative)
    print("before")
    for seed in range(8):
        drawn = world(8, 3, seed=seed)
        for share in SHARES:
            drawn.knapsack.solve(drawn.damage, share * drawn.knapsack.most_gain)
    ctypes.CDLL(None).fflush(None)
    print("after")
    assert calls
    assert capfd.readouterr().out == "before\nafter\n"
