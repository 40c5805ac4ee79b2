"""A criterion passes or fails only by its whole interval; else it is open."""

import math

import pytest

from sensitivity.workflows.criteria import (
    Criterion,
    Decision,
    decide,
    memory_criterion,
    speed_criterion,
)

PASSES, FAILS, UNDECIDED = Decision.PASSES, Decision.FAILS, Decision.UNDECIDED
GB = 10**9


@pytest.mark.parametrize(
    ("interval", "most", "least", "expected"),
    [
        ((1.0, 2.0), 2.0, None, PASSES),
        ((1.0, 2.0), 1.999, None, UNDECIDED),
        ((1.0, 2.0), 1.0, None, UNDECIDED),
        ((1.0, 2.0), 0.999, None, FAILS),
        ((1.0, 2.0), None, 1.0, PASSES),
        ((1.0, 2.0), None, 1.001, UNDECIDED),
        ((1.0, 2.0), None, 2.001, FAILS),
        ((0.0, 0.0), 0.0, None, PASSES),
        ((math.inf, math.inf), 1.0, None, FAILS),
    ],
)
def test_an_interval_decides(
    interval: tuple[float, float], most: float | None, least: float | None, expected: Decision
) -> None:
    """Within the bound it passes, beyond it fails, across it is open; on the bound is within."""
    assert decide(interval, most=most, least=least) is expected


@pytest.mark.parametrize(
    ("interval", "expected"),
    [((1.21, 1.4), PASSES), ((1.1, 1.4), UNDECIDED), ((1.0, 1.19), FAILS), (None, PASSES)],
)
def test_a_speedup_is_decided_by_its_interval(
    interval: tuple[float, float] | None, expected: Decision
) -> None:
    """By its value where the source gives none; one that is open says what to do."""
    found = speed_criterion(1.3, interval, 1.2, "predicted for b200")
    assert found.decision is expected
    assert found.asked == "speedup >= 1.2"
    assert ("a run that is timed" in found.why) == (expected is UNDECIDED)


@pytest.mark.parametrize(
    ("nbytes", "missing", "expected"),
    [
        (18 * GB, 6 * GB, PASSES),
        (19 * GB, 6 * GB, UNDECIDED),
        (25 * GB, 6 * GB, FAILS),
        (24 * GB, 0, PASSES),
    ],
)
def test_a_predicted_peak_may_lack_something(nbytes: int, missing: int, expected: Decision) -> None:
    """A prediction passes only with room for what it does not count; a measurement needs none."""
    found = memory_criterion(nbytes, missing, 24 * GB, "predicted")
    assert (found.decision, found.asked) == (expected, "peak memory <= 24 GB")


def test_json_has_no_number_that_json_lacks() -> None:
    """Infinite values and those that are not known are null."""
    found = Criterion(
        field="against",
        asked="",
        decision=FAILS,
        value=math.inf,
        interval=(math.inf, math.inf),
    ).to_json()
    assert (found["value"], found["interval"], found["why"]) == (None, [None, None], None)
    assert found["decision"] == "fails"
