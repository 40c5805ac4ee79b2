"""What do a model's skip-lists take on the GPU of this machine?

Measured shape by shape, or whole runs end to end.

    prices = price(spec, request, latency=table_pricer(spec, device="cuda"))                # every shape measured once, kept, reused
    runs = measure_runs(spec, prices, device="cuda", target="h100", weights="random", compile_mode="reduce-overhead")

With pretrained weights a run is the whole pipeline call. With random weights (full size, no
download) it is all denoiser calls of the run, with random inputs of the shapes that the real
pipeline gives. Which of the two it was stands in `covers` and in every output.
"""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from sensitivity.core.devices import free_memory
from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.core.fqns import by_component
from sensitivity.errors import UserError
from sensitivity.latency import LatencyModel
from sensitivity.latency.devices import find_device
from sensitivity.latency.end_to_end import RunTiming, measure_calls, measure_pipeline
from sensitivity.latency.measured import ShapeTimes, TableLatency, attentions_of, shapes_of
from sensitivity.latency.shape_timing import measure_shapes
from sensitivity.models.compiled_regions import restore_denoiser
from sensitivity.models.loading import load_pipeline
from sensitivity.models.random_weights import random_component
from sensitivity.search.store import SharedShapeTimes, default_shape_times_path
from sensitivity.shapes.run import ShapeRun, with_options
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.overrides import RunOptions
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.price import MakeLatency, Prices

WeightsChoice = Literal["pretrained", "random"]
Progress = Callable[[int, int, str], None]


def target_at_hand(device: str, asked: str | None) -> str:
    """The name of the GPU that is measured: found by its own name, or `asked` where that is a
    description of an unknown one.

    Raises:
        UserError: `asked` names another GPU than this one, or this one is unknown and nothing was
            asked.
    """
    name = describe_environment(device)["device"]
    found = find_device(name)
    if asked is None or (found is not None and asked.strip().lower() == found.name):
        if found is None:
            raise UserError(
                f"{name} is no device that the package knows; name a device TOML that describes it"
                " (--target ./my-gpu.toml)"
            )
        return found.name
    if found is not None and not asked.endswith(".toml"):
        raise UserError(
            f"--target is {asked!r}, and --measure measures the {name} of this machine; allowed is"
            f" {found.name}: leave --target out, or --measure"
        )
    return asked


def table_pricer(
    spec: StudySpec,
    *,
    device: str,
    times_path: Path | None = None,
    repetitions: int = 10,
    progress: Progress = lambda _done, _total, _key: None,
    keep: Callable[[ShapeTimes], None] = lambda _times: None,
) -> MakeLatency:
    """For `pricing.price`: measures every shape of the table, and the denoiser's attention, and
    prices by them.

    Args:
        spec: the study; its denoisers' attention is measured.
        device: "cuda" or "cuda:N".
        times_path: database of measured times; the user's cache by default.
        repetitions: timed runs of each row.
        progress: see `measure_shapes`.
        keep: is given all rows, failed ones too.
    """

    def make(
        _run: ShapeRun, table: ShapeTable, formats: tuple[FormatName, ...], predicted: LatencyModel
    ) -> LatencyModel:
        times = measure_shapes(
            shapes_of(table, formats),
            attention=attentions_of(table, components=spec.model.denoisers),
            device=device,
            compile_mode=predicted.compile_mode,
            cache=SharedShapeTimes(times_path or default_shape_times_path()),
            repetitions=repetitions,
            progress=progress,
        )
        keep(times)
        return TableLatency(times, target=predicted.target, rest=predicted)

    return make


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRun:
    """One skip-list, measured end to end: a timing for each distinct denoiser call, or one for the
    whole pipeline call.
    """

    name: str
    formats: Mapping[str, FormatName]
    timings: tuple[RunTiming, ...]

    @property
    def seconds(self) -> float:
        """The whole run: median x calls, summed."""
        return sum(timing.run_s for timing in self.timings)

    @property
    def peak_bytes(self) -> int:
        """Most that torch held from the GPU, CUDA graphs included."""
        return max(max(timing.peak_memory_bytes, timing.reserved_bytes) for timing in self.timings)


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRuns:
    """Skip-lists measured on one machine; the first is bf16."""

    target: str
    batch_size: int
    compile_mode: CompileMode
    weights: WeightsChoice
    covers: str
    table: ShapeTable
    runs: tuple[MeasuredRun, ...]
    environment: Mapping[str, str]

    def to_json(self) -> dict[str, Any]:
        """The `latency --json` object of the second list (or of bf16 alone) with `source`
        "measured"; a Linear has no time of its own here. All runs with raw repetitions stand
        under "runs".
        """
        bf16, main = self.runs[0], self.runs[min(1, len(self.runs) - 1)]
        return {
            "target": self.target,
            "source": "measured",
            "batch_size": self.batch_size,
            "compile_mode": self.compile_mode,
            "bf16_s": bf16.seconds,
            "quantized_s": main.seconds,
            "speedup": bf16.seconds / main.seconds,
            "linears": [
                {
                    "fqn": x.fqn,
                    "m": x.m,
                    "k": x.k,
                    "n": x.n,
                    "calls": x.calls,
                    "format": main.formats.get(x.fqn, FormatName.BF16).value,
                }
                for x in self.table.linears
            ],
            "weights": self.weights,
            "covers": self.covers,
            "environment": dict(self.environment),
            "runs": [
                {
                    "name": run.name,
                    "seconds": run.seconds,
                    "speedup": bf16.seconds / run.seconds,
                    "peak_bytes": run.peak_bytes,
                }
                | {"timings": [timing.to_json() for timing in run.timings]}
                for run in self.runs
            ],
        }


