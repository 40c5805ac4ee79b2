"""What a command prints while shapes are measured."""

import io

import pytest
from rich.console import Console

from sensitivity.cli.render.progress import ShapeProgress
from sensitivity.latency.shape_times import PROBING, ShapeTime, ShapeTimes, attention_key

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
