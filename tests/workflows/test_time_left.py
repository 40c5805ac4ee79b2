"""How long a search will go on, from counts of pictures and seconds a picture."""

import pytest

from sensitivity.fidelity.score import Score
from sensitivity.search.trials import ScoredTrial
from sensitivity.search.work import SearchWork
from sensitivity.workflows.progress import Outlook, PictureSeconds
from sensitivity.workflows.time_left import BESIDE_VERIFICATION, QUANTIZED, ROUNDING, TimeLeft

WORK = SearchWork(
    references=20,
    sensitivities=30.0,
    baselines=3,
    trials=10,
    trials_done=2,
    prompts=5,
    lists=4,
    held_out=6,
    held_out_references=6,
)
VERIFICATION = 4 * 6 + BESIDE_VERIFICATION
"""Quantized pictures of the verification; 6 more are bf16."""


def run(left: TimeLeft, label: str, pictures: int, seconds: float) -> None:
    """A trial runs from its beginning to its end."""
    events = left.events
    events.began(0 if label else 1, label)
    if pictures:
        events.pictures(pictures)
    score = Score(net="tiny", mean=0.1, per_prompt=(0.1,), noise_floor=None)
    events.scored(
        ScoredTrial(index=0, choice=(0,), label=label, latency_s=1.0, score=score, seconds=seconds)
    )


class Clock:
    """A clock that stands until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


@pytest.fixture
def left(clock: Clock) -> TimeLeft:
    """A search whose pictures take 2 s in bf16 and 3 s quantized, as far as is expected."""
    left = TimeLeft(clock)
    left.expect(
        Outlook(
            bf16_s=1.0,
            lists={},
            source="predicted for b200",
            groups=4,
            linears=8,
            picture=PictureSeconds(bf16=2.0, quantized=3.0),
        )
    )
    left.plan(WORK)
    return left


def test_the_plan_counts_every_picture_verification_included(left: TimeLeft) -> None:
    """References and held-out references at bf16's pace, all others at that of quantized ones."""
    quantized = 30 + 3 * 5 + 8 * 5 + VERIFICATION
    assert left.seconds == pytest.approx((20 + 6) * 2 + quantized * 3)


def test_each_stage_is_paced_by_what_was_seen_of_it(left: TimeLeft, clock: Clock) -> None:
    """References tell the pace of all pictures, sensitivities their own, then trials theirs."""
    left.drew_references(0, 20)
    clock.now += 8
    left.drew_references(10, 20)  # 0.8 s a bf16 picture, so 1.2 s a quantized one
    later = 3 * 5 + 8 * 5 + VERIFICATION
    assert left.seconds == pytest.approx((10 + 6) * 0.8 + (30 + later) * 1.2)
    clock.now += 8
    left.measured(1, 9)  # the first number says nothing of the pace
    assert left.seconds == pytest.approx(6 * 0.8 + (30 + later) * 1.2)
    clock.now += 4
    left.measured(3, 9)  # 2 of 8 in 4 s: a quarter of 30 pictures
    assert left.seconds == pytest.approx(6 * 0.8 + 6 * 2 + later * 4 / 7.5)
    run(left, "none", pictures=5, seconds=10.0)  # 2 s a picture
    bf16 = 6 * 0.8
    assert left.seconds == pytest.approx(bf16 + (2 * 5 + 8 * 5 + VERIFICATION) * 2)
    left.events.began(0, "all nvfp4")
    left.events.pictures(3)
    assert left.seconds == pytest.approx(bf16 + (2 * 5 + 8 * 5 - 3 + VERIFICATION) * 2)


def test_trials_that_stop_early_make_the_others_shorter(left: TimeLeft) -> None:
    """Proposals count as many pictures as those so far; a known score says nothing of the pace."""
    for _ in range(3):
        run(left, "none", pictures=0, seconds=0.001)
    run(left, "", pictures=5, seconds=5.0)
    run(left, "", pictures=2, seconds=2.0)
    assert left.seconds == pytest.approx(6 * (2 / 3) + 6 * 3.5 + VERIFICATION)


def test_the_verification_has_its_own_pace_and_count(left: TimeLeft, clock: Clock) -> None:
    """Once its pictures are counted, only they are left, and those of native rounding."""
    left.verify(0, 12)
    assert left.seconds == pytest.approx((12 + ROUNDING) * 3)
    clock.now += 16
    left.verify(4, 12)
    assert left.seconds == pytest.approx(8 * 4 + ROUNDING * 3)
    left.verify(12, 12)
    assert left.seconds == pytest.approx(ROUNDING * 3)


def test_whole_runs_at_the_end_are_counted(left: TimeLeft, clock: Clock) -> None:
    """Their seconds stand at the end of every estimate, and run down while they are timed."""
    without = left.seconds
    left.timing_s = 240.0
    assert left.seconds == pytest.approx(without + 240)
    left.timing()
    clock.now += 200
    assert left.seconds == pytest.approx(40)


def test_nothing_is_said_where_no_pace_is_known(clock: Clock) -> None:
    """Before the first picture, unless one was expected; then bf16's pace stands for both."""
    left = TimeLeft(clock)
    left.plan(WORK)
    assert left.seconds is None
    left.drew_references(0, 20)
    clock.now += 2
    left.drew_references(20, 20)
    quantized = 30 + 3 * 5 + 8 * 5 + VERIFICATION
    assert left.seconds == pytest.approx(0.1 * (6 + QUANTIZED * quantized))


def test_a_choice_knows_its_verification_alone(clock: Clock) -> None:
    """Where trials are only chosen from there is no plan, and the pictures pace themselves."""
    left = TimeLeft(clock)
    left.verify(0, 10)
    assert left.seconds is None
    clock.now += 3
    left.verify(2, 10)
    assert left.seconds == pytest.approx(12)


def test_workers_share_what_comes_before_the_verification(left: TimeLeft) -> None:
    """Of four each has a quarter of the sensitivities, the lists by hand and the trials."""
    left.workers = lambda: 4
    alone = (20 + 6) * 2 + VERIFICATION * 3
    shared = (30 + 3 * 5 + 8 * 5) * 3 / 4
    assert left.seconds == pytest.approx(alone + shared)
    assert left.trial_s == 5 * 3
    assert left.beside_s == pytest.approx(alone + (30 + 3 * 5) * 3 / 4)


def test_what_other_workers_have_begun_is_left_no_more(left: TimeLeft) -> None:
    """Trial 9 of 10 begins here: 2 trials are left, whoever has the 6 that came between."""
    for label in ("none", "all nvfp4", "rule of thumb"):
        score = Score(net="tiny", mean=0.1, per_prompt=(0.1,), noise_floor=None)
        left.events.elsewhere(
            ScoredTrial(index=0, choice=(0,), label=label, latency_s=1.0, score=score, seconds=9.0)
        )
    left.events.began(9, "")
    assert left.seconds == pytest.approx(6 * 2 + (2 * 5 + VERIFICATION) * 3)
    left.events.pictures(4)
    assert left.seconds == pytest.approx(6 * 2 + (2 * 5 - 4 + VERIFICATION) * 3)
