"""Does a recipe keep to the bounds of a gate? `check_recipe`: every bound, each decided by itself.

    gate = Gate(constraints=Constraints(max_lpips=0.15, max_memory_bytes=24 * 10**9))
    found = check_recipe(load_recipe("recipe.json"), spec, gate, Drawing(device="cpu"))
    found.decision, found.criteria[0].found          # Decision.PASSES, "0.0163 [0.0101, 0.0262]"
    found = check_recipe(new, spec, Gate(), Drawing(device="cpu"), against=old)

The prompts of a gate are the held-out prompts of the study, and they are drawn as `verify` draws
them: with the device's kernels, else by emulation, and compared with bf16's pictures, which are
kept in the user's cache folder. A recipe that it is compared with is drawn in the same way, on the
same machine. Nothing is drawn where no bound is on pictures.

Scores are summarized as `verify` does, by the recipe's own curve and rule for flips. A list states
no rule for flips; then another seed is drawn, once, and kept too.

Speedup and peak memory are measured where the GPU has the recipe's formats and `timed` is on. Else
they are predicted for the recipe's target. What a recipe states of its time is not believed.

`criteria` and `picture_criteria` decide, and this module gives them numbers.
"""

import datetime
from dataclasses import dataclass, replace

from sensitivity.core.devices import check_device
from sensitivity.core.environment import describe_environment
from sensitivity.core.format_name import QUANTIZED_FORMATS
from sensitivity.core.words import first_line, printable
from sensitivity.errors import UserError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.flips import FlipRule
from sensitivity.fidelity.judges.wishes import JudgeWishes
from sensitivity.fidelity.references import default_cache_folder
from sensitivity.fidelity.summary import SummaryRules
from sensitivity.formats.execution import Execution
from sensitivity.latency.memory import MISSING_BYTES
from sensitivity.recipes.diff import check_alike
from sensitivity.recipes.recipe import Recipe
from sensitivity.recipes.without_policy import without_step_policy
from sensitivity.shapes.deriving import derive_study
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.comparing import check_objective, compare_by
from sensitivity.workflows.criteria import Criterion, memory_criterion, speed_criterion
from sensitivity.workflows.end_timing import conditions_of, time_lists
from sensitivity.workflows.gate import Checked, Drawing, Drawn, Gate, check_gate
from sensitivity.workflows.measured_runs import MeasuredRun
from sensitivity.workflows.nearest import pricer_for
from sensitivity.workflows.picture_criteria import against_criterion, picture_criteria
from sensitivity.workflows.prepare import CheckedPipeline, load_checked
from sensitivity.workflows.progress import Say, silent
from sensitivity.workflows.recipe_times import RECIPE, runtime_named, why_not_timed
from sensitivity.workflows.verify import summary_rules, verification_execution


