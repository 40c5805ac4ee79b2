"""What do a model's skip-lists take on the GPU of this machine, as whole runs, end to end?

    runs = measure_runs(prices, device="cuda", target="h100", weights="random",
                        runtime=get_runtime("torchao-graphs"))
    runs.runs[1].seconds, runs.runs[1].ratio.interval90

All lists are timed in turns in one process (`latency.timing.interleaved`). With pretrained weights
a run is the whole pipeline call. With random weights (full size, no download) it is all denoiser
calls of the run, with random inputs of the shapes that the real pipeline gives. `covers` says which
of the two it was, in every output.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import nn

from sensitivity.core.devices import free_memory
from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.fqns import by_component
from sensitivity.errors import UserError
from sensitivity.latency.runtimes import Runtime, runnable
from sensitivity.latency.timing.interleaved import BF16, interleave
from sensitivity.latency.timing.stopwatch import device_of
from sensitivity.latency.timing.tensors import materialize
from sensitivity.latency.timing.timed_lists import Conditions, TimedList, Unit, in_sequence
from sensitivity.models.denoisers import parts_of
from sensitivity.models.loading import LoadedPipeline, load_pipeline
from sensitivity.models.random_weights import random_component
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.measured_runs import MeasuredRun, MeasuredRuns, WeightsChoice
from sensitivity.workflows.price import Prices
from sensitivity.workflows.progress import Say, silent

Lists = Mapping[str, Mapping[str, FormatName]]
"""{name: {FQN: format}}; Linears left out are bf16."""
WHOLE_CALL = "the whole pipeline call"
MANY_CALLS = 4
"""Denoiser calls of a pipeline call from which on its first call has made all CUDA graphs."""


def measure_runs(
    prices: Prices,
    *,
    device: str,
    target: str,
    weights: WeightsChoice,
    runtime: Runtime,
    recompile_limit: int | None = None,
    repetitions: int = 5,
    say: Say = silent,
) -> MeasuredRuns:
    """Measure bf16 and every list of `prices` end to end, in turns.

    Args:
        prices: what `price` gave: the study, its run without weights, and the lists.
        device, target: see `check_device` and `shape_table.target_at_hand`.
        weights: "pretrained" times the whole pipeline call, "random" the denoiser's calls.
        runtime: the way of running.
        recompile_limit: graphs that torch may compile for a class of blocks; None is its own.
        repetitions: timed runs of each list.
        say: called with each step as it begins.

    Raises:
        UserError: a model that stands for a larger one, a runtime that can only be priced, or bf16
            needs more graphs than torch's recompile limit.
        MeasurementError: bf16 failed, or the device is out of memory.
    """
    runnable(runtime)
    spec, run = prices.spec, prices.run
    _check_can_be_built(spec, weights)
    lists = {row.name: quantized(row.formats) for row in (prices.main, *prices.compared)}
    memory = prices.main.estimate.memory
    how = Conditions(
        runtime=runtime,
        device=device,
        rounds=repetitions,
        recompile_limit=recompile_limit,
        activation_bytes=(memory and memory.activation_bytes) or 0,
        say=say,
    )
    if weights == "random":
        make = partial(_random, spec, device)
        found = time_denoisers(make, spec, run, lists, how)
    else:
        loaded = load_pipeline(spec, device=device, resident=True)
        found = time_pipeline(loaded, lists, replace(how, warmups=warmups_of(run)))
    return MeasuredRuns(
        target=target,
        runtime=runtime.name,
        compile_mode=runtime.compile_mode,
        weights=weights,
        covers=WHOLE_CALL if weights == "pretrained" else denoiser_calls(run),
        table=run.table,
        runs=tuple(
            MeasuredRun(formats=lists.get(name, {}), timed=row) for name, row in found.items()
        ),
        environment=describe_environment(device),
    )


def _check_can_be_built(spec: StudySpec, weights: WeightsChoice) -> None:
    """Raise UserError for random weights of a model that stands for a larger one."""
    if spec.pricing.stands_for > 1 and weights == "random":
        raise UserError(
            f"{spec.name} stands for a larger model, which cannot be built; expected `weights`"
            " pretrained: pass that, or measure shape by shape"
        )


def denoiser_calls(run: ShapeRun) -> str:
    """What is timed with random weights, in words."""
    calls = sum(call.calls for call in run.calls)
    return f"{calls} denoiser calls with random weights and inputs; nothing else of the pipeline"


def warmups_of(run: ShapeRun) -> int:
    """Pipeline calls that warm up after the one that compiles. CUDA graphs need three calls of each
    denoiser, which the first pipeline call may have made.
    """
    calls = [
        sum(call.calls for call in run.calls if call.component == name) for name in run.classes
    ]
    return 1 if min(calls, default=0) >= MANY_CALLS else 2


def _random(spec: StudySpec, device: str, component: str) -> nn.Module:
    return random_component(spec, component=component, device=device)


def time_denoisers(
    make: Callable[[str], nn.Module],
    spec: StudySpec,
    run: ShapeRun,
    lists: Lists,
    how: Conditions,
) -> dict[str, TimedList]:
    """Time the denoisers' calls of a run, one denoiser after another.

    Args:
        make: gives a component in bf16, on the device. It stays as it is.
        spec: the study.
        run: its run without weights.
        lists: what is timed, beside bf16.
        how: the conditions.

    Returns:
        {name: list}, "none" first.
    """
    where, parts = device_of(how.device), list[dict[str, TimedList]]()
    for name in spec.model.denoisers:
        calls = [call for call in run.calls if call.component == name]
        inputs = [materialize((call.args, dict(call.kwargs)), where) for call in calls]

        def units_of(
            copy: nn.Module, calls: Sequence[Any] = calls, inputs: Sequence[Any] = inputs
        ) -> list[Unit]:
            return [
                Unit(work=partial(copy, *args, **kwargs), calls=call.calls)
                for call, (args, kwargs) in zip(calls, inputs, strict=True)
            ]

        own = {
            label: by_component(formats, run.table.components)[name]
            if run.table.components
            else formats
            for label, formats in lists.items()
        }
        parts.append(interleave(make(name), own, units_of, how))
        del inputs, units_of
        free_memory(where)
    return {label: in_sequence([part[label] for part in parts]) for label in (BF16, *lists)}


def time_pipeline(loaded: LoadedPipeline, lists: Lists, how: Conditions) -> dict[str, TimedList]:
    """Time whole pipeline calls: text encoders, all steps, decoder.

    Args:
        loaded: the pipeline, resident on the device, in bf16. It stays as it is.
        lists: what is timed, beside bf16.
        how: the conditions.

    Returns:
        {name: list}, "none" first.
    """
    generate = pipeline_call(loaded)

    def units_of(copy: nn.Module) -> list[Unit]:
        return [Unit(work=partial(_with_denoisers, loaded, copy, generate), whole=True)]

    return interleave(loaded.denoiser, lists, units_of, how)


def pipeline_call(loaded: LoadedPipeline) -> Callable[[], object]:
    """A pipeline call with the study's settings, prompts and seeds at the priced batch size."""
    spec = loaded.spec
    size = spec.pricing.batch_size
    prompts = [spec.prompts.search[i % len(spec.prompts.search)] for i in range(size)]

    def generate() -> object:
        generators = [torch.Generator().manual_seed(spec.prompts.seed + i) for i in range(size)]
        return loaded.pipe(prompt=prompts, **spec.settings, output_type="pt", generator=generators)

    return generate


def _with_denoisers(
    loaded: LoadedPipeline, copy: nn.Module, generate: Callable[[], object]
) -> object:
    """A pipeline call with a copy in the place of the pipeline's denoisers."""
    names = loaded.spec.model.denoisers
    own = {name: getattr(loaded.pipe, name) for name in names}
    try:
        for name, part in zip(names, parts_of(copy).values(), strict=True):
            setattr(loaded.pipe, name, part)
        return generate()
    finally:
        for name, part in own.items():
            setattr(loaded.pipe, name, part)
