"""Scores keep what each prompt says, and sound counts as much as a study says."""

from dataclasses import replace

import pytest
import torch

from sensitivity.errors import MeasurementError, StoreError
from sensitivity.fidelity.score import PartialScore, Score, score_of
from sensitivity.fidelity.typical import log_damages, typical, typical_interval

from support.media import score_with_sound


def test_score_keeps_its_values_and_their_mean() -> None:
    """A score keeps one distance a prompt in order, and their mean; the typical damage and its
    interval follow from the values and the noise floor.
    """
    score = score_of(torch.tensor([0.1, 0.4, 0.1]), net="tiny", noise_floor=0.01)
    assert score.per_prompt == pytest.approx((0.1, 0.4, 0.1))
    assert score.mean == pytest.approx(0.2)
    assert score.logs == tuple(log_damages(score.per_prompt, 0.01))
    assert score.typical == typical(score.per_prompt, 0.01)
    assert score.typical_ci95 == typical_interval(score.per_prompt, 0.01)
    assert (score.net, score.noise_floor) == ("tiny", 0.01)


@pytest.mark.parametrize("broken", [float("nan"), float("inf")])
def test_a_picture_without_distance_is_an_error(broken: float) -> None:
    """NaN or inf never enters a mean; the first such prompt is named."""
    with pytest.raises(
        MeasurementError, match=r"2 of 3 pictures have no finite distance \(prompt 1 first\)"
    ):
        score_of(torch.tensor([0.1, broken, broken]), net="tiny", noise_floor=None)


def test_sound_beyond_its_bound_is_not_allowed_and_costs_more() -> None:
    """Damage is LPIPS + weight x sound on each prompt; beyond the bound a score is not allowed, and
    what a proposer learns grows with the excess.
    """
    assert score_with_sound().damage == pytest.approx(0.3)
    assert score_with_sound().typical == pytest.approx(0.3)
    assert score_with_sound(bound=0.4).is_allowed
    assert not score_with_sound(bound=0.399).is_allowed
    assert score_with_sound(bound=0.4).cost == score_with_sound().cost == score_with_sound().typical
    assert score_with_sound(bound=0.1).cost == pytest.approx(4 * 0.3)
    silent = replace(score_with_sound(bound=0.1), audio=None)
    assert silent.is_allowed
    assert silent.damages == silent.per_prompt
    assert silent.damage == silent.mean
    assert silent.cost == silent.typical


def test_a_partial_score_knows_its_share() -> None:
    """It has the mean over what was generated, and the part of the prompts that this is."""
    partial = PartialScore(net="tiny", per_prompt=(0.1, 0.3), prompts=4)
    assert (partial.mean, partial.share) == (pytest.approx(0.2), 0.5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": "low"}, "mean: Input should be a valid number"),
        ({"motion": {"per_prompt": [0.1]}}, r"motion\.noise_floor: "),
        ({"of_a_later_version": 1}, "of_a_later_version: "),
    ],
)
def test_a_damaged_score_is_an_error_with_a_next_step(
    change: dict[str, object], message: str
) -> None:
    """A score that no search wrote is refused with its field and what to do."""
    kept = score_of(torch.tensor([0.1, 0.4]), net="tiny", noise_floor=None).to_json()
    with pytest.raises(StoreError, match=rf"malformed: {message}.*search again"):
        Score.from_json(kept | change)
