"""What a worker prints beside the first of its host, and what all of them make of one another's
trials.
"""

import io
from collections.abc import Callable
from dataclasses import replace

import pytest

from sensitivity.cli.render.live_search import SearchProgress
from sensitivity.cli.render.quiet_search import QuietProgress
from sensitivity.cli.screen import TextConsole
from sensitivity.fidelity.score import Score
from sensitivity.search.stopping import Stop
from sensitivity.search.trials import ScoredTrial, StoppedTrial
from sensitivity.search.work import SearchWork

WORK = SearchWork(baselines=1, trials=4, prompts=2, lists=2, held_out=3)
STOP = Stop(prompts=4, rival=2, p_value=0.01, estimate=0.1, share=0.5)

STOPPED = StoppedTrial(index=3, number=3, choice=(3,), latency_s=1.5, stop=STOP, seconds=4.0)


def trial(number: int, seconds: float, lpips: float) -> ScoredTrial:
    """A proposal with a score."""
    score = Score(net="tiny", mean=lpips, per_prompt=(lpips, lpips), noise_floor=None)
    return ScoredTrial(
        index=number,
        number=number,
        choice=(number,),
        label="",
        latency_s=seconds,
        score=score,
        seconds=2.0,
    )


NONE = replace(trial(0, 2.0, 0.0), label="none")
Made = Callable[..., tuple[SearchProgress, io.StringIO]]


@pytest.fixture
def made() -> Made:
    """Makes what follows a search, and what it prints to."""

    def make(
        *, quiet: bool, terminal: bool = False, clock: Callable[[], float] = lambda: 0.0
    ) -> tuple[SearchProgress, io.StringIO]:
        file = io.StringIO()
        console = TextConsole(
            file=file, width=200, force_terminal=terminal, force_interactive=terminal
        )
        if quiet:
            return QuietProgress(console, "[rank 3] ", budget=4), file
        return SearchProgress(console, budget=4, clock=clock), file

    return make


def play(progress: SearchProgress) -> None:
    """A search of this worker and another one, until it waits."""
    events = progress.events
    progress.say("loading tiny-flux on cpu")
    events.started("study", ("another",))
    events.planned(WORK)
    events.referenced(0, 2)
    events.calibrating("10 pictures")
    events.calibrated(0, 3)
    events.scored(NONE)
    events.began(1, "")
    events.scored(trial(1, 1.0, 0.02))
    events.elsewhere(trial(2, 0.8, 0.05))
    events.stopped(STOPPED)
    events.failed("trial 4", "OutOfMemoryError: 80 GB")
    events.noted("it failed and is tried once more")
    events.waiting(1)
    events.waiting(0)


def test_a_quiet_worker_tells_its_trials_and_what_goes_wrong(made: Made) -> None:
    """Each with its number; no plan, no steps, and no trial of another worker."""
    progress, file = made(quiet=True)
    play(progress)
    lines = file.getvalue().splitlines()
    assert all(line.startswith("[rank 3] ") for line in lines)
    assert [line.removeprefix("[rank 3] ").split(":")[0] for line in lines] == [
        "baseline none",
        "trial 1/4",
        "trial 3/4",
        "trial 4 failed",
        "it failed and is tried once more",
    ]


def test_a_quiet_worker_does_not_tear_a_view(made: Made) -> None:
    """On a terminal, where another process may move one, only what goes wrong is printed."""
    progress, file = made(quiet=True, terminal=True)
    with progress:
        play(progress)
    assert "trial 1/4" not in file.getvalue()
    assert "trial 4 failed" in file.getvalue()


def test_a_quiet_worker_that_concludes_says_what_it_does(made: Made) -> None:
    """Not each skip-list that is verified, since all workers count the same ones; but what it does
    then, when the others have ended.
    """
    progress, file = made(quiet=True)
    progress.events.planned(WORK)
    progress.say("verifying 2 skip-lists")
    assert file.getvalue() == ""
    progress.verifying(3, 6)
    progress.say("drawing the rule of thumb")
    assert file.getvalue().splitlines() == ["[rank 3] drawing the rule of thumb"]


def test_trials_of_others_count_and_can_be_the_best(made: Made) -> None:
    """The view shows how far the study is, not how far this worker; each prints its own trials."""
    progress, file = made(quiet=False)
    play(progress)
    said = file.getvalue()
    assert "trial 2/4" not in said
    assert said.count("waiting for 1 trial of other workers") == 1
    assert progress.kept() == "3 of 4 trials, 1 of 1 baselines; 1 failed"
    assert progress.view.done == 3
    moving, _ = made(quiet=False, terminal=True)
    moving.events.planned(WORK)
    moving.events.scored(NONE)
    moving.events.elsewhere(trial(1, 0.8, 0.05))
    moving.events.elsewhere(trial(2, 1.0, 0.02))
    assert "front of 3" in moving.view.best


def test_time_that_is_left_is_shared(made: Made) -> None:
    """As many workers as trials end while one ends here take the trials that are left."""
    now = [0.0]
    alone, _ = made(quiet=False, clock=lambda: now[0])
    shared, _ = made(quiet=False, clock=lambda: now[0])
    for progress in (alone, shared):
        progress.events.planned(replace(WORK, trials=40))
        progress.events.scored(NONE)
        progress.events.began(1, "")
        for done in (1, 2):
            now[0] += 5.0
            progress.events.pictures(done)
        progress.events.scored(trial(1, 1.0, 0.02))
    for number in range(2, 8):
        shared.events.elsewhere(trial(number, 1.0, 0.02))
    for progress in (alone, shared):
        progress.events.began(8, "")
    assert alone.left.seconds is not None
    assert shared.left.seconds is not None
    assert shared.left.seconds < alone.left.seconds / 2
