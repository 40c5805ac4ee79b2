"""Estimates trust the model of all trials where noise of the prompts explains what it misses, and a
trial's own score where it does not.
"""

import numpy as np
import pytest
from numpy.typing import NDArray

from sensitivity.core.format_name import FormatName
from sensitivity.search.candidates import Candidates, Group
from sensitivity.search.estimate import FEWEST, estimate_all, noise_of_prompts
from sensitivity.search.proposers import KnapsackProposer, Observation

GROUPS, TRIALS, PROMPTS = 12, 40, 10
Array = NDArray[np.float64]


@pytest.fixture(scope="module")
def proposer() -> KnapsackProposer:
    """Twelve groups in one format, without calibration."""
    groups = tuple(
        Group(name=f"x[{g}]", fqns=(f"x.{g}",), members=((), (f"x.{g}",)), gains_s=(0.0, 1.0))
        for g in range(GROUPS)
    )
    candidates = Candidates(
        formats=(FormatName.BF16, FormatName.NVFP4),
        groups=groups,
        fixed={},
        refused={},
        fqns=tuple(f"x.{g}" for g in range(GROUPS)),
        rule_of_thumb=(1, 0) * (GROUPS // 2),
        bf16_s=50.0,
    )
    return KnapsackProposer(candidates, seed=0, errors=None)


def trials(*, noise: float, own: float) -> tuple[list[Observation], Array, Array]:
    """Random choices of additive damages: observations, logarithms (n, prompts), truth (n,).

    Prompts differ by `noise`, and each choice deviates from the sum by `own` (sd of logarithms).
    """
    rng = np.random.default_rng(3)
    damages = rng.lognormal(-4, 0.8, GROUPS)
    choices = rng.random((TRIALS, GROUPS)) < 0.5
    truth = np.log(choices @ damages) + own * rng.standard_normal(TRIALS)
    table = truth[:, None] + rng.standard_normal(PROMPTS) * 0.8
    table = table - table.mean(1, keepdims=True) + truth[:, None]
    table += noise * rng.standard_normal(table.shape)
    history = [
        Observation(choice=tuple(map(int, choice)), typical=float(np.exp(row.mean())))
        for choice, row in zip(choices, table, strict=True)
    ]
    return history, table, np.exp(truth)


def missed(estimates: Array, truth: Array) -> float:
    """Root of the mean square of logarithms."""
    return float(np.sqrt(np.mean(np.log(estimates / truth) ** 2)))


def test_noise_of_prompts_is_that_of_the_residuals() -> None:
    """Rows and columns of a two-way table are no noise; what is left has its standard error."""
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((30, 1)) + rng.standard_normal(8)
    assert noise_of_prompts(plain) == pytest.approx(0, abs=1e-20)
    noisy = plain + 0.4 * rng.standard_normal((30, 8))
    assert noise_of_prompts(noisy) == pytest.approx(0.4**2 / 8, rel=0.2)
    assert noise_of_prompts(noisy[:1]) == noise_of_prompts(noisy[:, :1]) == 0


def test_noisy_scores_are_drawn_to_the_model(proposer: KnapsackProposer) -> None:
    """Where choices have nothing of their own, estimates miss by much less than scores."""
    history, table, truth = trials(noise=0.8, own=0.0)
    estimates = estimate_all(proposer, history, table.tolist())
    assert missed(estimates, truth) < 0.7 * missed(np.exp(table.mean(1)), truth)


def test_choices_with_deviations_of_their_own_keep_their_scores(
    proposer: KnapsackProposer,
) -> None:
    """Where choices interact and prompts say little else, estimates are near the scores."""
    history, table, truth = trials(noise=0.1, own=0.5)
    estimates = estimate_all(proposer, history, table.tolist())
    assert missed(estimates, truth) < 0.15


def test_few_trials_and_scores_of_0_stay_as_they_are(proposer: KnapsackProposer) -> None:
    """With fewer than six informative trials nothing is estimated, and bf16 never is."""
    history, table, _ = trials(noise=0.5, own=0.0)
    few = estimate_all(proposer, history[: FEWEST - 1], table[: FEWEST - 1].tolist())
    assert few.tolist() == [trial.typical for trial in history[: FEWEST - 1]]
    bf16 = Observation(choice=(0,) * GROUPS, typical=0.0)
    with_bf16 = estimate_all(proposer, [bf16, *history], [[-14.0] * PROMPTS, *table.tolist()])
    assert with_bf16[0] == 0
    np.testing.assert_allclose(with_bf16[1:], estimate_all(proposer, history, table.tolist()))
