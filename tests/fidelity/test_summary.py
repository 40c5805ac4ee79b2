"""What is said of a score: the three numbers, and how they are written."""

import pytest

from sensitivity.fidelity.mean_curve import MeanCurve
from sensitivity.fidelity.score import Score
from sensitivity.fidelity.summary import SummaryRules
from sensitivity.fidelity.typical import typical, typical_interval
from sensitivity.fidelity.words import interval_words, lpips_words

from support.media import score_with_sound


def score(*values: float, floor: float | None = None) -> Score:
    """A score of these LPIPS."""
    mean = sum(values) / len(values)
    return Score(net="tiny", mean=mean, per_prompt=values, noise_floor=floor)


def test_a_summary_is_made_of_the_parts() -> None:
    """Typical, its interval, the mean by the curve of the trials, the average, and flips."""
    rows = [(0.01, 0.02, 0.03), (0.02, 0.04, 0.3)]
    rules = SummaryRules.of([score(*row, floor=1e-4) for row in rows], another_seed=0.5)
    assert rules.curve == rules.damage_curve == MeanCurve.fit(rows, 1e-4)
    held_out = score(0.02, 0.03, 0.04, 0.3, floor=1e-4)
    said = rules.summarize(held_out)
    assert said.typical == typical(held_out.per_prompt, 1e-4)
    assert said.typical_ci95 == typical_interval(held_out.per_prompt, 1e-4)
    assert (said.mean, *said.mean_ci95) == rules.curve.mean_interval(held_out.per_prompt, 1e-4)
    assert (said.average, said.flips, said.prompts) == (pytest.approx(0.0975), (3,), 4)
    assert said.words.endswith(", 1 of 4 flipped")


def test_sound_is_damage_and_no_lpips() -> None:
    """With sound the mean damage has a curve of its own, and what is said stays LPIPS."""
    heard = score_with_sound(lpips=0.1, sound=0.4, weight=0.5)
    rules = SummaryRules.of([heard], another_seed=None)
    said = rules.summarize(heard)
    assert said.typical == pytest.approx(0.1, rel=1e-4)
    assert rules.damage_curve != rules.curve
    assert rules.mean_damage(heard) > rules.damage_curve.mean(0.29)


def test_bf16_itself_is_exactly_zero() -> None:
    """All three, with no uncertainty, and no flip."""
    said = SummaryRules.of([score(0.0, 0.0)], another_seed=None).summarize(score(0.0, 0.0))
    assert (said.typical, said.mean, said.average, said.flips) == (0.0, 0.0, 0.0, ())
    assert said.words == "typical LPIPS 0 [0, 0], mean 0 [0, 0], 0 of 2 flipped"


def test_a_small_lpips_is_not_lost() -> None:
    """Four decimals where they say something, else two digits."""
    shown = {0.01634: "0.0163", 0.001: "0.0010", 9.8e-4: "0.00098", 3.784e-05: "3.8e-05", 0: "0"}
    assert {value: lpips_words(value) for value in shown} == shown
    assert interval_words(0.002, (3e-4, 0.01)) == "0.0020 [0.0003, 0.0100]"
