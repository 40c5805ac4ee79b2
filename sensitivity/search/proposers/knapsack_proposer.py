"""Which skip-list would add most to the front? The default proposer.

Typical LPIPS is close to additive over the groups that are quantized, and seconds are exactly
additive. So a proposal answers two questions.

1. Which saving is worth a trial? The one where the estimated front would add most hypervolume to
   what has been tried. Tried choices count with their estimates too, not with their scores, so that
   a score that is low by chance does not hide its neighbourhood.
2. Which choice has that saving at the least damage? A multiple-choice knapsack, solved exactly
   (`search.knapsack`).

The damages are the posterior means of `search.damage`: calibrated errors, corrected by every trial.
Samples of the posterior are used only when all choices of the mean have been tried. In every
simulation and in a real search, exploring more than that cost more than it brought (LOG.md).

    proposer = KnapsackProposer(candidates, seed=0, errors=errors)
    choice = proposer.next_choice(history, seen, index)

Choices that other workers are scoring count as tried, with their estimates. They are no evidence:
nobody has heard of them yet.
"""

import itertools
from collections.abc import Sequence
from collections.abc import Set as AbstractSet

import numpy as np
from numpy.typing import NDArray

from sensitivity.core.format_name import FormatName
from sensitivity.search.block_patterns import RECOMPILE_LIMIT, BlockPatterns
from sensitivity.search.calibration.jobs import Errors
from sensitivity.search.candidates import Candidates, Choice
from sensitivity.search.damage import Belief, Hypothesis, believe, kinship
from sensitivity.search.knapsack import Knapsack
from sensitivity.search.proposers._base import Observation, Proposal, Proposer

Array = NDArray[np.float64]
SAVINGS = 96
"""Savings that a proposal compares."""
CURVE_PRICES = 128
"""Prices of a second for which the estimated front is computed."""
MAX_TRIES = 24
"""Damage tables that are tried (the mean, then samples) before a neighbour of the last choice is
taken.
"""
SPREAD_KEPT = {FormatName.FP8: 0.5, FormatName.MXFP8: 0.5}
"""Part of the spread of a format's calibrated errors (of their logarithms) that is believed; 1 for
other formats.
"""
FORMAT_ERRORS = {FormatName.FP8: 0.037, FormatName.MXFP8: 0.037, FormatName.NVFP4: 0.134}
"""Relative error of a product of normal operands, both quantized (512 x 1024 x 512, by emulation):
what a format does on average, before anything is known of a layer.
"""
UNKNOWN_FORMAT_ERROR = 0.1


