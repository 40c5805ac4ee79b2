"""What would a scored skip-list cost on other prompts?

An estimate that all trials of a search share, instead of each trial's own luck.

A trial's score is what the additive model of all trials says (`search.damage`), plus what is
special about this skip-list, plus luck of the search prompts. The luck can be told from the scores
themselves: how far prompts differ in how they take one skip-list, beyond what they and the
skip-list are like on average. If trials miss the model by no more than that, what is special is
nothing, and the model's value is the better guess; if they miss it by more, the trial's own score
counts as far as it does:

    log estimate = (1 - w) log model + w log score,      w = 1 - (luck^2 + unsure^2) / miss^2, at least 0

`miss` is the typical log(score / model), each trial left out of the model that predicts it
(Rasmussen and Williams 2006, "Gaussian Processes for Machine Learning", equation 5.12), `unsure`
what the model itself is unsure of there, and `luck` the standard error of a mean over prompts from
the residuals of a two-way table (skip-list x prompt). It is empirical Bayes shrinkage (Efron and
Morris 1973) of scores towards a regression.

    estimates = estimate_all(proposer, choices, scores)       # (n,) LPIPS

Measured on tiny-flux (LOG.md): misses on the search prompts and on 48 others are uncorrelated, and
a front that is chosen by the estimate holds more hypervolume on other prompts than one chosen by
the scores.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from sensitivity.search.candidates import Choice
from sensitivity.search.damage import Belief
from sensitivity.search.proposers import KnapsackProposer, Observation

Array = NDArray[np.float64]
CHI2_MEDIAN = (
    0.4549  # median of a squared standard normal: misses have long tails, their median has not
)
FEWEST = 6  # trials with anything quantized, below which scores stand as they are


def estimate_all(
    proposer: KnapsackProposer, choices: Sequence[Choice], per_prompt: Sequence[Sequence[float]]
) -> Array:
    """(n,) estimated LPIPS of each choice; its own mean score where there are too few trials, or it
    is 0.

    Args:
        proposer: holds the groups and what was calibrated.
        choices: n finished trials.
        per_prompt: (n, prompts) their scores, the same prompts in every row.
    """
    table = np.asarray(per_prompt, dtype=np.float64)  # (n, prompts)
    means = table.mean(1)
    told = (means > 0) & np.array([any(choice) for choice in choices])
    if told.sum() < FEWEST:
        return np.asarray(means)
    belief = proposer.believe(
        [
            Observation(choice=c, lpips=float(m))
            for c, m, t in zip(choices, means, told, strict=True)
            if t
        ]
    )
    own = own_share(belief, means[told], table[told])
    features = proposer.features([c for c, t in zip(choices, told, strict=True) if t])
    estimates = means.copy()
    estimates[told] = np.exp((1 - own) * np.log(belief.lpips(features)) + own * np.log(means[told]))
    return np.asarray(estimates)


def own_share(belief: Belief, means: Array, table: Array) -> float:
    """The weight w of a trial's own score, between 0 (prompts' luck explains all misses) and 1."""
    predicted, unsure = belief.left_out()
    misses = np.log(means / predicted) ** 2
    excused = luck_of_prompts(table) + float(np.median(unsure**2))
    return float(
        np.clip(1 - excused / max(float(np.median(misses)) / CHI2_MEDIAN, 1e-12), 0.0, 1.0)
    )


def luck_of_prompts(table: Array) -> float:
    """Squared relative standard error of a row's mean over prompts, beyond what prompts (columns)
    have in common; table: (n, prompts) above 0 on average.
    """
    relative = table / table.mean(1, keepdims=True)  # rows of mean 1
    column = relative.mean(0)
    residual = relative - column[None, :]
    rows, prompts = table.shape
    if prompts < 2 or rows < 2:
        return 0.0
    return float((residual**2).sum() / ((rows - 1) * (prompts - 1)) / prompts)
