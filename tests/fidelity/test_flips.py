"""A prompt flipped if its picture is a good part as far from bf16's as another seed's is."""

import pytest

from sensitivity.fidelity.flips import SHARE, USUAL, FlipRule, flipped


def test_flips_are_counted_from_a_share_of_another_seed_on() -> None:
    """The threshold itself counts, and prompts are named by their index."""
    rule = FlipRule.of_another_seed(0.6)
    assert rule.threshold == pytest.approx(SHARE * 0.6)
    at = rule.threshold
    assert flipped([0.01, at, at * 0.99, 0.5], rule) == (1, 3)
    assert flipped([], rule) == ()


def test_a_rule_says_what_it_rests_on() -> None:
    """Where another seed was not measured, a usual value stands for it, and the words say so."""
    assert "0.43" in FlipRule.of_another_seed(0.43).rests_on
    unknown = FlipRule.of_another_seed(None)
    assert unknown.threshold == pytest.approx(SHARE * USUAL)
    assert "not measured" in unknown.rests_on
