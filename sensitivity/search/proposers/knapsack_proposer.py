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

Where step policies are searched, both questions are asked of each policy: its gains are a share of
all steps', and its damages what `search.step_table` says that the policy leaves of them. A saving
is promised the least damage that any policy does at it, and that policy's knapsack is solved. How
far the table's profile of the steps is believed is for the trials to say (`search.damage`): the
weights of a policy are those of the belief's `step_trust`.

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
from sensitivity.search.step_table import StepTable

Array = NDArray[np.float64]
SAVINGS = 96
"""Savings that a proposal compares."""
CURVE_PRICES = 128
"""Prices of a second for which the estimated front is computed."""
MAX_TRIES = 24
"""Damage tables that are tried (the mean, then samples) before a neighbour of the last choice is
taken.
"""
SPREAD_KEPT = 0.5
"""Part of the spread of an 8-bit format's calibrated errors (of their logarithms) that is believed;
of NVFP4 and its variants all of it is, whose errors lie well above those of rounding to bf16.
"""
FORMAT_ERRORS = {
    FormatName.MXFP8: 0.037,
    FormatName.NVFP4: 0.134,
    FormatName.FP8: 0.037,
    FormatName.INT8: 0.011,
    FormatName.NVFP4_4O6: 0.129,
    FormatName.INT8_ROT: 0.011,
    FormatName.FP8_LB: 0.037,
    FormatName.NVFP4_A16: 0.095,
    FormatName.MXFP8_A16: 0.027,
    FormatName.FP8_A16: 0.026,
    FormatName.INT8_A16: 0.008,
}
"""Relative error of a product of normal operands, quantized as the format says (512 x 1024 x 512,
by emulation): what a format does on average, before anything is known of a layer.
"""
UNKNOWN_FORMAT_ERROR = 0.1
STEP_TRUSTS = (1.0, 0.5, 0.0)
"""Powers of the measured profile of the steps that are weighed; 1 leaves it as it is."""


