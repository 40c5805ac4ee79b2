"""What does a search measure before its first trial? Layer sensitivities, and parts of a run.

    errors, steps = measure_priors(evaluator, candidates, store, settings, events)

Both guide the proposals of the knapsack and nothing else: which groups do most damage
(`calibration.stored`), and, where step policies are searched, in which part of a run damage is done
(`calibration.by_step`). What cannot be measured is said, and the search goes on without it.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TypeVar

from sensitivity.core.words import and_more
from sensitivity.errors import CalibrationError, FormatError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.search.attempts import RunError, attempt, counting_deaths, of_the_caller
from sensitivity.search.calibration.by_step import calibrate_steps, step_cost
from sensitivity.search.calibration.jobs import Errors, broken_options
from sensitivity.search.calibration.stored import calibrate, calibration_cost
from sensitivity.search.candidates import Candidates
from sensitivity.search.proposers import SamplerName
from sensitivity.search.settings import SearchSettings
from sensitivity.search.step_table import StepTable
from sensitivity.search.store import Store
from sensitivity.search.trials import SearchEvents

T = TypeVar("T")


def measures_priors(settings: SearchSettings) -> bool:
    """Whether anything is measured: a search may do without, and other proposers use nothing."""
    return settings.calibrated and settings.sampler == SamplerName.KNAPSACK


def prior_pictures(evaluator: Evaluator, candidates: Candidates, store: Store) -> float:
    """What measuring still takes, in pictures of a trial."""
    prompts = len(evaluator.prompts("search")[0])
    cost = calibration_cost(evaluator, candidates, store)
    steps = step_cost(evaluator, candidates, store)
    return cost.trials * prompts + (steps / (candidates.steps or 1))


def measure_priors(
    evaluator: Evaluator,
    candidates: Candidates,
    store: Store,
    settings: SearchSettings,
    events: SearchEvents,
) -> tuple[Errors | None, StepTable | None]:
    """(layer sensitivities, what is done in which part of a run); None for what is not known."""
    if not measures_priors(settings):
        return None, None
    errors = _calibrated(evaluator, candidates, store, events)
    return errors, _by_step(evaluator, candidates, store, events)


def _calibrated(
    evaluator: Evaluator, candidates: Candidates, store: Store, events: SearchEvents
) -> Errors | None:
    """Layer sensitivities. None where this denoiser cannot be calibrated: the search then goes on
    without them, and an event says so. A process that ends in it is counted as long as nothing more
    is known than when it began; where others share the work, a begun calibration is no sign of it.
    """
    cost = calibration_cost(evaluator, candidates, store)
    events.calibrating(cost.describe())
    if cost.known == cost.jobs:
        return calibrate(evaluator, candidates, store)
    progress, after = of_the_caller(events.calibrated), f"calibration after {cost.numbers} numbers"
    what = "layer sensitivities"
    noted = _noting(what, events)
    return _measured(
        lambda: calibrate(evaluator, candidates, store, progress=progress, noted=noted),
        _counting(evaluator, store, after, noted),
        evaluator,
        events,
        what=what,
    )


def _by_step(
    evaluator: Evaluator, candidates: Candidates, store: Store, events: SearchEvents
) -> StepTable | None:
    """What is done in which part of a run; None where no step policy is searched, or where it
    cannot be measured: each step then counts like any other.
    """
    cost = step_cost(evaluator, candidates, store)
    if not cost:
        return calibrate_steps(evaluator, candidates, store)
    trial = (candidates.steps or 1) * len(evaluator.prompts("search")[0])
    events.calibrating(
        f"damage by denoising step: costs {cost / trial:.2g} trial equivalents ({cost:,} steps x"
        " pictures)"
    )
    what = "damage by denoising step"
    progress, noted = of_the_caller(events.calibrated), _noting(what, events)
    return _measured(
        lambda: calibrate_steps(evaluator, candidates, store, progress=progress, noted=noted),
        _counting(evaluator, store, f"calibration by step, {cost} to do", noted),
        evaluator,
        events,
        what=what,
    )


def _noting(what: str, events: SearchEvents) -> Callable[[str], None]:
    return lambda text: events.noted(f"measuring {what}: {text}")


def _counting(
    evaluator: Evaluator, store: Store, after: str, noted: Callable[[str], None]
) -> AbstractContextManager[None]:
    """Inside, a process that ends is counted, unless others share the work."""
    if store.is_shared:
        return nullcontext()
    return counting_deaths(store, evaluator.evaluation_key("search"), after, noted)


def _measured(
    measure: Callable[[], T],
    counting: AbstractContextManager[None],
    evaluator: Evaluator,
    events: SearchEvents,
    *,
    what: str,
) -> T | None:
    """What is measured; None, and a note, where this denoiser cannot be."""
    try:
        with counting:
            return attempt(measure, evaluator, noted=_noting(what, events))
    except (CalibrationError, RunError) as error:
        evaluator.recover()
        reason = str(error).partition("; ")[0]
        events.noted(f"the search goes on without {what}: {reason}")
        return None


def without_broken(candidates: Candidates, errors: Errors, events: SearchEvents) -> Candidates:
    """The candidates without the options that give NaN or inf on the recorded states already.

    Raises FormatError where no option is left.
    """
    broken = sorted(broken_options(errors))
    if not broken:
        return candidates
    names = [f"{candidates.groups[g].name} in {candidates.formats[o]}" for g, o in broken]
    what = (
        f"{and_more(names, most=5)}: NaN or inf, as torchao's kernels give for operands that are"
        " all zeros"
    )
    if len(broken) == len(errors):
        raise FormatError(
            f"{what}; expected a format in which some group stays finite: choose another `format`"
        )
    events.noted(f"left out of the search: {what}")
    return candidates.without(broken)
