"""Score a recipe again on the held-out prompts: `verify_recipe`.

    score = verify_recipe(load_recipe("recipe.json"), resolve_spec("tiny-flux"), device="cpu")
    score.mean, score.ci95
    found = verify_and_time(recipe, spec, device="cuda")     # and what a run takes there
    found.times, found.untimed

The recipe's formats run by the kernels that the device has, else by emulation
(`verification_execution`); the score is about quality and never about time. References come from
the cache; the recipe's pictures are generated anew.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.devices import check_device
from sensitivity.core.format_name import QUANTIZED_FORMATS
from sensitivity.core.words import first_line
from sensitivity.fidelity.references import default_cache_folder
from sensitivity.fidelity.score import Score
from sensitivity.formats.execution import Execution
from sensitivity.formats.native_formats import default_arithmetic
from sensitivity.formats.served import format_in
from sensitivity.latency.runtimes import get_runtime, runnable
from sensitivity.recipes.recipe import Recipe
from sensitivity.shapes.deriving import derive_study
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.end_timing import EndTimes
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
) -> Score:
    """Apply a recipe to the study's model and score it on the held-out prompts.

    Args:
        recipe: the recipe.
        spec: the study.
        device: where torch runs.
        arithmetic: the runtime whose quantized numbers are computed; None is that of the kernels
            that are installed.
        emulate: whether formats are emulated that the device has natively.

    Raises:
        RecipeMismatchError: the recipe is for another component or other Linears.
        FormatError: a format's numbers are not known in that arithmetic.
        UserError: and its kinds, for a device or a model that cannot be used.
    """
    check_device(device)
    execution = verification_execution(
        recipe, device=device, arithmetic=arithmetic, emulate=emulate
    )
    return _scored(recipe, spec, execution, device)[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class Verification:
    """What a verification found.

    Attributes:
        score: on the held-out prompts.
        execution: what drew its pictures.
        times: what the recipe and the lists beside it took end to end; None if they were not timed.
        untimed: why they were not; "" if they were.
    """

    score: Score
    execution: Execution
    times: EndTimes | None = None
    untimed: str = ""


def verify_and_time(
    recipe: Recipe,
    spec: StudySpec,
    *,
    device: str,
    arithmetic: Arithmetic | None = None,
    emulate: bool = False,
    timed: bool = True,
    runtime: str | None = None,
    say: Say = silent,
    scored: Callable[[Verification], None] = lambda _found: None,
) -> Verification:
    """Score a recipe as `verify_recipe` does, then time it where the device has its formats.

    A failure of the timing, or an interruption, leaves the score.

    Args:
        recipe, spec, device, arithmetic, emulate: see `verify_recipe`.
        timed: False leaves the timing out.
        runtime: the way of running that is timed; None is the recipe's own.
        say: called with each step of the timing.
        scored: called with the score, before the timing.

    Raises as `verify_recipe`, and UserError for a runtime that torchao does not run.
    """
    check_device(device)
    way = None if runtime is None else runnable(get_runtime(runtime))
    execution = verification_execution(
        recipe, device=device, arithmetic=arithmetic, emulate=emulate
    )
    spec = derive_study(spec)
    score, pipeline = _scored(recipe, spec, execution, device)
    found = Verification(score=score, execution=execution)
    scored(found)
    if not timed:
        return replace(found, untimed="it was not asked for")
    if (why := why_not_timed(recipe, spec, device=device)) is not None:
        return replace(found, untimed=why)
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


def _scored(
    recipe: Recipe, spec: StudySpec, execution: Execution, device: str
) -> tuple[Score, CheckedPipeline]:
    """The score, and the pipeline with plain Linears."""
    spec = derive_study(spec)
    pipeline = load_checked(spec, device=device)
    recipe.apply(
        pipeline.loaded.pipe, emulate=True, allow_random_weights=spec.model.weights == "random"
    )
    evaluator = pipeline.evaluator(
        cache_folder=default_cache_folder(),
        arithmetic=execution.arithmetic,
        emulate=execution.emulate,
        formats=execution.formats,
    )
    try:
        return evaluator.score(recipe.layers, "held_out"), pipeline
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
