"""What do a model's skip-lists take on the GPU of this machine?

Shape by shape, as a latency model for `price`; or whole runs, end to end.

    pricer = table_pricer(device="cuda")                     # each shape is measured once and kept
    prices = price(spec, request, latency=pricer)

    runs = measure_runs(prices, device="cuda", target="h100", weights="random",
                        compile_mode="reduce-overhead")
    runs.runs[1].seconds

With pretrained weights a run is the whole pipeline call. With random weights (full size, no
download) it is all denoiser calls of the run, with random inputs of the shapes that the real
pipeline gives. `covers` says which of the two it was, in every output.
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
from sensitivity.core.format_name import CompileMode, FormatName, quantized
from sensitivity.core.fqns import by_component
from sensitivity.errors import UserError
from sensitivity.latency import LatencyModel
from sensitivity.latency.devices import find_device
from sensitivity.latency.end_to_end import measure_calls, measure_pipeline
from sensitivity.latency.measured import MeasuredLatency
from sensitivity.latency.run_timing import RunTiming
from sensitivity.latency.shape_times import ShapeTimes, attentions_of, shapes_of
from sensitivity.latency.shape_timing import measure_shapes
from sensitivity.models.compiled_regions import restore_denoiser
from sensitivity.models.loading import load_pipeline
from sensitivity.models.random_weights import random_component
from sensitivity.search.shared_times import SharedShapeTimes, default_shape_times_path
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.shapes.table import ShapeTable
from sensitivity.workflows.price import MakeLatency, Prices
from sensitivity.workflows.progress import Say, silent

WeightsChoice = Literal["pretrained", "random"]
Progress = Callable[[int, int, str], None]


def target_at_hand(device: str, asked: str | None) -> str:
    """The name of the GPU that is measured.

    It is found by its own name. For a GPU that the package does not know, `asked` names a device
    TOML that describes it.

    Raises:
        UserError: `asked` names another GPU than this one, or this one is unknown and no TOML was
            given.
    """
    name = describe_environment(device)["device"]
    found = find_device(name)
    if asked is None or (found is not None and asked.strip().lower() == found.name):
        if found is None:
            raise UserError(
                f"{name} is no device that the package knows; expected a device TOML that describes"
                " it: name one in `target`, as in ./my-gpu.toml"
            )
        return found.name
    if found is not None and not asked.endswith(".toml"):
        raise UserError(
            f"`target` is {asked!r}, and `measure` times the {name} of this machine; expected"
            f" {found.name}: leave `target` out, or `measure`"
        )
    return asked


def table_pricer(
    *,
    device: str,
    times_path: Path | None = None,
    repetitions: int = 10,
    progress: Progress = lambda _done, _total, _key: None,
    keep: Callable[[ShapeTimes], None] = lambda _times: None,
) -> MakeLatency:
    """A `latency` for `price`: it times every shape of the table, and the denoisers' attention.

    Args:
        device: "cuda" or "cuda:N".
        times_path: database of measured times; the user's cache by default.
        repetitions: timed runs of each shape.
        progress: see `measure_shapes`.
        keep: called with all rows, failed ones too.
    """

    def make(
        run: ShapeRun, table: ShapeTable, formats: tuple[FormatName, ...], predicted: LatencyModel
    ) -> LatencyModel:
        times = measure_shapes(
            shapes_of(table, formats),
            attention=attentions_of(table, components=tuple(run.classes)),
            device=device,
            compile_mode=predicted.compile_mode,
            cache=SharedShapeTimes(times_path or default_shape_times_path()),
            repetitions=repetitions,
            progress=progress,
        )
        keep(times)
        return MeasuredLatency(times, target=predicted.target, rest=predicted)

    return make


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredRun:
    """One skip-list, measured end to end.

    Attributes:
        name: the list's.
        formats: {FQN: format} of what it quantizes.
        timings: one for each distinct denoiser call, or one for the whole pipeline call.
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
        """The most memory that torch reserved on the GPU, CUDA graphs included."""
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
        """As `latency --json` writes it, with `source` "measured".

        The object is that of the second list, or of bf16 where there is no other. Linears have no
        times of their own. "runs" has all runs with their raw repetitions.
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
    prices: Prices,
    *,
    device: str,
    target: str,
    weights: WeightsChoice,
    compile_mode: CompileMode,
    recompile_limit: int | None = None,
    repetitions: int = 5,
    say: Say = silent,
) -> MeasuredRuns:
    """Measure bf16 and every list of `prices` end to end.

    Args:
        prices: what `price` gave: the study, its run without weights, and the lists.
        device, target: see `check_device` and `target_at_hand`.
        weights: "pretrained" times the whole pipeline call, "random" the denoiser's calls.
        compile_mode, recompile_limit: see `latency.end_to_end`.
        repetitions: timed runs of each list.
        say: called with each list as it begins.

    Raises:
        UserError: more format patterns than torch's recompile limit, or a model that stands for a
            larger one.
        FormatError: the device lacks a format.
        MeasurementError: a run failed, or the device is out of memory.
    """
    if prices.spec.pricing.stands_for > 1 and weights == "random":
        raise UserError(
            f"{prices.spec.name} stands for a larger model, which cannot be built; expected"
            " `weights` pretrained: pass that, or measure shape by shape"
        )
    lists: dict[str, Mapping[str, FormatName]] = {"none": {}} | {
        row.name: row.formats for row in (prices.main, *prices.compared)
    }
    timer = _Timer(
        prices=prices,
        device=device,
        compile_mode=compile_mode,
        recompile_limit=recompile_limit,
        repetitions=repetitions,
    )
    time_list = timer.random_calls if weights == "random" else timer.pipeline_call
    runs = []
    for name, assigned in lists.items():
        say(f"measuring {name}")
        formats = quantized(assigned)
        runs.append(MeasuredRun(name=name, formats=formats, timings=time_list(formats)))
        free_memory(torch.device(device))
    return MeasuredRuns(
        target=target,
        batch_size=prices.run.table.batch_size,
        compile_mode=compile_mode,
        weights=weights,
        covers=_covers(prices.run, weights),
        table=prices.run.table,
        runs=tuple(runs),
        environment=describe_environment(device),
    )


def _covers(run: ShapeRun, weights: WeightsChoice) -> str:
    """What is timed, in words."""
    if weights == "pretrained":
        return "the whole pipeline call"
    calls = sum(call.calls for call in run.calls)
    return f"{calls} denoiser calls with random weights and inputs; nothing else of the pipeline"


@dataclass(frozen=True, kw_only=True, slots=True)
class _Timer:
    """Times one list after another under the same conditions."""

    prices: Prices
    device: str
    compile_mode: CompileMode
    recompile_limit: int | None
    repetitions: int

    @property
    def how(self) -> dict[str, Any]:
        """The conditions, as `latency.end_to_end` takes them."""
        return {
            "compile_mode": self.compile_mode,
            "device": self.device,
            "repetitions": self.repetitions,
            "recompile_limit": self.recompile_limit,
        }

    def random_calls(self, formats: Mapping[str, FormatName]) -> tuple[RunTiming, ...]:
        """Denoisers with random weights, built and timed one after another."""
        spec, run = self.prices.spec, self.prices.run
        timings: list[RunTiming] = []
        for name, own in zip(
            spec.model.denoisers, by_component(formats, run.table.components).values(), strict=True
        ):
            timings += measure_calls(
                partial(random_component, spec, component=name, device=self.device),
                [call for call in run.calls if call.component == name],
                formats=own,
                **self.how,
            )
        return tuple(timings)

    def pipeline_call(self, formats: Mapping[str, FormatName]) -> tuple[RunTiming, ...]:
        """The whole pipeline call, loaded for this list."""
        spec = self.prices.spec
        loaded = load_pipeline(spec, device=self.device, resident=True)
        size = spec.pricing.batch_size
        prompts = [spec.prompts.search[i % len(spec.prompts.search)] for i in range(size)]

        def generate() -> object:
            generators = [torch.Generator().manual_seed(spec.prompts.seed + i) for i in range(size)]
            return loaded.pipe(
                prompt=prompts, **spec.settings, output_type="pt", generator=generators
            )

        try:
            timing = measure_pipeline(generate, loaded.denoiser, formats=formats, **self.how)
        finally:
            restore_denoiser(loaded.denoiser)
        return (dataclasses.replace(timing, calls=1),)
