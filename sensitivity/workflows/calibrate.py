"""The job of `sensitivity calibrate` as one library call: study in, layer sensitivities out, each
measured once and kept.

    done = calibrate_study(resolve_spec("tiny-flux"), CalibrationRequest(formats=(FormatName.NVFP4,)))
    done.rows[0].group, done.rows[0].share

What it measures every later search of the study reads from the same database, whatever its budget,
constraints or target.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sensitivity.core.format_name import QUANTIZED_FORMATS, FormatName, Granularity
from sensitivity.core.fqns import by_component
from sensitivity.errors import FormatError, UserError
from sensitivity.fidelity.evaluator import default_cache_folder
from sensitivity.latency.pricer import latency_model
from sensitivity.search.calibration import CalibrationCost
from sensitivity.search.calibration.jobs import EstimatorName
from sensitivity.search.calibration.ranking import Sensitivity, rank
from sensitivity.search.calibration.stored import (
    DEFAULT_ESTIMATOR,
    DEFAULT_PROMPTS,
    DEFAULT_STATES,
    calibrate,
    calibration_cost,
    get_estimator,
)
from sensitivity.search.store import Store, default_storage
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.find import Prepared, prepare
from sensitivity.workflows.requests import SearchRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRequest:
    """What the user asks for.

    `formats` None is every format that the target has; `target` None is the study's, `storage` None
    `default_storage`.
    """

    formats: tuple[FormatName, ...] | None = None
    target: str | None = None
    granularity: Granularity = "group"
    estimator: EstimatorName | str = DEFAULT_ESTIMATOR
    states: int = DEFAULT_STATES
    prompts: int = DEFAULT_PROMPTS
    storage: Path | None = None
    device: str = "cpu"
    cache_folder: Path = field(default_factory=default_cache_folder)


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Layer sensitivities of a study.

    `rows` are the worst first; `cost` is what they took in this call, as it was stated before.
    """

    prepared: Prepared
    cost: CalibrationCost
    rows: tuple[Sensitivity, ...]

    def to_json(self) -> dict[str, Any]:
        """As `calibrate --json` writes it."""
        spec, cost = self.prepared.evaluator.spec, self.cost
        return {
            "model": spec.name,
            "estimator": str(cost.estimator),
            "states": cost.states,
            "prompts": cost.prompts,
            "cost": {
                "trial_equivalents": cost.trials,
                "picture_calls": cost.picture_calls,
                "decodes": cost.decodes,
                "known": cost.known,
                "jobs": cost.jobs,
            },
            "latency": {
                "source": self.prepared.latency.source,
                "target": self.prepared.latency.target,
                "stands_for": spec.pricing.stands_for,
            },
            "sensitivities": [row.to_json() for row in self.rows],
            "fixed": dict(self.prepared.candidates.fixed),
            "environment": dict(self.prepared.evaluator.environment),
        }


def calibrate_study(
    spec: StudySpec,
    request: CalibrationRequest,
    *,
    say: Callable[[str], None] = lambda _text: None,
    started: Callable[[CalibrationCost], None] = lambda _cost: None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Calibration:
    """Load, profile, price and group as a search does, then measure what the study's database does
    not know yet.

    Args:
        say: told each step as it begins.
        started: told the cost before anything is measured.
        progress: (done, total) after each number.

    Raises:
        UserError: and its kinds, for anything that the caller can mend.
        MeasurementError: the bf16 denoiser gives no tensor, or NaN.
    """
    check_calibration(request)
    formats = request.formats or formats_of_target(spec, request.target)
    asked = SearchRequest(
        formats=formats,
        target=request.target,
        granularity=request.granularity,
        storage=request.storage,
        device=request.device,
        cache_folder=request.cache_folder,
    )
    with Store.open(request.storage or default_storage(spec)) as store:
        prepared = prepare(spec, asked, say=say)
        evaluator, candidates = prepared.evaluator, prepared.candidates
        how: dict[str, Any] = {
            "estimator": request.estimator,
            "states": request.states,
            "prompts": request.prompts,
        }
        try:
            cost = calibration_cost(
                evaluator, candidates, store, calls_a_run=calls_a_run(prepared.table), **how
            )
            started(cost)
            errors = calibrate(evaluator, candidates, store, progress=progress, **how)
        finally:
            evaluator.close()
    return Calibration(prepared=prepared, cost=cost, rows=rank(candidates, errors))


def check_calibration(request: CalibrationRequest) -> None:
    """Raise UserError for a request that cannot work on any model."""
    get_estimator(request.estimator)
    for flag, value in (("--states", request.states), ("--prompts", request.prompts)):
        if value < 1:
            raise UserError(f"{flag} is {value}; allowed is 1 or more")


def formats_of_target(spec: StudySpec, target: str | None) -> tuple[FormatName, ...]:
    """Every quantized format that the target (None: the study's) has a price for, in the order of
    `FormatName`.
    """
    latency, found = latency_model(spec, target), []
    for name in QUANTIZED_FORMATS:
        try:
            latency.linear_us(m=128, k=128, n=128, format=name)
        except FormatError:
            continue
        found.append(name)
    return tuple(found)


def calls_a_run(table: ShapeTable) -> int:
    """Denoiser calls of one pipeline run: the number of calls that most Linears of a denoiser have,
    over all denoisers.
    """
    calls = by_component({linear.fqn: linear.calls for linear in table.linears}, table.components)
    return sum(Counter(own.values()).most_common(1)[0][0] for own in calls.values() if own)
