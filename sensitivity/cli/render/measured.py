"""Skip-lists that were timed end to end, as a table.

The table says what was timed, on which GPU and how. Beside each speedup stands its 90 % interval
over rounds.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Group as Lines
from rich.text import Text

from sensitivity.cli.render.tables import FittedTable, four_digits, number, words
from sensitivity.core.words import printable

if TYPE_CHECKING:
    from sensitivity.latency.timing.paired import PairedRatio
    from sensitivity.workflows.end_timing import EndTimes
    from sensitivity.workflows.measured_runs import MeasuredRun, MeasuredRuns


def measured_table(measured: "MeasuredRuns") -> Lines:
    """Skip-lists of `latency`: seconds, spread, speedup, memory; and why others did not run."""
    return runs_table(
        measured.runs,
        title=(
            f"measured on {measured.environment['device']}, batch {measured.batch_size},"
            f" {measured.runtime}, {measured.weights} weights: {measured.covers}"
        ),
        linears=len(measured.table.linears),
    )


def end_table(times: "EndTimes", *, linears: int, others_s: float = 0.0) -> Lines:
    """Skip-lists of the end of a search, or of a verification, with their sums of shapes.

    Args:
        times: the lists, timed.
        linears: how many Linears a list has.
        others_s: seconds of a whole run that are not in what was timed; 0 if none are, or if they
            are not known.
    """
    table = runs_table(
        times.runs,
        title=(
            f"seconds and speedups of {times.covers}; measured end to end on {times.device},"
            f" {times.runtime}"
        ),
        linears=linears,
        seconds="s a run" if times.whole else "s",
        shapes={name: estimate.speedup for name, estimate in times.shapes.items()},
    )
    if times.whole or not others_s:
        return table
    note = f"a whole run has the pipeline's other {others_s:.2g} s too, whatever the formats"
    return Lines(table, Text(note, style="dim"))


def runs_table(
    runs: Sequence["MeasuredRun"],
    *,
    title: str,
    linears: int,
    seconds: str = "s a run",
    shapes: Mapping[str, float] | None = None,
) -> Lines:
    """One row for each list.

    Args:
        runs: the lists.
        title: what was timed, and where.
        linears: how many Linears a list has.
        seconds: the heading of the seconds.
        shapes: the speedups that the sum of shapes gives, by name.
    """
    rows = FittedTable(
        words("skip-list", least=14),
        number("quantized"),
        number(seconds),
        number("spread", drop=3),
        number("speedup [90 %]"),
        number("from shapes", drop=4),
        number("held GB", drop=2),
        number("compiling s", drop=1),
        title=title,
    )
    for run in runs:
        by_shapes = _times((shapes or {}).get(run.name))
        quantized = f"{len(run.formats)}/{linears}"
        if run.failure:
            rows.add_row(run.name, quantized, "failed", "", "", by_shapes, "", "", style="yellow")
            continue
        rows.add_row(
            run.name,
            quantized,
            four_digits(run.seconds),
            f"{run.spread:.1%}",
            ratio_words(run.ratio),
            by_shapes,
            f"{run.peak_bytes / 1e9:.2f}",
            f"{run.compile_s:.0f}",
        )
    return Lines(rows, *_notes(runs))


def _notes(runs: Sequence["MeasuredRun"]) -> list[Text]:
    """How lists were timed, and why some were not."""
    ran = [run for run in runs if not run.failure]
    notes = []
    if ran:
        rounds = len(ran[0].timed.rounds_s)
        compiled = ran[0].timed.timings[0].compiled
        notes.append(
            Text(f"in turns, {rounds} rounds in shuffled order; compiled: {compiled}", style="dim")
        )
    if groups := max((run.timed.group for run in runs), default=0):
        notes.append(
            Text(
                f"in {groups + 1} groups, since the lists did not fit on the device together; each"
                " speedup is over bf16 of its own group",
                style="dim",
            )
        )
    return notes + [
        Text(f"{printable(run.name)} failed: {printable(run.failure)}", style="yellow")
        for run in runs
        if run.failure
    ]


def ratio_words(ratio: "PairedRatio") -> str:
    """A speedup with its interval: "1.322x [1.318, 1.326]"."""
    if ratio.interval90 is None or ratio.spread == 0:
        return f"{ratio.value:.3f}x"
    low, high = ratio.interval90
    return f"{ratio.value:.3f}x [{low:.3f}, {high:.3f}]"


def _times(speedup: float | None) -> str:
    return "" if speedup is None else f"{speedup:.3f}x"
