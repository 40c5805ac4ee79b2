"""What a command prints while shapes are measured, and while a search runs."""

import io

import pytest
from rich.console import Console

from sensitivity.cli.render.progress import SearchProgress, ShapeProgress
from sensitivity.fidelity.score import Score
from sensitivity.latency.shape_times import PROBING, ShapeTime, ShapeTimes, attention_key
from sensitivity.search.stopping import Stop
from sensitivity.search.trials import ScoredTrial, StoppedTrial

from support.latency import ATTENTION, FP8, MACHINE, shape


@pytest.fixture
def said() -> io.StringIO:
    """What was printed."""
    return io.StringIO()


def times_of(*rows: ShapeTime, reused: int = 0) -> ShapeTimes:
    """Rows of a machine, the first of them from an earlier command."""
    keys = [row.key for row in rows]
    return ShapeTimes(
        machine=MACHINE,
        compile_mode="default",
        rows=dict(zip(keys, rows, strict=True)),
        reused=frozenset(keys[:reused]),
    )


def test_in_a_pipe_each_part_of_a_measurement_is_one_line(said: io.StringIO) -> None:
    """Probing and measuring are told apart, and shapes without a time are named with reasons."""
    key, refused = str(shape(4, 32, 16)), str(shape(4, 32, 16, FP8))
    with ShapeProgress(Console(file=said, width=140)) as bar:
        follow = bar.measuring
        follow.noted("2 of 2 shapes to measure")
        for done in range(2):
            follow.progress(done, 1, PROBING + (refused if done == 0 else ""))
        for done in range(3):
            follow.progress(done, 2, key if done < 2 else "")
        attention = ShapeTime(key=attention_key(ATTENTION), reason="out of memory")
        rows = ShapeTime(key=key, us=(1.0,)), ShapeTime(key=refused, reason="refused"), attention
        follow.measured(times_of(*rows))
    assert said.getvalue().splitlines() == [
        "2 of 2 shapes to measure",
        "probing 1 shape",
        "measuring 2 shapes",
        "1 shape times on toy GPU, 0 of them measured before",
        f"no time: {refused}: refused",
        f"no time: {attention.key}: out of memory",
        "1 shape of Linears without a time: these Linears stay bf16",
    ]


def test_a_table_that_is_known_is_said_once(said: io.StringIO) -> None:
    """Where nothing was measured, nothing is said after the line that came before."""
    with ShapeProgress(Console(file=said)) as bar:
        bar.measuring.measured(times_of(ShapeTime(key=str(shape(4, 32, 16)), us=(1.0,)), reused=1))
    assert said.getvalue() == ""


def scored(index: int, number: int, label: str, seconds: float, *lpips: float) -> ScoredTrial:
    """A trial with these LPIPS of its prompts."""
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


def test_baselines_are_no_trials_of_the_budget(said: io.StringIO) -> None:
    """They are named as baselines and have no number; a trial has typical and mean LPIPS, in which
    small ones are not lost, and the seconds left are those of trials that are left.
    """
    stop = Stop(prompts=4, rival=2, p_value=0.01, estimate=0.1, share=0.5)
    stopped = StoppedTrial(index=3, number=2, choice=(3,), latency_s=1.5, stop=stop, seconds=2.0)
    with SearchProgress(Console(file=said, width=140), budget=4) as progress:
        events = progress.events
        events.began(0, "none")
        events.scored(scored(0, 0, "none", 2.0, 0.0, 0.0))
        events.scored(scored(1, 0, "rule of thumb", 1.5, 0.01, 0.04))
        events.began(1, "")
        events.scored(scored(2, 1, "", 1.0, 4e-5, 4e-5))
        events.stopped(stopped)
        events.failed("trial 3", "OutOfMemoryError")
        events.continued("tiny-1", (stopped,))
    assert said.getvalue().splitlines() == [
        "baseline none: 1.000x, typical LPIPS 0, mean 0, on the front; front 1, 8 s left",
        (
            "baseline rule of thumb: 1.333x, typical LPIPS 0.0200, mean 0.0250, on the front; front"
            " 2, 8 s left"
        ),
        "trial 1/4: 2.000x, typical LPIPS 4e-05, mean 4e-05, on the front; front 2, 6 s left",
        "trial 2/4: 1.333x, stopped after 4 prompts: trial 1 is as fast with less LPIPS (p = 0.01)",
        "trial 3 failed: OutOfMemoryError",
        "continuing study tiny-1: 1 of 4 trials are done, 3 to go",
    ]
