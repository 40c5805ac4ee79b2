"""Score a recipe again on the held-out prompts: `verify_recipe`.

    score = verify_recipe(load_recipe("recipe.json"), resolve_spec("tiny-flux"), device="cpu")
    score.typical, score.mean
    found = verify_and_time(recipe, spec, device="cuda")     # and what a run takes there
    found.said.typical, found.said.mean, found.said.flips
    found.times, found.untimed

The recipe's formats run by the kernels that the device has, else by emulation
(`verification_execution`); the score is about quality and never about time. References come from
the cache; the recipe's pictures are generated anew. The score is summarized as the recipe's own
was: by its curve from typical to mean, and by its rule for flips.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.devices import check_device
from sensitivity.core.format_name import QUANTIZED_FORMATS
from sensitivity.core.words import first_line
from sensitivity.fidelity.flips import FlipRule
from sensitivity.fidelity.judges.wishes import JudgeWishes
from sensitivity.fidelity.mean_curve import MeanCurve
from sensitivity.fidelity.references import default_cache_folder
from sensitivity.fidelity.score import Score
from sensitivity.fidelity.summary import ScoreSummary, SummaryRules
from sensitivity.formats.execution import Execution
from sensitivity.formats.native_formats import default_arithmetic
from sensitivity.formats.served import format_in
from sensitivity.latency.runtimes import Runtime, get_runtime, runnable
from sensitivity.recipes.recipe import Recipe
from sensitivity.recipes.without_policy import without_step_policy
from sensitivity.search.front import Constraints, check_constraints
from sensitivity.search.store import assignment_key
from sensitivity.search.winner import broken_bounds
from sensitivity.shapes.deriving import derive_study
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.comparing import Compared, check_objective, compare_by
from sensitivity.workflows.end_timing import EndTimes
from sensitivity.workflows.picture_keeper import keeping_pictures
from sensitivity.workflows.prepare import CheckedPipeline, load_checked
from sensitivity.workflows.progress import Say, silent
from sensitivity.workflows.recipe_times import RECIPE, time_recipe, why_not_timed


def verify_recipe(
    recipe: Recipe,
    spec: StudySpec,
    *,
    device: str,
    arithmetic: Arithmetic | None = None,
    emulate: bool = False,
    wishes: JudgeWishes | None = None,
    objective: str | None = None,
) -> Score:
    """Apply a recipe to the study's model and score it on the held-out prompts.

    Args:
        recipe: the recipe.
        spec: the study.
        device: where torch runs.
        arithmetic: the runtime whose quantized numbers are computed; None is that of the kernels
            that are installed.
        emulate: whether formats are emulated that the device has natively.
        wishes: what is asked of judges; None: those look that are installed.
        objective: what takes the place of LPIPS, as "module:function"; the recipe's own, or None.

    Raises:
        RecipeMismatchError: the recipe is for another component or other Linears.
        FormatError: a format's numbers are not known in that arithmetic.
        UserError: and its kinds, for a device or a model that cannot be used.
    """
    check_device(device)
    execution = verification_execution(
        recipe, device=device, arithmetic=arithmetic, emulate=emulate
    )
    compared = _compared_by(recipe, derive_study(spec), device, wishes, objective)
    return _scored(recipe, spec, execution, device, compared)[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What a verification found.

    Attributes:
        score: on the held-out prompts.
        rules: how it is summarized.
        broken: {field of `Constraints`: what the score has} of the bounds that it breaks.
        displeased: judges whose bound it breaks, and what they say, in words.
        execution: what drew its pictures.
        times: what the recipe and the lists beside it took end to end; None if they were not timed.
        untimed: why they were not; "" if they were.
    """

    score: Score
    rules: SummaryRules
    execution: Execution
    broken: Mapping[str, float] = field(default_factory=dict)
    displeased: tuple[str, ...] = ()
    times: EndTimes | None = None
    untimed: str = ""

    @property
    def said(self) -> ScoreSummary:
        """Typical and mean LPIPS with intervals, and flips."""
        return self.rules.summarize(self.score)


def summary_rules(recipe: Recipe) -> SummaryRules:
    """How the scores of a recipe's study are summarized: by its own curve and rule for flips.

    A recipe of an earlier version has neither: then they are those of a study without trials.
    """
    lpips = None if recipe.fidelity is None else recipe.fidelity.lpips
    rules = SummaryRules.of([], another_seed=None)
    if lpips is None or lpips.curve is None or lpips.flips is None:
        return rules
    stated, flips = lpips.curve, lpips.flips
    curve = MeanCurve(
        at=stated.at, log_ratio=stated.log_ratio, slope=stated.slope, error=stated.error
    )
    rule = FlipRule(threshold=flips.threshold, another_seed=flips.another_seed)
    return SummaryRules(curve=curve, damage_curve=curve, flip_rule=rule)