class KnapsackProposer(Proposer):
    """See the module.

    Args:
        candidates: groups and gains.
        seed: of the savings that are compared and of posterior samples.
        errors: {(group, option): calibrated error}, None without calibration.
        limit: distinct patterns that the blocks of a stack may have (`search.block_patterns`).

    Attributes:
        items: the D (group, option) pairs that a choice may take, bf16 left out. Vectors of shape
            (D,) have one value for each.
    """

    def __init__(
        self,
        candidates: Candidates,
        *,
        seed: int,
        errors: Errors | None,
        limit: int = RECOMPILE_LIMIT,
    ) -> None:
        self.candidates, self.seed = candidates, seed
        groups, options = candidates.groups, len(candidates.formats)
        allowed = np.array(
            [[not o or bool(group.members[o]) for o in range(options)] for group in groups]
        )
        self.gains = np.array([group.gains_s for group in groups])
        self.knapsack = Knapsack(self.gains, allowed)
        self.patterns = BlockPatterns(candidates, limit=limit)
        self.items = [
            (g, o) for g in range(len(groups)) for o in range(1, options) if allowed[g, o]
        ]
        self._group, self._option = np.array(self.items).T
        formats = [candidates.formats[o] for _, o in self.items]
        self.sizes = np.array(
            [
                len(groups[g].members[o]) * FORMAT_ERRORS.get(fmt, UNKNOWN_FORMAT_ERROR) ** 1.5
                for (g, o), fmt in zip(self.items, formats, strict=True)
            ]
        )
        roles = [groups[g].name.partition("[")[0] for g, _ in self.items]
        self.kin = kinship(roles, list(map(str, formats)))
        self.errors = None if errors is None else self._comparable(errors)
        self._memory: dict[bytes, Hypothesis] = {}
        bounds = [
            candidates.rule_of_thumb,
            *(candidates.all_quantized(o) for o in range(1, options)),
        ]
        self._baseline_savings = [
            candidates.bf16_s - candidates.latency_s(choice) for choice in bounds
        ]

    def _comparable(self, errors: Errors) -> Array:
        """(D,) calibrated errors that can be compared between formats.

        Errors of one format rank its groups. Between formats they mislead, since rounding to bf16
        puts a floor under the small ones (LOG.md). So the geometric mean of each format's errors is
        moved to its entry in `FORMAT_ERRORS`, and `SPREAD_KEPT` of their spread around it is kept.
        """
        values = np.log(np.maximum([errors[item] for item in self.items], 1e-12))
        result = np.empty(len(values))
        for option, fmt in enumerate(self.candidates.formats):
            of_format = self._option == option
            if of_format.any():
                own = values[of_format]
                spread = SPREAD_KEPT.get(fmt, 1.0) * (own - own.mean())
                result[of_format] = np.log(FORMAT_ERRORS.get(fmt, UNKNOWN_FORMAT_ERROR)) + spread
        return np.exp(result)

    def features(self, choices: Sequence[Choice]) -> Array:
        """(n, D) 1 where a choice takes the item's option."""
        table = np.asarray(choices, dtype=np.int64).reshape(
            len(choices), len(self.candidates.groups)
        )
        return np.asarray(table[:, self._group] == self._option, dtype=np.float64)

    def believe(self, history: Sequence[Observation]) -> Belief:
        """The posterior over damages after these trials."""
        return believe(
            self.features([obs.choice for obs in history]),
            np.array([obs.typical for obs in history]),
            self.errors,
            self.sizes,
            self.kin,
            shares=np.array([obs.share for obs in history]),
            latents=np.array([obs.latent or np.nan for obs in history]),
            memory=self._memory,
        )

    def propose(
        self,
        history: Sequence[Observation],
        seen: AbstractSet[Choice],
        index: int,
        pending: Sequence[Proposal] = (),
    ) -> Proposal:
        choices = [other.choice for other in pending]
        return Proposal(choice=self.next_choice(history, seen, index, choices))

    def next_choice(
        self,
        history: Sequence[Observation],
        seen: AbstractSet[Choice],
        index: int,
        pending: Sequence[Choice] = (),
    ) -> Choice:
        """The choice to score after these trials; one of `seen` only where every choice has been
        tried. Those of `pending` are being scored.
        """
        belief = self.believe(history)
        rng = np.random.default_rng([self.seed, index])
        choice = self.candidates.none_quantized
        for attempt in range(MAX_TRIES):
            damage = self.damage_table(belief.sample(rng) if attempt else belief.damages)
            savings = self.weighed_savings(belief, damage, history, rng, pending)
            for wanted in savings[: 1 if attempt else 4]:
                choice = self._solve(damage, wanted * (1 - 1e-9))
                if choice not in seen:
                    return choice
        return self._nearest_new(choice, seen)

    def damage_table(self, damage: Array) -> Array:
        """(groups, options) of (D,) damages; 0 for bf16 and for what a group does not take."""
        table = np.zeros(self.gains.shape)
        table[self._group, self._option] = damage
        return table

    def weighed_savings(
        self,
        belief: Belief,
        damage: Array,
        history: Sequence[Observation],
        rng: np.random.Generator,
        pending: Sequence[Choice] = (),
    ) -> Array:
        """Savings in seconds, the one that promises most hypervolume first.

        A jittered grid from nothing to everything, the savings of the baselines, and the largest
        saving.

        Args:
            belief: after `history`.
            damage: (groups, options), the belief's mean or a sample of it.
            history: the trials so far.
            rng: jitters the grid.
            pending: choices that are being scored.
        """
        curve = self.knapsack.curve(damage, points=CURVE_PRICES)
        most = self.knapsack.most_gain
        grid = most * (np.arange(SAVINGS) + rng.random()) / SAVINGS
        baselines = [gain for gain in self._baseline_savings if 0 < gain <= most]
        savings = np.unique(np.concatenate([grid, baselines, [most]]))
        tried = [*(obs.choice for obs in history), *pending]
        choices = np.array(tried, dtype=np.int64).reshape(len(tried), len(self.gains))
        promised = promised_area(
            savings,
            belief.link(np.interp(savings, curve.gains, curve.damages)),
            self.gains[np.arange(len(self.gains)), choices].sum(1),
            belief.typical(self.features(tried)),
            worst=float(belief.link(curve.damages[-1:])[0]),
        )
        return np.asarray(savings[np.argsort(-promised, kind="stable")])

    def _solve(self, damage: Array, wanted: float) -> Choice:
        """The knapsack's choice; where that has more block patterns than torch compiles, the best
        that is found within the limit.
        """
        choice = as_choice(self.knapsack.solve(damage, wanted))
        if self.patterns.fits(choice):
            return choice
        return as_choice(self.patterns.reduce(damage, self.gains, self.knapsack.useful, wanted))

    def _nearest_new(self, choice: Choice, seen: AbstractSet[Choice]) -> Choice:
        """The choice itself if it is new, else a new one that differs in the fewest groups; an
        option that costs time is never added. Where nothing is new, the choice itself.
        """
        others: dict[int, list[int]] = {g: [0] if option else [] for g, option in enumerate(choice)}
        for group, option in self.items:
            if self.gains[group, option] > 0 and option != choice[group]:
                others[group].append(option)
        free = [group for group, options in others.items() if options]
        for changed in range(len(free) + 1):
            for groups in itertools.combinations(free, changed):
                for options in itertools.product(*(others[g] for g in groups)):
                    found = list(choice)
                    for group, option in zip(groups, options, strict=True):
                        found[group] = option
                    if tuple(found) not in seen and self.patterns.fits(tuple(found)):
                        return tuple(found)
        return choice