def measure_runs(
    spec: StudySpec,
    prices: Prices,
    *,
    device: str,
    target: str,
    weights: WeightsChoice,
    compile_mode: CompileMode,
    options: RunOptions | None = None,
    recompile_limit: int | None = None,
    repetitions: int = 5,
    say: Callable[[str], None] = lambda _text: None,
) -> MeasuredRuns:
    """Measure bf16 and every list of `prices` end to end.

    Args:
        spec: the study.
        prices: what `price` gave: the lists, and the run without weights that has the denoiser's
            calls.
        device, target: see `check_gpu` and `target_at_hand`.
        weights: "pretrained" times the whole pipeline call, "random" the denoiser's calls.
        compile_mode, recompile_limit: see `end_to_end`.
        options: what `prices` was made with.
        repetitions: timed runs of each list.
        say: is told each list as it begins.

    Raises:
        UserError: more format patterns than torch's recompile limit, or a model that stands for a
            larger one.
        FormatError: the device lacks a format.
        MeasurementError: a run failed; out of memory is said so.
    """
    if spec.pricing.stands_for > 1 and weights == "random":
        raise UserError(
            f"{spec.name} stands for a larger model, which cannot be built; measure it with"
            " --weights pretrained, or shape by shape"
        )
    spec = with_options(spec, options) if options is not None else spec
    lists: dict[str, dict[str, FormatName]] = {"none": {}} | {
        row.name: dict(row.formats) for row in (prices.main, *prices.compared)
    }
    measure = _random_runs if weights == "random" else _pipeline_runs
    runs = []
    for name, formats in lists.items():
        say(f"measuring {name}")
        quantized = {fqn: kind for fqn, kind in formats.items() if kind is not FormatName.BF16}
        timings = measure(
            spec, prices.run, quantized, device, compile_mode, recompile_limit, repetitions
        )
        runs.append(MeasuredRun(name=name, formats=quantized, timings=timings))
        free_memory(torch.device(device))
    calls = sum(call.calls for call in prices.run.calls)
    covers = (
        "the whole pipeline call"
        if weights == "pretrained"
        else f"{calls} denoiser calls with random weights and inputs; nothing else of the pipeline"
    )
    return MeasuredRuns(
        target=target,
        batch_size=prices.run.table.batch_size,
        compile_mode=compile_mode,
        weights=weights,
        covers=covers,
        table=prices.run.table,
        runs=tuple(runs),
        environment=describe_environment(device),
    )


def _random_runs(
    spec: StudySpec,
    run: ShapeRun,
    formats: Mapping[str, FormatName],
    device: str,
    compile_mode: CompileMode,
    limit: int | None,
    repetitions: int,
) -> tuple[RunTiming, ...]:
    """Several denoisers are built and measured one after another."""
    timings: list[RunTiming] = []
    for name, own in zip(
        spec.model.denoisers, by_component(formats, run.table.components).values(), strict=True
    ):
        timings += measure_calls(
            partial(random_component, spec, component=name, device=device),
            [call for call in run.calls if call.component == name],
            formats=own,
            compile_mode=compile_mode,
            device=device,
            repetitions=repetitions,
            recompile_limit=limit,
        )
    return tuple(timings)


def _pipeline_runs(
    spec: StudySpec,
    _run: ShapeRun,
    formats: Mapping[str, FormatName],
    device: str,
    compile_mode: CompileMode,
    limit: int | None,
    repetitions: int,
) -> tuple[RunTiming, ...]:
    loaded = load_pipeline(spec, device=device, resident=True)
    size = spec.pricing.batch_size
    prompts = [spec.prompts.search[i % len(spec.prompts.search)] for i in range(size)]

    def paint() -> object:
        generators = [torch.Generator().manual_seed(spec.prompts.seed + i) for i in range(size)]
        return loaded.pipe(prompt=prompts, **spec.settings, output_type="pt", generator=generators)

    try:
        timing = measure_pipeline(
            paint,
            loaded.denoiser,
            formats=formats,
            compile_mode=compile_mode,
            device=device,
            repetitions=repetitions,
            recompile_limit=limit,
        )
    finally:
        restore_denoiser(loaded.denoiser)
    return (dataclasses.replace(timing, calls=1),)
