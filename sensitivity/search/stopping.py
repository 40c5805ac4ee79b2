"""When is a trial hopeless before all of its pictures are generated? `StoppingRule.decide`.

A trial is on the front if its typical damage over all N search prompts (`fidelity.typical`) is
below that of every finished trial that is at least as fast. The smallest of those decides, so a
trial has one rival and no correction for several comparisons is needed. Both are compared prompt by
prompt: let z_i = log(trial_i / rival_i) over the k seen prompts, with mean b and standard deviation
s. b predicts the mean over all N, and k of these N are known. So its error is that of a sample from
a finite population (Cochran 1977, "Sampling Techniques", section 2.6):

    SE = s sqrt(1 / k - 1 / N)

(b - margin) / SE is tested against Student's t with k - 1 degrees of freedom, one-sided, from three
prompts on. The margin is the noise floor, as a share of the rival's typical damage: a smaller
difference never stops a trial. Each of the trial's interim tests gets alpha / tests (Bonferroni,
valid for dependent tests).

Error. Of trials that would be on the front, at most `alpha` are stopped. Simulated with lognormal
damages, of which one in 20 or none is six times as large, trials as good as the best of six rivals
are stopped in 2.8 to 5.7 of 100 cases at alpha 0.05, over one to five interim tests of 10 or 24
prompts; trials of twice the best rival's damage in 64 to 78 after 5 of 10 prompts.

A stopped trial has no score. Its `estimate` is for proposers, with the weight of its `share` of the
prompts. A trial stops because of what was seen, so its excess there is biased upwards. On the other
prompts it is shrunk by 1 - s^2 / (k b^2) (James and Stein 1961, "Estimation with quadratic loss").

    rule = StoppingRule(alpha=0.05, interim_tests=1, noise_floor=0.0)
    rivals = [Rival(latency_s=1.1, per_prompt=(0.01, ...)), ...]
    rule.decide([0.1, 0.3, 0.2, 0.2, 0.1], 1.2, rivals)

This module computes with numbers only; `search.trial_runner` applies the rule. Only full scores are
rivals.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from sensitivity.errors import UserError
from sensitivity.fidelity.typical import damage_of_log, log_damages, typical

Array = NDArray[np.float64]
ALPHA = 0.05
"""In a search: the largest probability that a trial which would be on the front is stopped."""
MIN_PROMPTS = 3
"""Fewest seen prompts for the test."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rival:
    """A finished trial: its seconds, and its damage of all N prompts in the order of the search."""

    latency_s: float
    per_prompt: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Stop:
    """Why and where a trial stopped.

    Attributes:
        prompts: how many prompts were seen.
        share: their part of all prompts.
        rival: index of the finished trial that is better and at least as fast.
        p_value: of the test.
        estimate: estimated typical damage over all prompts.
    """

    prompts: int
    share: float
    rival: int
    p_value: float
    estimate: float

    def to_json(self) -> dict[str, Any]:
        """The record as the study keeps it; pydantic reads it (`search.log`)."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True, slots=True)
class StoppingRule:
    """Stops trials that a finished one dominates (see the module).

    Attributes:
        alpha: the largest probability that a trial which would be on the front is stopped, over
            all its interim tests; 0 stops nothing.
        interim_tests: how often a trial is tested before its last prompt, at most.
        noise_floor: of damage; a smaller difference means nothing.

    Raises:
        UserError: a value is out of range.
    """

    alpha: float = ALPHA
    interim_tests: int = 1
    noise_floor: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.alpha < 0.5:
            raise UserError(
                f"`alpha` of early stopping is {self.alpha}; expected 0 (nothing stops) to below"
                " 0.5: choose one such as 0.05"
            )
        if self.interim_tests < 1:
            raise UserError(
                f"`interim_tests` of early stopping is {self.interim_tests}; expected 1 or more:"
                " search prompts - 1, divided by `search.chunk`"
            )
        if not self.noise_floor >= 0:
            raise UserError(
                f"`noise_floor` of early stopping is {self.noise_floor}; expected an LPIPS of 0 or"
                " more: compute it, or choose 0"
            )

    def decide(
        self, partial: Sequence[float], latency_s: float, finished: Sequence[Rival]
    ) -> Stop | None:
        """Why the trial stops here; None if it goes on.

        Args:
            partial: its damages on the first k prompts, each at least 0.
            latency_s: its seconds.
            finished: all finished trials of the study, of any latency. Of equal ones the first is
                the rival.
        """
        floor = self.noise_floor
        faster = [i for i, rival in enumerate(finished) if rival.latency_s <= latency_s]
        levels = {i: typical(finished[i].per_prompt, floor) for i in faster}
        best = min(faster, key=lambda i: levels[i], default=None)
        if best is None or not 0 < len(partial) < len(finished[best].per_prompt):
            return None
        rival = log_damages(finished[best].per_prompt, floor)  # (N,)
        ratios = log_damages(partial, floor) - rival[: len(partial)]  # (k,)
        n, k, mean = len(rival), len(ratios), float(ratios.mean())
        margin = math.log1p(floor / levels[best]) if levels[best] > 0 else 0.0
        p_value = dominated_p_value(ratios, n, margin=margin)
        if not p_value < self.alpha / self.interim_tests:
            return None
        carried = 1 - float(ratios.var(ddof=1)) / k / mean**2  # James and Stein 1961
        expected = float(rival.mean()) + mean * (k + max(carried, 0.0) * (n - k)) / n
        return Stop(
            prompts=k,
            share=k / n,
            rival=best,
            p_value=p_value,
            estimate=damage_of_log(expected, floor),
        )


def dominated_p_value(ratios: Array, prompts: int, *, margin: float = 0.0) -> float:
    """One-sided p-value of the hypothesis "the mean log ratio over all prompts is at most the
    margin" (see the module); 1 with too few prompts.

    Args:
        ratios: (k,) log ratios of the seen prompts.
        prompts: N, more than k.
        margin: a logarithm.
    """
    k, excess = len(ratios), float(ratios.mean()) - margin
    if k < MIN_PROMPTS:
        return 1.0
    error = float(ratios.std(ddof=1)) * math.sqrt(1 / k - 1 / prompts)
    if error <= 1e-12:
        return 0.0 if excess > 0 else 1.0
    return float(stats.t.sf(excess / error, k - 1))
