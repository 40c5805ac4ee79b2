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
from typing import Any

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
from sensitivity.workflows.measured_runs import MeasuredRun, MeasuredRuns, WeightsChoice
from sensitivity.workflows.price import MakeLatency, Prices
from sensitivity.workflows.progress import Say, silent

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
