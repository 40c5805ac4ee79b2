"""How is a model priced by times that are measured on the GPU of this machine? The table of shapes
that a search, a calibration, an audit and `latency` share.

    model = measured_latency(spec, run, table, formats, device="cuda", predicted=predicted)
    model.estimate(table, {}).bf16_s

Method. Every (M, K, N, bias) of a table is timed once, and kept in the user's cache by device,
driver, versions, method and compile mode (`search.shared_times`). The next command finds it there,
whichever it is. A table of other versions is never used: its shapes are measured anew, and that is
said.

A study that was searched keeps its own rows (`search.kept_prices`). They go before those of the
cache, so that a study has the same prices whenever it is continued; `kept_latency` prices with them
alone, on any machine.

What can happen meanwhile. Each shape is kept as it ends: an interruption loses one, and the same
command goes on. A shape that fails is a row with its reason, and its Linears stay bf16.

What it does not do: time a shape (`latency.timing.shape_timing`), say whether that makes sense
(`latency_source`), or measure whole runs (`workflows.measure`).
"""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from sensitivity.core.format_name import FormatName, Source
from sensitivity.errors import DeviceLostError
from sensitivity.latency import LatencyModel
from sensitivity.latency.measured import MeasuredLatency
from sensitivity.latency.pricer import MakeLatency
from sensitivity.latency.shape_times import (
    ShapeTime,
    ShapeTimes,
    attentions_of,
    shapes_of,
)
from sensitivity.latency.timing.host_timing import host_rows
from sensitivity.latency.timing.probe_child import context_error
from sensitivity.latency.timing.shape_timing import measure_shapes
from sensitivity.latency.timing.stopwatch import device_of
from sensitivity.search.kept_prices import KeptPrices
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.latency_source import latency_source
from sensitivity.workflows.progress import Measuring, Say, ShapeProgress, silent
from sensitivity.workflows.table_work import KnownTimes, table_work


def measured_latency(
    spec: StudySpec,
    run: ShapeRun | None,
    table: ShapeTable,
    formats: Sequence[FormatName],
    *,
    device: str,
    predicted: LatencyModel,
    repetitions: int = 10,
    progress: ShapeProgress = lambda _done, _total, _key: None,
    say: Say = silent,
    keep: Callable[[ShapeTimes], None] = lambda _times: None,
    times_path: Path | None = None,
    studies: Iterable[KeptPrices] = (),
) -> MeasuredLatency:
    """Measure the shapes of a table that no earlier command has measured, and price with all.

    Args:
        spec: the study.
        run: its run without weights; None where the pipeline does not run without them.
        table: the run's shapes at the scale that is priced.
        formats: quantized formats; bf16 is measured beside them.
        device: "cuda" or "cuda:N".
        predicted: a model of the same target, for what is not measured.
        repetitions: timed runs of each shape.
        progress: see `measure_shapes`.
        say: called with what will be measured, and about how long it takes.
        keep: called with all rows at the end, failed ones too.
        times_path: database of measured times; the user's cache by default.
        studies: rows that studies of the same database were searched by.

    A KeyboardInterrupt passes through; the shapes that were finished are kept.

    Raises:
        DeviceLostError: a shape broke the CUDA context, so that nothing runs in this process any
            more. It is kept as refused, and the same command goes on.
    """
    known = KnownTimes.of(
        device=device, mode=predicted.runtime.shapes_mode, path=times_path, studies=studies
    )
    components = spec.model.denoisers if run is None else tuple(run.classes)
    work = table_work(
        spec.name, table, components, formats, known, device=device, runtime=predicted.runtime
    )
    say(work.describe())
    times = measure_shapes(
        shapes_of(table, formats, predicted.runtime),
        attention=attentions_of(table, components=components),
        device=device,
        compile_mode=predicted.runtime.shapes_mode,
        cache=known,
        repetitions=repetitions,
        progress=progress if work.missing else lambda _done, _total, _key: None,
    )
    _check_context(times, device)
    # a shape that got a new format was timed again in all: the study keeps what it had
    kept = {k: ShapeTime.from_json(row) for k, row in known.own.items() if k in times.rows}
    rows = {**times.rows, **kept, **_host(known, times, device)}
    keep(times := dataclasses.replace(times, rows=rows))
    return MeasuredLatency(times, target=predicted.target, rest=predicted)