def verify_and_time(
    recipe: Recipe,
    spec: StudySpec,
    *,
    device: str,
    arithmetic: Arithmetic | None = None,
    emulate: bool = False,
    constraints: Constraints | None = None,
    judges: tuple[str, ...] = (),
    objective: str | None = None,
    timed: bool = True,
    runtime: str | None = None,
    pictures: Path | None = None,
    keep_pictures: int = 0,
    say: Say = silent,
    scored: Callable[[Verification], None] = lambda _found: None,
) -> Verification:
    """Score a recipe as `verify_recipe` does, then time it where the device has its formats.

    A failure of the timing, or an interruption, leaves the score.

    Args:
        recipe, spec, device, arithmetic, emulate, objective: see `verify_recipe`.
        constraints: bounds on LPIPS, flips and judges; `Verification` has what breaks them.
        judges: judges that must look, as `JudgeWishes.asked`.
        timed: False leaves the timing out.
        runtime: the way of running that is timed; None is the recipe's own.
        pictures: the folder where pictures for a report are kept (`picture_files`).
        keep_pictures: of how many prompts; 0 keeps none.
        say: called with each step of the timing.
        scored: called with the score, before the timing.

    Raises as `verify_recipe`, and UserError for a runtime that torchao does not run.
    """
    check_device(device)
    bounds = constraints or Constraints()
    check_constraints(bounds)
    way = None if runtime is None else runnable(get_runtime(runtime))
    execution = verification_execution(
        recipe, device=device, arithmetic=arithmetic, emulate=emulate
    )
    spec = derive_study(spec)
    wishes = JudgeWishes(asked=judges, max_judge=bounds.max_judge, min_judge=bounds.min_judge)
    compared = _compared_by(recipe, spec, device, wishes, objective)
    kept = (pictures, keep_pictures) if pictures is not None else None
    score, pipeline = _scored(recipe, spec, execution, device, compared, kept)
    rules = summary_rules(recipe)
    found = Verification(
        score=score,
        rules=rules,
        execution=execution,
        broken=broken_bounds(score, bounds, rules),
        displeased=tuple(bounds.displeased(score.judges)),
    )
    scored(found)
    if not timed:
        return replace(found, untimed="it was not asked for")
    if (why := why_not_timed(recipe, spec, device=device)) is not None:
        return replace(found, untimed=why)
    return _timed(found, recipe, pipeline, way, say)


def _timed(
    found: Verification, recipe: Recipe, pipeline: CheckedPipeline, way: Runtime | None, say: Say
) -> Verification:
    """The same with end-to-end times, or why there are none."""
    try:
        times = time_recipe(
            recipe,
            pipeline.loaded,
            pipeline.run,
            say=say,
            **({} if way is None else {"runtime": way}),
        )
    except KeyboardInterrupt:
        return replace(found, untimed="it was interrupted")
    except Exception as error:  # whatever it is, the score stands
        return replace(found, untimed=first_line(error, most=300))
    return replace(found, times=times, untimed=times.find(RECIPE).failure)


def _compared_by(
    recipe: Recipe,
    spec: StudySpec,
    device: str,
    wishes: JudgeWishes | None,
    objective: str | None,
) -> Compared:
    """By what the recipe's pictures are compared. Raises UserError as `verify_recipe`."""
    check_objective(recipe, objective)
    return compare_by(spec, device=device, wishes=wishes, objective=objective)


def _scored(
    recipe: Recipe,
    spec: StudySpec,
    execution: Execution,
    device: str,
    compared: Compared,
    kept: tuple[Path, int] | None = None,
) -> tuple[Score, CheckedPipeline]:
    """The score, and the pipeline with plain Linears.

    `kept` is where pictures are kept, and of how many prompts.
    """
    spec = derive_study(spec)
    pipeline = load_checked(spec, compared, device=device)
    without_step_policy(recipe).apply(  # the evaluator runs the policy
        pipeline.loaded.pipe, emulate=True, allow_random_weights=spec.model.weights == "random"
    )
    evaluator = pipeline.evaluator(
        cache_folder=default_cache_folder(),
        arithmetic=execution.arithmetic,
        emulate=execution.emulate,
        formats=execution.formats,
    )
    try:
        if kept is None:
            return evaluator.score(recipe.assignment, "held_out"), pipeline
        with keeping_pictures(evaluator, kept[0], most=kept[1]) as keeper:
            score = evaluator.score(recipe.assignment, "held_out")
            key, trial = assignment_key(recipe.assignment), recipe.search.trial
            name = f"trial {trial}" if trial else recipe.name
            keeper.finish({key: name}, chosen=key)
        return score, pipeline
    finally:
        evaluator.close()


def verification_execution(
    recipe: Recipe,
    *,
    device: str,
    arithmetic: Arithmetic | None = None,
    emulate: bool = False,
) -> Execution:
    """By which kernels, and in whose arithmetic, `verify_recipe` draws a recipe's pictures.

    Raises:
        FormatError: a format's numbers are not known in that arithmetic.
    """
    formats = tuple(name for name in QUANTIZED_FORMATS if name in set(recipe.layers.values()))
    own = arithmetic or default_arithmetic(formats, device, emulate=emulate)
    for name in formats:
        format_in(name, own)
    return Execution(device=device, formats=formats, arithmetic=own, emulate=emulate)
