"""What a search shows while it runs: plain lines in a pipe, one live view on a terminal."""

import io
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from sensitivity.cli.render.live_search import QUIET_S, SearchProgress, plan_words
from sensitivity.cli.render.search_view import about
from sensitivity.cli.screen import TextConsole
from sensitivity.cli.signals import Ended
from sensitivity.fidelity.score import Score
from sensitivity.search.front import Constraints
from sensitivity.search.stopping import Stop
from sensitivity.search.trials import ScoredTrial, StoppedTrial
from sensitivity.search.work import SearchWork
from sensitivity.workflows.progress import Outlook, PictureSeconds
from sensitivity.workflows.time_left import BESIDE_VERIFICATION, ROUNDING

WORK = SearchWork(baselines=2, trials=4, prompts=2, lists=5, held_out=3)
OUTLOOK = Outlook(
    bf16_s=2.0,
    lists={"all nvfp4": 1.0, "rule of thumb": 1.6},
    source="predicted for b200",
    groups=6,
    linears=40,
    picture=PictureSeconds(bf16=0.5, quantized=1.0),
)
STOP = Stop(prompts=4, rival=2, p_value=0.01, estimate=0.1, share=0.5)
STOPPED = StoppedTrial(index=3, number=2, choice=(3,), latency_s=1.5, stop=STOP, seconds=4.0)
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
COLOUR = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-8]|4[0-8]|9[0-7])[;m]")


