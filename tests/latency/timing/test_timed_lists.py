"""A run of several parts is their sum, round by round; it fails where one of them does."""

import pytest

from sensitivity.latency.timing.timed_lists import TimedList, in_sequence, round_totals

from support.timed import timed, timing


def test_a_run_is_the_sum_of_its_parts() -> None:
    """Seconds and ratios are taken of whole rounds, as many as every part has."""
    short = TimedList(name="a", timings=(timing((1.0, 2.0)),), bf16=(timing((2.0, 4.0)),))
    whole = in_sequence([timed("a", (2.0, 2.0, 2.0)), short])
    assert whole.rounds_s == (3.0, 4.0)
    assert whole.bf16_rounds_s == pytest.approx((5.0, 7.03))
    assert whole.ratio.value == pytest.approx((5.0 / 3.0 * 7.03 / 4.0) ** 0.5)
    assert whole.bf16_s / whole.seconds == pytest.approx(whole.ratio.value)
    assert round_totals(()) == ()


def test_one_part_that_fails_is_enough() -> None:
    """The list has no seconds then, and the reason of that part."""
    whole = in_sequence([timed("a"), timed("a", failure="a kernel refused it")])
    assert (whole.failure, whole.timings, whole.rounds_s) == ("a kernel refused it", (), ())
