"""How much does each group of Linears matter? `calibrate_study`: study in, sensitivities out.

    request = CalibrationRequest(formats=(FormatName.NVFP4,))
    done = calibrate_study(resolve_spec("tiny-flux"), request)
    done.rows[0].group, done.rows[0].share

Each sensitivity is measured once and kept in the study's database. Every later search of the study
reads it there, with any budget, constraint or target. In a database that several processes may
write, searches and calibrations of the same study divide the work (`search.shared_work`).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import (
    DEFAULT_FORMATS,
    QUANTIZED_FORMATS,
    FormatName,
    Granularity,
    Source,
    parse_formats,
)
from sensitivity.core.fqns import by_component
from sensitivity.core.kernels import Kernels
from sensitivity.core.kernels import to_json as kernels_to_json
from sensitivity.core.storage_url import Storage
from sensitivity.core.typed_fields import coerce_fields
from sensitivity.errors import UserError
from sensitivity.fidelity.references import default_cache_folder
from sensitivity.latency.pricer import latency_model
from sensitivity.search.calibration.choosing import get_estimator
from sensitivity.search.calibration.cost import CalibrationCost
from sensitivity.search.calibration.jobs import EstimatorName
from sensitivity.search.calibration.ranking import Sensitivity, rank
from sensitivity.search.calibration.stored import (
    calibrate,
    calibration_cost,
)
from sensitivity.search.claims import Claims
from sensitivity.search.finished import find_prices
from sensitivity.search.shared_work import SharedWork
from sensitivity.search.store import Store, default_storage
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.kept_activity import keeping_activity
from sensitivity.workflows.prepare import Prepared, prepare
from sensitivity.workflows.progress import Measuring, Say, silent
from sensitivity.workflows.requests import SearchRequest


@dataclass(frozen=True, kw_only=True, slots=True)
class CalibrationRequest:
    """What a calibration is asked for.

    Attributes:
        formats: None is every quantized format that the target has.
        arithmetic: the runtime whose quantized numbers are computed; None is that of the kernels
            that are installed.
        emulate: whether formats are emulated that the device has natively.
        target: the GPU that is priced; None is the study's.
        granularity: what is quantized together.
        estimator: how errors are measured; None is `rollout`, or `gradient` where that takes too
            long or does not work (`calibration.choosing`).
        states: denoiser calls of a bf16 run that errors are measured on, or steps of a run where
            the estimator takes steps; None is the estimator's own default.
        prompts: search prompts, from the first, that errors are measured on; None is the
            estimator's own default.
        storage: the study's database: the path of a file, or the URL of a PostgreSQL database; None
            is `default_storage`.
        device: where torch runs.
        cache_folder: where bf16 references are kept.
        latency: whether gains are measured on the GPU at hand or predicted for the target; None is
            measured where that is possible.

    Raises:
        UserError: a value that works with no model.
    """

    formats: tuple[FormatName, ...] | None = None
    arithmetic: Arithmetic | None = None
    emulate: bool = False
    target: str | None = None
    granularity: Granularity = "group"
    estimator: EstimatorName | str | None = None
    states: int | None = None
    prompts: int | None = None
    storage: Storage | None = None
    device: str = "cpu"
    cache_folder: Path = field(default_factory=default_cache_folder)
    latency: Source | None = None

    def __post_init__(self) -> None:
        """Raise UserError for a value that works with no model."""
        if self.formats is not None:
            object.__setattr__(self, "formats", parse_formats(self.formats))
        coerce_fields(self)
        if self.estimator is not None:
            get_estimator(self.estimator)
        for name, value in (("states", self.states), ("prompts", self.prompts)):
            if value is not None and value < 1:
                raise UserError(f"`{name}` is {value}; expected 1 or more: raise it")


@dataclass(frozen=True, kw_only=True, slots=True)
class Calibration:
    """Layer sensitivities of a study.

    Attributes:
        prepared: the model, its prices and its candidates.
        cost: what was measured in this call, as it was stated before.
        rows: the sensitivities, largest first.
    """

    prepared: Prepared
    cost: CalibrationCost
    rows: tuple[Sensitivity, ...]

    @property
    def kernels(self) -> dict[FormatName, Kernels]:
        """What multiplied each format: emulation, unless the estimator runs whole jobs."""
        own = self.prepared.evaluator.execution.kernels
        if get_estimator(self.cost.estimator).runs_kernels:
            return own
        return dict.fromkeys(own, Kernels.EMULATED)

    def to_json(self) -> dict[str, Any]:
        """The JSON object of `sensitivity calibrate`."""
        spec, cost = self.prepared.evaluator.spec, self.cost
        return {
            "model": spec.name,
            "estimator": str(cost.estimator),
            "states": cost.states,
            "inputs": cost.inputs,
            "prompts": cost.prompts,
            **kernels_to_json(self.kernels),
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
    say: Say = silent,
    started: Callable[[CalibrationCost], None] = lambda _cost: None,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
    measuring: Measuring | None = None,
) -> Calibration:
    """Load, profile, price and group as a search does; measure what the database does not have.

    Args:
        spec: the study; it is derived where only its model is known.
        request: what is measured.
        say: called with each step as it begins.
        started: called with the cost before anything is measured.
        progress: called with (done, total) after each sensitivity.
        measuring: how the caller follows a measurement of shapes.

    Raises:
        UserError: and its kinds, for anything that the caller can mend.
        MeasurementError: the bf16 denoiser gives no tensor, or NaN.
    """
    formats = request.formats or formats_of_target(spec, request.target)
    asked = SearchRequest(
        formats=formats,
        arithmetic=request.arithmetic,
        emulate=request.emulate,
        target=request.target,
        granularity=request.granularity,
        device=request.device,
        cache_folder=request.cache_folder,
        latency=request.latency,
    )
    how: dict[str, Any] = {
        "estimator": request.estimator,
        "states": request.states,
        "prompts": request.prompts,
    }
    with (
        Store.open(request.storage or default_storage(spec)) as store,
        keeping_activity(store, "calibration", request.device) as doing,
    ):
        say, progress = doing.say(say), doing.calibrating(progress)
        prices = partial(find_prices, store, spec.name)
        prepared = prepare(spec, asked, say=say, measuring=measuring, studies=prices)
        evaluator, candidates = prepared.evaluator, prepared.candidates
        if doing.worker is not None and store.is_shared:
            evaluator.sharing = SharedWork(Claims(store, doing.worker))
        try:
            calls = denoiser_calls(prepared.table)
            cost = calibration_cost(evaluator, candidates, store, calls_a_run=calls, **how)
            started(cost)
            how["estimator"] = cost.estimator  # so no other one replaces it unsaid
            errors = calibrate(evaluator, candidates, store, progress=progress, noted=say, **how)
        finally:
            evaluator.close()
    return Calibration(prepared=prepared, cost=cost, rows=rank(candidates, errors))


def formats_of_target(spec: StudySpec, target: str | None) -> tuple[FormatName, ...]:
    """The formats that are calibrated where nobody names any: those of `DEFAULT_FORMATS` that the
    target (None: the study's) has; where it has none, its plain formats.
    """
    latency = latency_model(spec, target)
    plain = [name for name in QUANTIZED_FORMATS if name is name.plain]
    found = [tuple(filter(latency.supports, names)) for names in (DEFAULT_FORMATS, plain)]
    return found[0] or found[1]


def denoiser_calls(table: ShapeTable) -> int:
    """Denoiser calls of one pipeline run, summed over all denoisers.

    The calls of one denoiser are those that most of its Linears have.
    """
    calls = by_component({linear.fqn: linear.calls for linear in table.linears}, table.components)
    return sum(Counter(own.values()).most_common(1)[0][0] for own in calls.values() if own)
