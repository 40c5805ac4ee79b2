"""What would a scored skip-list cost on other prompts? An estimate from all trials of a search.

A trial's score is what the additive model of all trials predicts (`search.damage`), plus a
deviation of this skip-list, plus noise of the search prompts. The size of the noise follows from
the scores themselves: how much prompts differ in their reaction to one skip-list, beyond their own
mean and the skip-list's. If trials miss the model by no more than the noise, skip-lists have no
deviation of their own, and the model's value is the better estimate. If they miss it by more, the
trial's own score gets a weight w:

    log estimate = (1 - w) log model + w log score
    w = max(0, 1 - (noise^2 + unsure^2) / miss^2)

`miss` is the typical log(score / model), with each trial left out of the model that predicts it
(Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", equation 5.12). `unsure` is
the model's own uncertainty there. `noise` is the standard error of a mean over prompts, from the
residuals of a two-way table (skip-list x prompt). This is empirical Bayes shrinkage of scores
towards a regression (Efron and Morris 1973).

    estimates = estimate_all(proposer, choices, scores)       # (n,) LPIPS

Measured on tiny-flux (LOG.md): misses on the search prompts and on 48 others are uncorrelated, and
a front that is chosen by the estimate has more hypervolume on other prompts than one chosen by the
scores.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sensitivity.search.candidates import Choice
from sensitivity.search.damage import Belief
from sensitivity.search.proposers import KnapsackProposer, Observation

Array = NDArray[np.float64]
CHI2_MEDIAN = 0.4549
"""Median of a squared standard normal. Misses have long tails, so their median is compared."""
FEWEST = 6
"""Trials with anything quantized that an estimate needs; with fewer, scores stay as they are."""


def estimate_all(
    proposer: KnapsackProposer, choices: Sequence[Choice], per_prompt: Sequence[Sequence[float]]
) -> Array:
    """(n,) estimated LPIPS of each choice.

    It is the choice's own mean score where that is 0, or where there are too few trials.

    Args:
        proposer: has the groups and the calibrated errors.
        choices: n finished trials.
        per_prompt: (n, prompts) their scores, the same prompts in every row.
    """
    table = np.asarray(per_prompt, dtype=np.float64)  # (n, prompts)
    means = table.mean(1)
    informative = (means > 0) & np.array([any(choice) for choice in choices])
    if informative.sum() < FEWEST:
        return np.asarray(means)
    kept = [choice for choice, use in zip(choices, informative, strict=True) if use]
    own = means[informative]
    belief = proposer.believe(
        [Observation(choice=c, lpips=float(m)) for c, m in zip(kept, own, strict=True)]
    )
    weight = own_weight(belief, own, table[informative])
    model = belief.lpips(proposer.features(kept))
    estimates = means.copy()
    estimates[informative] = np.exp((1 - weight) * np.log(model) + weight * np.log(own))
    return np.asarray(estimates)


def own_weight(belief: Belief, means: Array, table: Array) -> float:
    """The weight w of a trial's own score, from 0 (noise of the prompts explains all misses) to 1.

    Args:
        belief: of the model, after these trials.
        means: (n,) scores.
        table: (n, prompts) what they are means of.
    """
    predicted, unsure = belief.left_out()
    misses = np.log(means / predicted) ** 2
    explained = noise_of_prompts(table) + float(np.median(unsure**2))
    missed = max(float(np.median(misses)) / CHI2_MEDIAN, 1e-12)
    return float(np.clip(1 - explained / missed, 0.0, 1.0))


def noise_of_prompts(table: Array) -> float:
    """Squared relative standard error of a row's mean over prompts, without what all rows have in
    common.

    Args:
        table: (n, prompts) scores; each row's mean is above 0.
    """
    relative = table / table.mean(1, keepdims=True)  # rows of mean 1
    column = relative.mean(0)
    residual = relative - column[None, :]
    rows, prompts = table.shape
    if prompts < 2 or rows < 2:
        return 0.0
    return float((residual**2).sum() / ((rows - 1) * (prompts - 1)) / prompts)
