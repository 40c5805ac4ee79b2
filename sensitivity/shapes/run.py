"""Which shapes does a whole pipeline run have, when there are no weights?

`run_shapes` runs the real pipeline code on meta tensors.

    run = run_shapes(resolve_spec("flux1-dev"))
    run.table.linears                       # 504 rows, calls of all 28 steps
    run.table.run.component("vae")          # what the rest of the pipeline does
    run.calls[0].kwargs                     # a denoiser's arguments, for `random_component`

Method. `models.skeleton` builds the pipeline from its configs, and `models.shape_mode` runs it.
Calls of a component that do the same work run once (`component_calls`). Linears are seen by the
same hooks as in a real run (`recorder`); several denoisers of a study make one table.

Conventions: numbers are for one whole pipeline call at the study's settings and
`pricing.batch_size`. `settings` of the table are the effective ones (`call_arguments`). What it
does not do: pipelines whose control flow depends on what a network says.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from sensitivity.models.denoisers import joined
from sensitivity.models.entry_points import intercept
from sensitivity.models.hub import quiet
from sensitivity.models.model_index import ModelIndex, unknown_component
from sensitivity.models.shape_mode import ShapeMode
from sensitivity.models.skeleton import build_skeleton
from sensitivity.models.token_counts import counts_of
from sensitivity.shapes.call_arguments import (
    asked_sizes,
    call_arguments,
    effective_settings,
)
from sensitivity.shapes.census import RunCounts
from sensitivity.shapes.component_calls import ComponentCalls
from sensitivity.shapes.config_faults import explain_failures
from sensitivity.shapes.experts import values_of, weights_besides
from sensitivity.shapes.recorder import record_linears
from sensitivity.shapes.shape_run import DenoiserCall, ShapeRun
from sensitivity.spec.overrides import RunOptions, override_settings
from sensitivity.spec.study_spec import StudySpec


def with_options(spec: StudySpec, options: RunOptions) -> StudySpec:
    """The study with the options of a run.

    Raises:
        UserError: an option has a value, or sets an argument, that the pipeline does not take.
    """
    name, call = ModelIndex.of(spec).pipeline_call()
    return override_settings(spec, options, call, name)


def run_shapes(
    spec: StudySpec, *, component: str | None = None, batch_size: int | None = None
) -> ShapeRun:
    """Run the study's pipeline without weights.

    Args:
        spec: the study.
        component: the one whose Linears the table has; all of `model.denoisers` by default.
        batch_size: pictures in the run; `pricing.batch_size` by default.

    Raises:
        PipelineError: there are no config files or no such component, or the pipeline refuses the
            settings.
        SpecError: a setting is no argument of the pipeline, or has a value that it cannot have.
        ConfigMismatchError: components' configs seem to contradict each other.
        MeasurementError: the pipeline cannot be run without weights; the message says how far it
            got.
    """
    batch = batch_size or spec.pricing.batch_size
    pipe = build_skeleton(spec)
    modules = {key: part for key, part in pipe.components.items() if isinstance(part, nn.Module)}
    names = spec.model.denoisers if component is None else (component,)
    for name in names:
        if name not in modules:
            raise unknown_component(spec, type(pipe).__name__, name, list(modules))
    studied = {name: modules[name] for name in names}
    arguments = call_arguments(spec, pipe, batch)
    with quiet(), torch.no_grad(), record_linears(joined(studied)) as recorder, ShapeMode() as mode:
        calls = ComponentCalls(mode, recorder, studied)
        for key, part in modules.items():
            _write_no_text(pipe, part)
            calls.watch(key, part)
        with explain_failures(spec, pipe, calls), asked_sizes(pipe) as asked:
            out = pipe(**arguments)
    table = recorder.table(
        model=spec.name,
        batch_size=batch,
        settings=effective_settings(spec, pipe, asked, out) | _routing(mode, studied),
    )
    counts = RunCounts(components=tuple(calls.counts(key, part) for key, part in modules.items()))
    return ShapeRun(
        table=replace(table, run=counts),
        calls=_denoiser_calls(calls, studied),
        repeated_blocks=_repeated_blocks(studied),
        other_denoisers=_other_denoisers(spec, modules, studied),
        text_encoders=tuple(key for key, only_text in calls.text_only.items() if only_text),
        coders=tuple(key for key, part in modules.items() if hasattr(part, "decode")),
        other_weights=tuple(
            weight for part in studied.values() for weight in weights_besides(part)
        ),
        weight_values=sum(map(values_of, studied.values())),
        pipeline_class=type(pipe).__name__,
        classes={name: type(part).__name__ for name, part in studied.items()},
    )


def _write_no_text(pipe: Any, part: nn.Module) -> None:
    """Let a component that generates text give a prompt of the declared length at once.

    Some pipelines have their prompts rewritten. Without weights a language model writes nothing,
    and its time is not counted.
    """
    if callable(getattr(type(part), "generate", None)):
        from sensitivity.models.stand_in_tokenizer import generated_ids

        def rewritten(original: Any, *args: Any, **kwargs: Any) -> Any:
            if (counts := counts_of(pipe)) is not None:
                counts.forget()
            return generated_ids(original, *args, **kwargs)

        intercept(part, "generate", rewritten)


def _routing(mode: ShapeMode, studied: Mapping[str, nn.Module]) -> dict[str, object]:
    """How tokens were spread among the experts of the studied components, where there are some.

    Which expert gets a token only weights decide; training aims at a balance.
    """
    choices = sorted({choice for name in studied for choice in mode.routing.get(name, ())})
    texts = [f"top {k} of {n}" for k, n in choices if k < n]
    return {"routing": f"{', '.join(texts)}, each taken equally often"} if texts else {}


def _denoiser_calls(
    calls: ComponentCalls, studied: Mapping[str, nn.Module]
) -> tuple[DenoiserCall, ...]:
    return tuple(
        DenoiserCall(
            args=seen.args, kwargs=seen.kwargs, calls=seen.calls, component=seen.forward_of
        )
        for seen in calls.seen
        if seen.forward_of is not None and seen.forward_of in studied
    )


def _repeated_blocks(studied: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """Class names of repeated blocks, as diffusers declares them for `compile_repeated_blocks`."""
    declared = (getattr(part, "_repeated_blocks", None) or () for part in studied.values())
    return tuple(dict.fromkeys(name for names in declared for name in names))


def _other_denoisers(
    spec: StudySpec, modules: Mapping[str, nn.Module], studied: Mapping[str, nn.Module]
) -> tuple[str, ...]:
    """Components of the denoiser's class that are not studied; none if no denoiser is."""
    kind = type(modules.get(spec.model.component))
    if kind not in {type(part) for part in studied.values()}:
        return ()
    return tuple(key for key, part in modules.items() if type(part) is kind and key not in studied)