def _host(known: KnownTimes, times: ShapeTimes, device: str) -> dict[str, ShapeTime]:
    """The rows of this machine's host, timed unless they are known; {} on a CPU."""
    where = device_of(device)
    if where.type != "cuda":
        return {}
    rows = host_rows(where, known.find_shape_times(times.machine, times.compile_mode))
    for key, row in rows.items():
        known.save_shape_time(times.machine, times.compile_mode, key, row.to_json())
    return rows


def _check_context(times: ShapeTimes, device: str) -> None:
    """Raise DeviceLostError where a shape that failed left a GPU on which nothing runs."""
    broken = context_error(torch.device(device)) if times.failed else None
    if broken is not None:
        raise DeviceLostError(
            f"a shape broke the CUDA context of this process ({broken}); the shapes before it are"
            " kept, and it is kept as refused: run the same command again, it goes on"
        )


def kept_latency(prices: KeptPrices, *, predicted: LatencyModel) -> MeasuredLatency:
    """The model that a study was searched by, from the rows that it keeps. Nothing is measured.

    Args:
        prices: what the study keeps.
        predicted: a model of the same target, for what was not measured.

    Raises:
        StoreError: a row is malformed.
    """
    rows = {row.key: row for row in map(ShapeTime.from_json, prices.rows)}
    times = ShapeTimes(
        machine=prices.machine,
        compile_mode=prices.compile_mode,
        rows=rows,
        reused=frozenset(rows),
    )
    return MeasuredLatency(times, target=predicted.target, rest=predicted)


def prices_of(latency: LatencyModel) -> KeptPrices | None:
    """What a study keeps of the model that prices it; None if that is a prediction."""
    if not isinstance(latency, MeasuredLatency):
        return None
    return KeptPrices(
        machine=dict(latency.times.machine),
        compile_mode=latency.times.compile_mode,
        rows=tuple(row.to_json() for row in latency.times.rows.values()),
    )


def table_pricer(
    spec: StudySpec,
    *,
    device: str,
    times_path: Path | None = None,
    repetitions: int = 10,
    measuring: Measuring | None = None,
) -> MakeLatency:
    """A `latency` for `price`, `Pricer.of` and `audit_list`: `measured_latency` of what they run.

    Args:
        spec: the study.
        device: "cuda" or "cuda:N".
        times_path: database of measured times; the user's cache by default.
        repetitions: timed runs of each shape.
        measuring: how the caller follows it.
    """
    follow = measuring or Measuring()

    def make(
        run: ShapeRun, table: ShapeTable, formats: tuple[FormatName, ...], predicted: LatencyModel
    ) -> LatencyModel:
        return measured_latency(
            spec,
            run,
            table,
            formats,
            device=device,
            predicted=predicted,
            repetitions=repetitions,
            progress=follow.progress,
            say=follow.noted,
            keep=follow.measured,
            times_path=times_path,
        )

    return make


def pricer_at_hand(
    spec: StudySpec,
    asked: Source | None,
    *,
    target: str | None,
    device: str,
    formats: Iterable[FormatName],
    measuring: Measuring | None = None,
) -> MakeLatency | None:
    """The `latency` of `audit_list` or `price` that a user asks for; None for the prediction.

    Args:
        spec: the study.
        asked: "measured", "predicted", or None for what is possible (`latency_source`).
        target: the GPU that is priced; None is the study's.
        device: where shapes are measured.
        formats: the formats that will be priced.
        measuring: how the caller follows it.

    Raises:
        UserError: "measured" was asked for, and it is not possible.
    """
    follow = measuring or Measuring()
    source = latency_source(
        spec, asked, target=target, device=device, formats=formats, noted=follow.noted
    )
    return table_pricer(spec, device=device, measuring=follow) if source == "measured" else None
