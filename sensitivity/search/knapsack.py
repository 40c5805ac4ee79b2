"""Which choice does the least damage and saves at least so many seconds? `Knapsack`.

Each group takes one option; option i of group g saves `gain` seconds and does `damage`. `solve`
minimises the damage subject to a total gain, exactly to 0.1 %. `curve` gives the whole trade-off.

Method. For a price lambda of a second, each group's best option is known at once: the least of
damage - lambda * gain. Bisecting lambda solves the linear relaxation, whose bound lies within one
group's damage of the optimum. An option whose reduced cost exceeds the gap between that bound and a
feasible choice is in no better choice, so it is dropped. The few groups that are left (the core)
are solved exactly by HiGHS (`scipy.optimize.milp`). Source: Sinha and Zoltners 1979, "The
multiple-choice knapsack problem"; the reduction by bounds is section 11.2 of Kellerer, Pferschy and
Pisinger 2004, "Knapsack Problems".

    knapsack = Knapsack(gains, allowed)                 # (groups, options); column 0 is bf16
    choice = knapsack.solve(damage, wanted_gain=0.2)    # (groups,) options
    curve = knapsack.curve(damage, points=128)          # optimal choices for 128 prices

Conventions. Damage is at least 0, and 0 for option 0. Gains may be negative; such options are never
chosen, since bf16 dominates them.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

Array = NDArray[np.float64]
Options = NDArray[np.int64]
BISECTIONS = 60
TOLERANCE = 1e-3
"""Relative. Damages are known to a third of themselves at best."""
TIME_LIMIT_S = 2.0


@dataclass(frozen=True, slots=True)
class Curve:
    """P optimal choices, from nothing saved to everything saved.

    Attributes:
        gains: (P,) seconds saved.
        damages: (P,) damage done.
        choices: (P, groups) options.
    """

    gains: Array
    damages: Array
    choices: Options


class Knapsack:
    """The knapsack of fixed gains; each call has its own damages.

    Args:
        gains: (groups, options) seconds saved; column 0 is bf16 and 0.
        allowed: (groups, options) which options a group has; column 0 is always allowed.
    """

    def __init__(self, gains: Array, allowed: NDArray[np.bool_]) -> None:
        # HiGHS's tolerances are absolute, and a gain may be microseconds.
        self.unit = float(np.abs(gains).max()) or 1.0
        self.gains = np.where(allowed, gains, 0.0) / self.unit
        self.useful = allowed & (self.gains > 0)
        self.useful[:, 0] = True
        self.most = float(np.where(self.useful, self.gains, 0.0).max(1).sum())
        self._rows = np.arange(len(gains))

    @property
    def most_gain(self) -> float:
        """Seconds saved by the fastest choice."""
        return self.most * self.unit

    def at_price(self, damage: Array, price: float | Array) -> Options:
        """(groups,) the options of least damage - price * gain; of equal ones the faster. Of P
        prices, an array (P, 1, 1), it is (P, groups).
        """
        worth = np.where(self.useful, damage - price * self.gains, np.inf)
        return self._last_min(worth)

    def _last_min(self, worth: Array) -> Options:
        """Place of the minimum along the last axis; ties go to the option that saves more."""
        least = worth.min(-1, keepdims=True)
        tied = worth <= least + 1e-12 * np.maximum(np.abs(least), 1e-300)
        return np.asarray(np.where(tied, self.gains, -np.inf).argmax(-1), dtype=np.int64)

    def totals(self, damage: Array, choice: Options) -> tuple[float, float]:
        """(gain in units, damage) of a choice."""
        return float(self.gains[self._rows, choice].sum()), float(damage[self._rows, choice].sum())

    def solve(self, damage: Array, wanted_gain: float) -> Options:
        """The choice of least damage that saves at least `wanted_gain` seconds.

        Where no choice saves that much, it is the fastest.

        Args:
            damage: (groups, options), at least 0; column 0 is 0.
            wanted_gain: seconds.

        Returns:
            (groups,) options.
        """
        wanted = wanted_gain / self.unit
        damage = damage / (float(np.where(self.useful, damage, 0.0).max()) or 1.0)
        if wanted >= self.most * (1 - 1e-12):
            return self._fastest(damage)
        if wanted <= 0:
            return np.zeros(len(damage), dtype=np.int64)
        price, under, over = self._bracket(damage, wanted)
        relaxed = np.where(self.useful, damage - price * self.gains, np.inf)
        least = relaxed.min(1)
        bound = float(least.sum()) + price * wanted
        feasible = min(
            (
                self._lowered(damage, self._raised(damage, under, wanted), wanted),
                self._lowered(damage, over, wanted),
            ),
            key=lambda choice: self.totals(damage, choice)[1],
        )
        gap = self.totals(damage, feasible)[1] - bound
        if gap <= TOLERANCE * bound:
            return feasible
        keep = self.useful & (relaxed - least[:, None] <= gap + 1e-12)
        core = np.flatnonzero(keep.sum(1) > 1)
        exact = (
            self._exact(damage, keep, core, wanted, np.asarray(keep.argmax(1), dtype=np.int64))
            if len(core)
            else None
        )
        if exact is None or self.totals(damage, exact)[1] > self.totals(damage, feasible)[1]:
            return feasible
        return exact

    def _bracket(self, damage: Array, wanted: float) -> tuple[float, Options, Options]:
        """The least price at which enough is saved, the choice just below it (which saves too
        little) and the choice at it.
        """
        low, high = 0.0, 1.0
        while self.totals(damage, self.at_price(damage, high))[0] < wanted and high < 1e18:
            low, high = high, high * 8
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            if self.totals(damage, self.at_price(damage, middle))[0] >= wanted:
                high = middle
            else:
                low = middle
            if high - low <= 1e-12 * high:
                break
        return high, self.at_price(damage, low), self.at_price(damage, high)

    def _fastest(self, damage: Array) -> Options:
        """(groups,) the options that save most; of equal ones that with less damage."""
        gains = np.where(self.useful, self.gains, -np.inf)
        return np.asarray(
            np.where(gains == gains.max(1, keepdims=True), damage, np.inf).argmin(1), dtype=np.int64
        )

    def _raised(self, damage: Array, choice: Options, wanted: float) -> Options:
        """The choice with the cheapest single change that makes it save enough; the fastest choice
        where no single change does.
        """
        saved, _ = self.totals(damage, choice)
        more = self.gains - self.gains[self._rows, choice][:, None]
        worse = np.where(
            self.useful & (saved + more >= wanted),
            damage - damage[self._rows, choice][:, None],
            np.inf,
        )
        group, option = np.unravel_index(int(worse.argmin()), worse.shape)
        if not np.isfinite(worse[group, option]):
            return self._fastest(damage)
        raised = choice.copy()
        raised[group] = option
        return raised

    def _lowered(self, damage: Array, choice: Options, wanted: float) -> Options:
        """The choice after single changes that reduce the damage, the best first, as long as enough
        is saved.
        """
        choice = choice.copy()
        for _ in range(len(choice)):
            saved, _ = self.totals(damage, choice)
            lost = self.gains[self._rows, choice][:, None] - self.gains
            better = np.where(
                self.useful & (saved - lost >= wanted),
                damage[self._rows, choice][:, None] - damage,
                -np.inf,
            )
            group, option = np.unravel_index(int(better.argmax()), better.shape)
            if better[group, option] <= 0:
                break
            choice[group] = option
        return choice

    def _exact(
        self, damage: Array, keep: NDArray[np.bool_], core: Options, wanted: float, fixed: Options
    ) -> Options | None:
        """The core solved by HiGHS; the other groups take the one option that is left to them.

        None where HiGHS finds nothing in time.
        """
        outside = np.setdiff1d(self._rows, core)
        rest = wanted - float(self.gains[outside, fixed[outside]].sum())
        group, option = np.nonzero(keep[core])
        gains, costs = self.gains[core[group], option], damage[core[group], option]
        ones = csr_array(
            (np.ones(len(group)), (group, np.arange(len(group)))), shape=(len(core), len(group))
        )
        with quiet_stdout():
            found = milp(
                costs / (costs.max() or 1.0),
                integrality=np.ones(len(costs)),
                bounds=Bounds(0, 1),
                constraints=[
                    LinearConstraint(gains[None, :], lb=rest),
                    LinearConstraint(ones, lb=1, ub=1),
                ],
                options={"mip_rel_gap": TOLERANCE, "time_limit": TIME_LIMIT_S},
            )
        if found.x is None:
            return None
        choice = fixed.copy()
        picked = np.flatnonzero(found.x > 0.5)
        choice[core[group[picked]]] = option[picked]
        return choice if self.totals(damage, choice)[0] >= wanted * (1 - 1e-9) else None

    def curve(self, damage: Array, *, points: int) -> Curve:
        """The lower convex hull of (gain, damage): distinct optimal choices, slowest first.

        Args:
            damage: (groups, options), at least 0; column 0 is 0.
            points: number of prices for which a choice is computed.
        """
        ratios = np.where(
            self.useful & (self.gains > 0),
            damage / np.where(self.gains > 0, self.gains, 1.0),
            np.nan,
        )[:, 1:]
        known = ratios[np.isfinite(ratios)]
        if not len(known):
            return Curve(np.zeros(1), np.zeros(1), np.zeros((1, len(damage)), dtype=np.int64))
        prices = np.quantile(known, np.linspace(0, 1, points)) * (1 + 1e-9)
        steps = np.concatenate([[0.0], prices, [prices[-1] * 1e9]])
        choices = np.unique(self.at_price(damage, steps[:, None, None]), axis=0)
        gains = self.gains[self._rows, choices].sum(1)
        order = np.argsort(gains, kind="stable")
        damages = damage[self._rows, choices].sum(1)
        return Curve(gains[order] * self.unit, damages[order], choices[order])


@contextmanager
def quiet_stdout() -> Iterator[None]:
    """Inside, what is written to the process's stdout is dropped.

    HiGHS (scipy 1.17) sometimes prints a line of debugging, and stdout may be our JSON.
    """
    try:
        flush, kept = ctypes.CDLL(None).fflush, os.dup(1)
    except (OSError, TypeError, AttributeError):  # no stdout, or no C library to ask (Windows)
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    flush(None)
    os.dup2(nowhere, 1)
    try:
        yield
    finally:
        flush(None)
        os.dup2(kept, 1)
        os.close(nowhere)
        os.close(kept)