class KnapsackProposer(Proposer):
    """See the module.

    Args:
        candidates: groups and gains.
        seed: of the savings that are compared and of posterior samples.
        errors: {(group, option): calibrated error}, None without calibration.
        steps: what each group does in which part of a run; None: the same in every step.
        limit: distinct patterns that the blocks of a stack may have (`search.block_patterns`).

    Attributes:
        items: the D (group, option) pairs that a choice may take, bf16 left out. Vectors of shape
            (D,) have one value for each.
        knapsacks: one for each step policy.
        gains: (groups, options) seconds that the first policy saves; `knapsack` is its own.
        weights: {step_trust: (policies, D) what each policy leaves of the damage of each item};
            1.0 alone where there is no profile, or no policy to choose.
    """

    def __init__(
        self,
        candidates: Candidates,
        *,
        seed: int,
        errors: Errors | None,
        steps: StepTable | None = None,
        limit: int = RECOMPILE_LIMIT,
    ) -> None:
        self.candidates, self.seed = candidates, seed
        groups, options = candidates.groups, len(candidates.formats)
        allowed = np.array(
            [[not o or bool(group.members[o]) for o in range(options)] for group in groups]
        )
        places = range(len(candidates.policies))
        self._gains = np.array([candidates.gains_s(place) for place in places])
        self.knapsacks = [Knapsack(gains, allowed) for gains in self._gains]
        self.gains, self.knapsack = self._gains[0], self.knapsacks[0]
        self.patterns = BlockPatterns(candidates, limit=limit)
        self.items = [
            (g, o) for g in range(len(groups)) for o in range(1, options) if allowed[g, o]
        ]
        self._group, self._option = np.array(self.items).T
        self.weights = self._weights(steps)
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
        moved to its entry in `FORMAT_ERRORS`, and of 8-bit formats `SPREAD_KEPT` of their spread
        around it is kept. NVFP4's variants are moved as far as NVFP4 is, where it is searched too:
        what four-over-six brings to a layer shows in its errors.
        """
        values = np.log(np.maximum([errors[item] for item in self.items], 1e-12))
        result, formats = np.empty(len(values)), self.candidates.formats
        for option, fmt in enumerate(formats):
            of_format = self._option == option
            if not of_format.any():
                continue
            is_fp4, beside = fmt.plain is FormatName.NVFP4, option
            if is_fp4 and fmt.plain in formats and formats.index(fmt.plain) in self._option:
                beside = formats.index(fmt.plain)
            spread = values[of_format] - values[self._option == beside].mean()
            level = np.log(FORMAT_ERRORS.get(formats[beside], UNKNOWN_FORMAT_ERROR))
            result[of_format] = level + (1.0 if is_fp4 else SPREAD_KEPT) * spread
        return np.exp(result)

    def _weights(self, table: StepTable | None) -> dict[float, Array]:
        """{step_trust: (policies, D) what each policy leaves of the damage of each item}."""
        policies = self.candidates.policies
        if all(policy.is_plain for policy in policies):
            return {1.0: np.ones((1, len(self.items)))}
        powers = STEP_TRUSTS if table is not None and len(policies) > 1 else (1.0,)
        table = table or StepTable.uniform(self.items, steps=self.candidates.steps or 1)
        tables = {power: table.tempered(power) for power in powers}
        return {
            power: np.array(
                [[own.weight(item, policy) for item in self.items] for policy in policies]
            )
            for power, own in tables.items()
        }

    def _split(self, choices: Sequence[Choice]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """(n, groups) options of choices, and (n,) places of their policies."""
        table = np.asarray(choices, dtype=np.int64).reshape(len(choices), self.candidates.length)
        groups = len(self.candidates.groups)
        places = table[:, groups] if self.candidates.chooses_policy else np.zeros_like(table[:, 0])
        return table[:, :groups], places

    def features(self, choices: Sequence[Choice], step_trust: float = 1.0) -> Array:
        """(n, D) what a choice does of the damage of each item: 0 where it does not take the item's
        option, 1 where every step is quantized, and what its policy leaves else, by this power of
        the profile.
        """
        options, places = self._split(choices)
        taken = options[:, self._group] == self._option
        return np.asarray(taken * self.weights[step_trust][places], dtype=np.float64)

    def predict(self, belief: Belief, choices: Sequence[Choice]) -> Array:
        """(n,) typical damages of choices, by a belief and its `step_trust`."""
        return belief.typical(self.features(choices, belief.hypothesis.step_trust))

    def saved_s(self, choices: Sequence[Choice]) -> Array:
        """(n,) seconds that choices save on the GPU."""
        options, places = self._split(choices)
        groups = np.arange(options.shape[1])
        return np.asarray(self._gains[places[:, None], groups, options].sum(1))

    def believe(self, history: Sequence[Observation]) -> Belief:
        """The posterior over damages after these trials."""
        choices = [obs.choice for obs in history]
        return believe(
            self.features(choices),
            np.array([obs.typical for obs in history]),
            self.errors,
            self.sizes,
            self.kin,
            shares=np.array([obs.share for obs in history]),
            latents=np.array([obs.latent or np.nan for obs in history]),
            flatter={power: self.features(choices, power) for power in self.weights if power != 1},
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
            damage = belief.sample(rng) if attempt else belief.damages
            wishes = self.weighed_savings(belief, damage, history, rng, pending)
            for wanted, place in wishes[: 1 if attempt else 4]:
                left = self.weights[belief.hypothesis.step_trust][place] * damage
                choice = self._solve(left, wanted * (1 - 1e-9), place)
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
    ) -> list[tuple[float, int]]:
        """(seconds saved, place of the policy), the one that promises most hypervolume first.

        Savings are a jittered grid from nothing to everything, those of the baselines, and the
        largest. The policy is the one that is expected to do least damage at a saving.

        Args:
            belief: after `history`.
            damage: (D,) the belief's mean or a sample of it.
            history: the trials so far.
            rng: jitters the grid.
            pending: choices that are being scored.
        """
        most = max(knapsack.most_gain for knapsack in self.knapsacks)
        grid = most * (np.arange(SAVINGS) + rng.random()) / SAVINGS
        baselines = [gain for gain in self._baseline_savings if 0 < gain <= most]
        savings = np.unique(np.concatenate([grid, baselines, [most]]))
        left = self.weights[belief.hypothesis.step_trust] * damage
        expected, worst = self._expected(left, savings)
        tried = [*(obs.choice for obs in history), *pending]
        promised = promised_area(
            savings,
            belief.link(expected.min(0)),
            self.saved_s(tried),
            self.predict(belief, tried),
            worst=float(belief.link(np.array([worst]))[0]),
        )
        order = np.argsort(-promised, kind="stable")
        return [(float(savings[at]), int(expected[:, at].argmin())) for at in order]

    def _expected(self, left: Array, savings: Array) -> tuple[Array, float]:
        """(policies, S) the least damage that each policy does at each saving, inf where it does
        not save as much; and the damage of the fastest choice.

        Args:
            left: (policies, D) damages under each policy.
            savings: (S,) seconds, ascending.
        """
        found, worst = np.full((len(self.knapsacks), len(savings)), np.inf), 0.0
        for place, knapsack in enumerate(self.knapsacks):
            curve = knapsack.curve(self.damage_table(left[place]), points=CURVE_PRICES)
            reached = savings <= knapsack.most_gain * (1 + 1e-9)
            found[place, reached] = np.interp(savings[reached], curve.gains, curve.damages)
            worst = max(worst, float(curve.damages[-1]))
        return found, worst

    def _solve(self, damage: Array, wanted: float, place: int) -> Choice:
        """The choice of the policy's knapsack, by the damages (D,) under it; where that has more
        block patterns than torch compiles, the best that is found within the limit.
        """
        knapsack, table = self.knapsacks[place], self.damage_table(damage)
        options = knapsack.solve(table, wanted)
        if not self.patterns.fits(as_choice(options)):
            gains = self._gains[place]
            options = self.patterns.reduce(table, gains, knapsack.useful, wanted)
        return self.candidates.with_policy(as_choice(options), place)

    def _nearest_new(self, choice: Choice, seen: AbstractSet[Choice]) -> Choice:
        """The choice itself if it is new, else a new one that differs in the fewest groups, its
        policy counted as one; an option that costs time is never added. Where nothing is new, the
        choice itself.
        """
        groups = len(self.candidates.groups)
        others: dict[int, list[int]] = {
            g: [0] if option else [] for g, option in enumerate(choice[:groups])
        }
        for group, option in self.items:
            if self._gains[:, group, option].max() > 0 and option != choice[group]:
                others[group].append(option)
        if self.candidates.chooses_policy:
            others[groups] = [p for p in range(len(self.knapsacks)) if p != choice[groups]]
        free = [place for place, options in others.items() if options]
        for changed in range(len(free) + 1):
            for places in itertools.combinations(free, changed):
                for options in itertools.product(*(others[g] for g in places)):
                    found = list(choice)
                    for place, option in zip(places, options, strict=True):
                        found[place] = option
                    if self._is_new(tuple(found), seen):
                        return tuple(found)
        return choice

    def _is_new(self, choice: Choice, seen: AbstractSet[Choice]) -> bool:
        options = self.candidates.options_of(choice)
        if self.candidates.canonical(choice) != choice or not self.patterns.fits(options):
            return False
        return choice not in seen


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
