"""What do the winner of a search and the lists beside it really take? Timed end to end, at the end.

A search by measured latency ranks skip-lists by sums of shapes. At its end the winner, nothing,
everything, the rule of thumb and the published lists are run as a whole, in turns
(`latency.timing.interleaved`), and the recipe states what came out, with the sum of shapes beside
it.

    timed = time_lists(loaded, run, lists, how)
    recipe = with_timing(recipe, timed, chosen="trial 44", estimate=estimate)

With pretrained weights a run is the whole pipeline call; with random weights it is the denoisers'
calls of the run, if they are known.

What it does not do: choose. A winner stays the winner, whatever its run takes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import quantized
from sensitivity.latency import LatencyEstimate, LatencyModel
from sensitivity.latency.beside_shapes import beside_shapes
from sensitivity.latency.runtimes import Runtime
from sensitivity.latency.timing.interleaved import BF16
from sensitivity.latency.timing.timed_lists import Conditions, TimedList
from sensitivity.models.loading import LoadedPipeline
from sensitivity.recipes.parts import timing_record
from sensitivity.recipes.recipe import Recipe
from sensitivity.recipes.records import Latency
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.shapes.table import ShapeTable
from sensitivity.workflows.measure import (
    WHOLE_CALL,
    Lists,
    denoiser_calls,
    time_denoisers,
    time_pipeline,
    warmups_of,
)
from sensitivity.workflows.measured_runs import MeasuredRun
from sensitivity.workflows.progress import Say

ROUNDS = 7
MOST_S = 240.0
"""About the most seconds that the rounds at the end of a search take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EndTimes:
    """Lists that were timed end to end.

    Attributes:
        runs: one for each list, bf16 ("none") first.
        covers: what was run, in words.
        whole: whether that was the whole pipeline call.
        runtime: the name of the way of running.
        device: the GPU's name.
        shapes: {name: sum of shapes of the list, for the part of a run that was timed}.
    """

    runs: tuple[MeasuredRun, ...]
    covers: str
    whole: bool
    runtime: str
    device: str
    shapes: Mapping[str, LatencyEstimate] = field(default_factory=dict)

    def find(self, name: str) -> MeasuredRun:
        """The run of a list."""
        return next(run for run in self.runs if run.name == name)

    def difference(self, name: str) -> str:
        """How its run and its sum of shapes differ, and why; "" where they agree."""
        run, estimate = self.find(name), self.shapes.get(name)
        return "" if estimate is None or run.failure else beside_shapes(run.timed, estimate)

    def to_json(self) -> dict[str, Any]:
        """Every run with its raw repetitions."""
        return {
            "source": "measured",
            "device": self.device,
            "runtime": self.runtime,
            "covers": self.covers,
            "runs": [
                run.to_json()
                | ({"shapes": shape_sum(self.shapes[run.name])} if run.name in self.shapes else {})
                for run in self.runs
            ],
        }


def conditions_of(
    loaded: LoadedPipeline, runtime: Runtime, *, say: Say, **changes: Any
) -> Conditions:
    """How lists are timed at the end: `ROUNDS` rounds within `MOST_S` seconds, where the pipeline
    is. `changes` replace or add fields.
    """
    known: dict[str, Any] = {
        "runtime": runtime,
        "device": loaded.device,
        "rounds": ROUNDS,
        "most_s": MOST_S,
        "say": say,
    }
    return Conditions(**(known | changes))


def time_lists(
    loaded: LoadedPipeline, run: ShapeRun | None, lists: Lists, how: Conditions
) -> EndTimes:
    """Time lists of a loaded pipeline in turns.

    Args:
        loaded: the pipeline, with plain bf16 Linears. All of it stays on the device from now on.
        run: its run without weights; None if it does not run so.
        lists: what is timed, beside bf16.
        how: the conditions.

    Raises:
        MeasurementError: bf16 failed, or ran out of memory.
    """
    spec = loaded.spec
    if run is not None:
        how = replace(how, activation_bytes=_activation_bytes(run.table))
    whole = run is None or spec.model.weights != "random"
    if run is not None and not whole:
        found = time_denoisers(lambda name: loaded.denoisers[name], spec, run, lists, how)
    else:
        loaded.keep_resident()
        warmups = how.warmups if run is None else warmups_of(run)
        found = time_pipeline(loaded, lists, replace(how, warmups=warmups))
    return EndTimes(
        runs=tuple(
            MeasuredRun(formats=quantized(lists.get(name, {})), timed=timed)
            for name, timed in found.items()
        ),
        covers=WHOLE_CALL if run is None or whole else denoiser_calls(run),
        whole=whole,
        runtime=how.runtime.name,
        device=describe_environment(how.device)["device"],
    )