def promised_area(
    savings: Array, expected: Array, tried_gains: Array, tried_lpips: Array, *, worst: float
) -> Array:
    """(S,) area (seconds x LPIPS) that a point of each saving and expected LPIPS would add to what
    the tried points dominate.

    A point dominates all smaller savings at larger LPIPS, up to `worst`. bf16 (no saving, LPIPS 0)
    is always among the tried points. The area is exact where the tried gains are among `savings`.

    Args:
        savings: (S,) seconds, ascending.
        expected: (S,) LPIPS expected of each.
        tried_gains: (n,) seconds that the tried choices save.
        tried_lpips: (n,) their LPIPS.
        worst: LPIPS beyond which nothing counts.
    """
    reaches = tried_gains[None, :] >= savings[:, None] * (1 - 1e-9)  # (S, n)
    best = np.minimum(
        np.where(reaches, tried_lpips[None, :], worst).min(1, initial=worst), worst
    )  # (S,) least LPIPS that was tried at each saving
    widths = np.diff(savings, prepend=0.0)
    lower = np.maximum(best[None, :] - expected[:, None], 0.0) * (
        savings[None, :] <= savings[:, None]
    )
    return np.asarray(lower @ widths)


def as_choice(options: NDArray[np.int64]) -> Choice:
    """An array of options, (groups,), as a choice."""
    return tuple(int(option) for option in options)