class Clock:
    """A clock that stands until it is told to go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def scored(index: int, number: int, label: str, seconds: float, *lpips: float) -> ScoredTrial:
    """A trial with these LPIPS of its prompts, which took 2 s."""
    mean = sum(lpips) / len(lpips)
    score = Score(net="tiny", mean=mean, per_prompt=lpips, noise_floor=None)
    return ScoredTrial(
        index=index,
        number=number,
        choice=(index,),
        label=label,
        latency_s=seconds,
        score=score,
        seconds=2.0,
    )


NONE = scored(0, 0, "none", 2.0, 0.0, 0.0)
THUMB = scored(1, 0, "rule of thumb", 1.6, 0.01, 0.04)
FIRST = scored(2, 1, "", 1.0, 4e-5, 4e-5)


@pytest.fixture
def said() -> io.StringIO:
    """What was printed."""
    return io.StringIO()


@pytest.fixture
def clock() -> Clock:
    """A clock that stands."""
    return Clock()


@pytest.fixture
def piped(said: io.StringIO, clock: Clock) -> Iterator[SearchProgress]:
    """The progress of a search of four trials in a pipe."""
    with SearchProgress(TextConsole(file=said, width=140), budget=4, clock=clock) as progress:
        yield progress


def on_terminal(said: io.StringIO, width: int, clock: Clock, **more: object) -> SearchProgress:
    """The same on a terminal, drawn when a test asks for it."""
    console = TextConsole(file=said, width=width, force_terminal=True, _environ={}, **more)
    progress = SearchProgress(console, budget=4, clock=clock)
    progress.live.auto_refresh = False
    return progress


def seen(said: io.StringIO) -> list[str]:
    """The lines without control sequences."""
    return [line.rstrip() for line in CONTROL.sub("", said.getvalue()).splitlines()]


def follow(progress: SearchProgress) -> None:
    """A search with two baselines, a trial, a stopped one and a failed one."""
    events = progress.events
    progress.expected(OUTLOOK)
    events.started("tiny-1", ())
    events.planned(WORK)
    for trial in (NONE, THUMB, FIRST):
        events.began(trial.number, trial.label)
        events.pictures(2)
        events.scored(trial)
    events.began(2, "")
    events.pictures(1)
    events.stopped(replace(STOPPED, seconds=1.0))
    events.failed("trial 3", "OutOfMemoryError")


def test_in_a_pipe_the_plan_comes_first_and_each_trial_is_one_line(
    piped: SearchProgress, said: io.StringIO
) -> None:
    """Gains by hand, the plan with its time, baselines by name, small LPIPS in full, and what is
    left with the verification.
    """
    follow(piped)
    verification = 5 * 3 + BESIDE_VERIFICATION
    whole = [about(12 - done + verification) for done in (0, 2, 4, 6)]
    assert said.getvalue().splitlines() == [
        (
            "bf16 takes 2000.00 ms a run (predicted for b200): all nvfp4 2.000x, rule of thumb"
            " 1.250x; to search: 6 groups of 40 Linears"
        ),
        (
            "4 trials x 2 prompts, 0 done, then at most 5 skip-lists x 3 held-out prompts:"
            f" {whole[0]}; Ctrl-C keeps what is finished"
        ),
        (f"baseline none: 1.000x, typical LPIPS 0, mean 0, on the front; front 1, {whole[1]} left"),
        (
            "baseline rule of thumb: 1.250x, typical LPIPS 0.0200, mean 0.0250, on the front;"
            f" front 2, {whole[2]} left"
        ),
        (
            "trial 1/4: 2.000x, typical LPIPS 4e-05, mean 4e-05, on the front; front 2,"
            f" {whole[3]} left"
        ),
        (
            "trial 2/4: 1.333x, stopped after 4 prompts: trial 1 is as fast with less LPIPS"
            f" (p = 0.01), {about(2 * 1.5 + verification)} left"
        ),
        "trial 3 failed: OutOfMemoryError",
    ]


def test_a_continued_search_counts_what_is_done(piped: SearchProgress, said: io.StringIO) -> None:
    """Its trials are counted, and the plan says how many are done."""
    piped.events.continued("tiny-1", (NONE, THUMB, FIRST, STOPPED))
    piped.events.planned(replace(WORK, baselines_done=2, trials_done=2))
    assert said.getvalue().splitlines() == [
        "continuing study tiny-1: 2 of 4 trials are done, 2 to go; 2 baselines are scored",
        (
            "4 trials x 2 prompts, 2 done, then at most 5 skip-lists x 3 held-out prompts; Ctrl-C"
            " keeps what is finished"
        ),
    ]
    assert piped.kept() == "2 of 4 trials, 2 of 2 baselines"


def test_a_plan_with_nothing_left_says_so() -> None:
    """A finished search only verifies what is not known, and no time is promised."""
    work = replace(WORK, baselines_done=2, trials_done=4)
    assert plan_words(work, 21.0) == (
        "4 trials x 2 prompts, all done, then at most 5 skip-lists x 3 held-out prompts; Ctrl-C"
        " keeps what is finished"
    )


def test_what_goes_on_for_long_is_said_again(
    piped: SearchProgress, said: io.StringIO, clock: Clock
) -> None:
    """Sensitivities and held-out pictures: the first, the last, each list, and after a while."""
    piped.events.planned(WORK)
    said.truncate(0)
    said.seek(0)
    for done in range(1, 6):
        clock.now += QUIET_S / 4 if done < 5 else QUIET_S
        piped.events.calibrated(done, 9)
    piped.verifying(0, 6)
    for done in range(1, 5):
        clock.now += 1.0
        piped.verifying(done, 6)
    lines = said.getvalue().splitlines()
    assert lines == [
        "measuring layer sensitivities: 1/9 groups",
        "measuring layer sensitivities: 5/9 groups",
        f"verified 1 of 2 skip-lists, {about(3 + ROUNDING)} left",
    ]
    assert piped.kept() == "5 of 9 layer sensitivities, 1 of 2 verifications"


@pytest.mark.parametrize("width", [50, 80, 200])
def test_a_terminal_has_one_view_that_fits(said: io.StringIO, clock: Clock, width: int) -> None:
    """Stage, trial and picture, the last and the best with speedup and LPIPS, and the time left;
    each on one line.
    """
    progress = on_terminal(said, width, clock)
    follow(progress)
    progress.events.began(3, "")
    progress.events.pictures(1)
    clock.now += 23
    said.truncate(0)
    said.seek(0)
    progress.console.print(progress.view)
    lines = seen(said)
    assert all(len(line) <= width for line in lines)
    assert re.search(r"trial 3 .*2/4 done, picture 1/2$", lines[0])
    assert lines[1].startswith("  last  trial 2/4: 1.333x, stopped after 4 prom")
    assert lines[2].startswith("  best  trial 1: 2.000x, typical LPIPS 4e-05")
    assert re.match(r"  23 s so far, about \d+ s left", lines[3])
    assert len(lines) == 4
    if width > 50:
        assert lines[2].endswith("; front of 2")
        assert lines[3].endswith(", verification included")


def test_the_best_is_what_the_constraints_choose(said: io.StringIO, clock: Clock) -> None:
    """Where nothing keeps to them yet, that is said."""
    for constraints, best in (
        (Constraints(max_typical=0.01), "trial 1: 2.000x"),
        (Constraints(min_speedup=3.0), "none keeps to the constraints yet"),
    ):
        progress = on_terminal(said, 80, clock)
        progress.constraints = constraints
        with progress:
            follow(progress)
        assert progress.view.best.startswith(best)


def test_without_colour_a_terminal_gets_none(
    said: io.StringIO, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """NO_COLOR leaves the view, in one colour."""
    for no_colour in (None, True):
        said.truncate(0)
        said.seek(0)
        monkeypatch.setenv("NO_COLOR", "1" if no_colour else "")
        console = TextConsole(
            file=said, width=80, force_terminal=True, color_system="standard", no_color=None
        )
        progress = SearchProgress(console, budget=4, clock=clock)
        progress.live.auto_refresh = False
        with progress:
            follow(progress)
            progress.live.refresh()
        assert "typical LPIPS 4e-05" in said.getvalue()
        assert bool(COLOUR.search(said.getvalue())) is (no_colour is None)


def end_after(
    does: Callable[[SearchProgress], None],
    progress: SearchProgress,
    ended: Callable[[], BaseException],
) -> None:
    """Do something and be ended while the search is shown."""
    with progress:
        does(progress)
        raise ended()


@pytest.mark.parametrize("ended", [KeyboardInterrupt, lambda: Ended(15)], ids=["Ctrl-C", "TERM"])
def test_who_ends_a_search_is_told_what_is_kept(
    said: io.StringIO, clock: Clock, ended: Callable[[], BaseException]
) -> None:
    """The counts of what is finished; "nothing yet" where nothing is."""
    for does, kept in (
        (follow, "2 of 4 trials, 2 of 2 baselines; 1 failed"),
        (lambda _progress: None, "nothing yet"),
    ):
        said.truncate(0)
        said.seek(0)
        console = TextConsole(file=said, width=140)
        with pytest.raises((KeyboardInterrupt, Ended)):
            end_after(does, SearchProgress(console, budget=4, clock=clock), ended)
        assert said.getvalue().splitlines()[-1] == f"finished and kept: {kept}"