def _activation_bytes(table: ShapeTable) -> int:
    counts = () if table.run is None else table.run.components
    return max((component.peak_activation_bytes for component in counts), default=0)


def with_shapes(
    times: EndTimes, latency: LatencyModel, table: ShapeTable, lists: Lists
) -> EndTimes:
    """The same with each list's sum of shapes beside it.

    Args:
        times: the lists, timed.
        latency: what prices shapes.
        table: the shapes of a run.
        lists: {name: formats of all Linears}.
    """
    others_s = 0.0 if times.whole else latency.others_s(table)
    every: Lists = {BF16: {}, **lists}
    shapes = {
        name: _without(latency.estimate(table, formats), others_s)
        for name, formats in every.items()
    }
    return replace(times, shapes=shapes)


def _without(estimate: LatencyEstimate, others_s: float) -> LatencyEstimate:
    """The estimate without the seconds of other components."""
    return replace(
        estimate,
        bf16_s=estimate.bf16_s - others_s,
        quantized_s=estimate.quantized_s - others_s,
    )


def with_timing(recipe: Recipe, times: EndTimes, *, chosen: str) -> Recipe:
    """The recipe with what was measured end to end.

    If its list ran, `latency` becomes that, with the sum of shapes beside it and a note on where
    both differ; where the denoisers' calls alone were timed, with that of the whole run too. Where
    the whole call was run, `memory` has its measured peaks. Otherwise `latency` stays, and its note
    says why. `timings` has all lists.

    Args:
        recipe: the winner's.
        times: the lists, timed.
        chosen: the name of the winner among them.
    """
    run = times.find(chosen)
    data = recipe.model_dump(mode="json")
    data["timings"] = [timing_record(each.timed, times.covers) for each in times.runs]
    if run.failure:
        return untimed(Recipe.from_mapping(data), run.failure)
    whole_run = None if times.whole else whole_run_of(recipe.latency)
    data["latency"] |= _measured(run.timed, times, chosen) | {"whole_run": whole_run}
    data["memory"] |= _measured_peaks(times, chosen)
    return Recipe.from_mapping(data)


def _measured(timed: TimedList, times: EndTimes, chosen: str) -> dict[str, Any]:
    """The fields of `latency` that a run decides."""
    interval = timed.ratio.interval90
    estimate = times.shapes.get(chosen)
    return {
        "bf16_s": timed.bf16_s,
        "quantized_s": timed.seconds,
        "speedup": timed.bf16_s / timed.seconds,
        "source": "measured",
        "runtime": times.runtime,
        "covers": f"{times.covers}, measured end to end on {times.device}",
        "speedup_interval90": None if interval is None else list(interval),
        "shapes": None if estimate is None else shape_sum(estimate),
        "note": times.difference(chosen),
    }


def _measured_peaks(times: EndTimes, chosen: str) -> dict[str, Any]:
    """The fields of `memory` that a run decides; {} where not the whole call was run, or where no
    peak is measured, as on a CPU.
    """
    peak, bf16 = (times.find(name).peak_bytes for name in (chosen, BF16))
    if not (times.whole and peak and bf16):
        return {}
    return {"peak_bytes": peak, "bf16_peak_bytes": bf16, "peak_source": "measured"}


def shape_sum(estimate: LatencyEstimate) -> dict[str, Any]:
    """A sum of shapes as a recipe states it."""
    return {
        "bf16_s": estimate.bf16_s,
        "quantized_s": estimate.quantized_s,
        "speedup": estimate.speedup,
        "source": estimate.source,
    }


def whole_run_of(priced: Latency) -> dict[str, Any]:
    """A recipe's sum of shapes, before anything was timed, as `Latency.whole_run`."""
    return priced.model_dump(include={"bf16_s", "quantized_s", "speedup", "source"})


def untimed(recipe: Recipe, why: str) -> Recipe:
    """The recipe with a note that its seconds are the sum of shapes, and why."""
    data = recipe.model_dump(mode="json")
    note = f"The seconds are the sum of shapes; the run was not timed end to end: {why}"
    data["latency"]["note"] = " ".join(text for text in (data["latency"]["note"], note) if text)
    return Recipe.from_mapping(data)
