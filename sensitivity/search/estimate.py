"""What would a scored skip-list cost on other prompts? An estimate from all trials of a search.

A trial's typical damage is what the additive model of all trials predicts (`search.damage`), plus a
deviation of this skip-list, plus noise of the search prompts. The size of the noise follows from
the scores themselves: how much prompts differ in their reaction to one skip-list, beyond their own
mean and the skip-list's. If trials miss the model by no more than the noise, skip-lists have no
deviation of their own, and the model's value is the better estimate. If they miss it by more, the
trial's own score gets a weight w:

    log estimate = (1 - w) log model + w log score
    w = max(0, 1 - (noise^2 + unsure^2) / miss^2)

`miss` is the typical log(score / model), with each trial left out of the model that predicts it
(`Belief.left_out`). `unsure` is the model's own uncertainty there. `noise` is the standard error of
a mean of logarithms over prompts, from the residuals of a two-way table (skip-list x prompt). This
is empirical Bayes shrinkage of scores towards a regression (Efron and Morris 1973).

    estimates = estimate_all(proposer, history, logs)       # (n,) typical damages
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sensitivity.search.damage import Belief
from sensitivity.search.proposers import KnapsackProposer, Observation

Array = NDArray[np.float64]
CHI2_MEDIAN = 0.4549
"""Median of a squared standard normal. Misses have long tails, so their median is compared."""
FEWEST = 6
"""Trials with anything quantized that an estimate needs; with fewer, scores stay as they are."""


def estimate_all(
    proposer: KnapsackProposer, history: Sequence[Observation], logs: Sequence[Sequence[float]]
) -> Array:
    """(n,) estimated typical damage of each trial.

    It is the trial's own where that is 0, or where there are too few trials.

    Args:
        proposer: has the groups and the calibrated errors.
        history: n finished trials with their own typical damages.
        logs: (n, prompts) logarithms of their damages (`fidelity.typical`), the same prompts in
            every row.
    """
    estimates = np.array([trial.typical for trial in history])
    known = [i for i, trial in enumerate(history) if trial.typical > 0 and any(trial.choice)]
    if len(known) < FEWEST:
        return estimates
    kept = [history[i] for i in known]
    belief, own = proposer.believe(kept), np.log(estimates[known])
    weight = own_weight(belief, own, np.array([logs[i] for i in known]))
    model = np.log(proposer.predict(belief, [trial.choice for trial in kept]))
    estimates[known] = np.exp((1 - weight) * model + weight * own)
    return estimates


def own_weight(belief: Belief, logs: Array, table: Array) -> float:
    """The weight w of a trial's own score, from 0 (noise of the prompts explains all misses) to 1.

    Args:
        belief: of the model, after these trials.
        logs: (n,) of typical damages.
        table: (n, prompts) logarithms of damages.
    """
    predicted, unsure = belief.left_out()
    missed = max(float(np.median((logs - predicted) ** 2)) / CHI2_MEDIAN, 1e-12)
    explained = noise_of_prompts(table) + float(np.median(unsure**2))
    return float(np.clip(1 - explained / missed, 0.0, 1.0))


def noise_of_prompts(table: Array) -> float:
    """Squared standard error of a row's mean over prompts, without what all rows have in common.

    Args:
        table: (n, prompts) logarithms of damages.
    """
    rows, prompts = table.shape
    if prompts < 2 or rows < 2:
        return 0.0
    residual = table - table.mean(1, keepdims=True) - table.mean(0) + table.mean()
    return float((residual**2).sum() / ((rows - 1) * (prompts - 1)) / prompts)