def check_recipe(
    recipe: Recipe,
    spec: StudySpec,
    gate: Gate,
    drawing: Drawing,
    *,
    against: Recipe | None = None,
    timed: bool = True,
    say: Say = silent,
) -> Checked:
    """Check a recipe.

    Args:
        recipe: the recipe.
        spec: the study; it is derived where only its model is known.
        gate: the bounds.
        drawing: how pictures are drawn.
        against: a recipe of the same model that it may not be significantly worse than.
        timed: whether a run is timed where the device has the recipe's formats, for a bound on the
            speedup or on memory.
        say: called with each step as it begins.

    Raises:
        RecipeMismatchError: a recipe is for another component or other Linears.
        RecipeError: it is one of random weights, and the study's are not.
        FormatError: a format's numbers are not known in that arithmetic.
        UserError: and its kinds: no bound, one that makes no sense, or a device or a model that
            cannot be used.
    """
    check_gate(gate, compares=against is not None)
    check_device(drawing.device)
    spec = derive_study(spec)
    if against is not None:
        check_alike(recipe, against)
    asked = _Asked(recipe=recipe, against=against, spec=spec, gate=gate, how=drawing, say=say)
    untimed = why_not_timed(recipe, spec, device=drawing.device) if timed else ""
    drawn, of_run = None, list[Criterion]()
    if gate.bounds_run and untimed is not None:
        of_run = _priced(asked, untimed)
    times = gate.bounds_run and untimed is None
    if times or asked.draws:
        pipeline = _load(asked)
        drawn = _draw(asked, pipeline) if asked.draws else None
        of_run = _timed(asked, pipeline) if times else of_run
    return Checked(
        recipe=recipe,
        model=spec.name,
        gate=gate,
        criteria=(*_of_pictures(drawn, asked), *of_run),
        drawn=drawn,
        against=against,
        environment=describe_environment(drawing.device),
        date=datetime.datetime.now(datetime.UTC).date().isoformat(),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class _Asked:
    """The arguments of `check_recipe`."""

    recipe: Recipe
    against: Recipe | None
    spec: StudySpec
    gate: Gate
    how: Drawing
    say: Say

    @property
    def draws(self) -> bool:
        """Whether pictures are asked for."""
        return self.gate.bounds_pictures or self.against is not None


def _load(asked: _Asked) -> CheckedPipeline:
    """The pipeline, which the recipe fits, with plain Linears. Raises as `check_recipe`."""
    bounds, how, spec = asked.gate.constraints, asked.how, asked.spec
    wishes = JudgeWishes(asked=how.judges, max_judge=bounds.max_judge, min_judge=bounds.min_judge)
    for recipe in (asked.recipe, asked.against):
        if recipe is not None:
            check_objective(recipe, how.objective)
            recipe.check_weights(allow_random=spec.model.weights == "random")
    compared = compare_by(spec, device=how.device, wishes=wishes, objective=how.objective)
    pipeline = load_checked(spec, compared, device=how.device, say=asked.say)
    without_step_policy(asked.recipe).apply(  # the evaluator runs the policy
        pipeline.loaded.pipe, emulate=True, allow_random_weights=spec.model.weights == "random"
    )
    return pipeline


def _of_pictures(drawn: Drawn | None, asked: _Asked) -> tuple[Criterion, ...]:
    """The criteria that pictures decide."""
    if drawn is None:
        return ()
    found = picture_criteria(drawn.score, drawn.rules, asked.gate.constraints)
    if drawn.other is None or asked.against is None:
        return found
    name = printable(asked.against.name)
    return (*found, against_criterion(drawn.score, drawn.other, name))


def _draw(asked: _Asked, pipeline: CheckedPipeline) -> Drawn:
    """Draw the recipe's pictures, and those of the other one, and compare them with bf16's."""
    recipe, against, execution = asked.recipe, asked.against, _execution(asked)
    evaluator = pipeline.evaluator(
        cache_folder=default_cache_folder(),
        arithmetic=execution.arithmetic,
        emulate=execution.emulate,
        formats=execution.formats,
    )
    try:
        asked.say(f"drawing {len(evaluator.prompts('held_out')[0])} prompts")
        score, other = evaluator.score(recipe.assignment, "held_out"), None
        if against is not None:
            is_same = recipe.assignment == against.assignment
            other = score if is_same else evaluator.score(against.assignment, "held_out")
        return Drawn(
            score=score,
            other=other,
            rules=_rules(asked, evaluator),
            execution=execution,
            weights_sha256=pipeline.loaded.weights_hash,
        )
    finally:
        evaluator.close()


def _execution(asked: _Asked) -> Execution:
    """By which kernels both recipes are drawn. Raises FormatError as `verification_execution`."""
    how, both = asked.how, [one for one in (asked.recipe, asked.against) if one is not None]
    first, *_ = (
        verification_execution(
            one, device=how.device, arithmetic=how.arithmetic, emulate=how.emulate
        )
        for one in both
    )
    used = {name for one in both for name in one.layers.values()}
    return replace(first, formats=tuple(name for name in QUANTIZED_FORMATS if name in used))


def _rules(asked: _Asked, evaluator: Evaluator) -> SummaryRules:
    """How scores are summarized: by the recipe's own curve and flips, where it states them."""
    recipe, rules = asked.recipe, summary_rules(asked.recipe)
    states = recipe.fidelity is not None and recipe.fidelity.lpips.flips is not None
    if states or asked.gate.constraints.max_flips is None:
        return rules
    return replace(rules, flip_rule=FlipRule.of_another_seed(evaluator.another_seed()))


def _priced(asked: _Asked, untimed: str) -> list[Criterion]:
    """Speedup and memory as the price model has them for the recipe's target.

    `untimed` says why they are not measured; "" where that was not asked for.
    """
    recipe, spec, gate = asked.recipe, asked.spec, asked.gate
    asked.say(f"pricing {spec.name}")
    estimate = pricer_for(recipe, spec).price(recipe.name, recipe.assignment).estimate
    source = f"predicted for {estimate.target}, batch {estimate.batch_size}"
    source += f" ({untimed})" if untimed else ""
    found = []
    if (least := gate.constraints.min_speedup) is not None:
        found.append(speed_criterion(estimate.speedup, estimate.interval90, least, source))
    if (most := gate.constraints.max_memory_bytes) is not None:
        peak = None if estimate.memory is None else estimate.memory.quantized_peak_bytes
        if peak is None:
            raise UserError(
                f"the peak memory of {spec.name} is not known, since its run was not counted;"
                " expected a pipeline that runs without weights: leave `max_memory_bytes` out"
            )
        found.append(memory_criterion(peak, MISSING_BYTES, most, source))
    return found


def _timed(asked: _Asked, pipeline: CheckedPipeline) -> list[Criterion]:
    """Speedup and memory of runs that are timed here; predicted ones where that fails."""
    try:
        how = conditions_of(pipeline.loaded, runtime_named(asked.recipe), say=asked.say)
        lists = {RECIPE: dict(asked.recipe.layers)}
        times = time_lists(pipeline.loaded, pipeline.run, lists, how)
    except Exception as error:  # whatever it is, the pictures stand
        return _priced(asked, f"timing failed: {first_line(error, most=300)}")
    run = times.find(RECIPE)
    if run.failure:
        return _priced(asked, f"timing failed: {run.failure}")
    return _of_run(run, f"measured on {times.device}, {times.covers}", asked.gate)


def _of_run(run: MeasuredRun, source: str, gate: Gate) -> list[Criterion]:
    """The criteria that a timed run decides."""
    found = []
    if (least := gate.constraints.min_speedup) is not None:
        found.append(speed_criterion(run.ratio.value, run.ratio.interval90, least, source))
    if (most := gate.constraints.max_memory_bytes) is not None:
        found.append(memory_criterion(run.peak_bytes, 0, most, source))
    return found
