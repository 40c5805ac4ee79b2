"""What must be known before a search can score its first trial?

`prepare` derives the study if only the model is known, runs the pipeline without weights, checks
that the model fits, loads it, prices its Linears and groups them. `load_checked` is the part that a
verification needs as well.

    prepared = prepare(resolve_spec("tiny-flux"), SearchRequest(formats=(FormatName.NVFP4,)))
    prepared.candidates.groups

What can be checked without weights is checked first: the target, its formats, where prices come
from, the weights of the perceptual distance, and memory. Shapes are measured before the model is
loaded, while the GPU's memory is free. No picture is generated and no trial is scored here.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType

from sensitivity.consumers.limits import Limits
from sensitivity.consumers.named_consumers import limits_of
from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import DEFAULT_FORMATS, FormatName, Source
from sensitivity.core.short_reprs import ShortRepr
from sensitivity.errors import ConfigMismatchError, MeasurementError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.latency import LatencyModel
from sensitivity.latency.pricer import at_priced_scale, latency_model
from sensitivity.latency.runtimes import choose_runtime
from sensitivity.models.kept_texts import TEXTS
from sensitivity.models.loading import LoadedPipeline, load_pipeline
from sensitivity.search.candidates import Candidates
from sensitivity.search.grouping import make_candidates
from sensitivity.search.kept_prices import KeptPrices
from sensitivity.search.memory_bound import check_memory_fits, choice_memory
from sensitivity.search.step_policies import policies_for
from sensitivity.shapes.deriving import derive_study
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.comparing import Compared, compare_by
from sensitivity.workflows.latency_source import latency_source
from sensitivity.workflows.progress import Measuring, Say, silent
from sensitivity.workflows.requests import SearchRequest
from sensitivity.workflows.shape_table import kept_latency, measured_latency, prices_of
from sensitivity.workflows.sizing import check_fits, largest_batch

FindPrices = Callable[[], Iterable[KeptPrices]]
Grouped = Callable[[Candidates, LatencyModel], None]
"""Called with what can be searched and what prices it, before the model is loaded. Linears whose
weights turn out to fit no format are among the candidates still."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedPipeline:
    """A study's pipeline on a device where it fits.

    Attributes:
        loaded: the pipeline.
        compared: the distance and the judges of its pictures.
        run: its run without weights; None where the pipeline does not run without them.
        weight_cache_bytes: what quantized weights may take beside the model; None is unknown.
    """

    loaded: LoadedPipeline
    compared: Compared
    run: ShapeRun | None
    weight_cache_bytes: int | None

    def evaluator(
        self,
        *,
        cache_folder: Path,
        compiled: bool | None = None,
        arithmetic: Arithmetic = Arithmetic.EAGER,
        emulate: bool = False,
        formats: Sequence[FormatName] = DEFAULT_FORMATS,
    ) -> Evaluator:
        """An `Evaluator` of the pipeline. See there for the arguments."""
        made = Evaluator(
            self.loaded,
            cache_folder=cache_folder,
            distance=self.compared.distance,
            compiled=compiled,
            arithmetic=arithmetic,
            emulate=emulate,
            formats=formats,
        )
        made.panel = self.compared.panel
        made.switch.weight_cache_bytes = self.weight_cache_bytes
        return made


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedStudy:
    """A study whose model is known to fit on a device, before anything of it is loaded.

    Attributes:
        spec: the study.
        device: where torch runs.
        compared, run, weight_cache_bytes: see `CheckedPipeline`.
    """

    spec: StudySpec
    device: str
    compared: Compared
    run: ShapeRun | None
    weight_cache_bytes: int | None

    def load(self, *, say: Say = silent, texts: Path | None = None) -> CheckedPipeline:
        """Load the pipeline; `texts`: where encoded texts are kept, if they are. Raises UserError
        if that is not possible.
        """
        say(f"loading {self.spec.name} on {self.device}")
        return CheckedPipeline(
            loaded=load_pipeline(self.spec, device=self.device, texts=texts),
            compared=self.compared,
            run=self.run,
            weight_cache_bytes=self.weight_cache_bytes,
        )


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Prepared(ShortRepr):
    """What is known before the first trial.

    Attributes:
        evaluator: scores skip-lists of the loaded pipeline.
        table: shapes of one run of the loaded model.
        priced: the same at the scale that the study prices.
        latency: prices a Linear on the target.
        candidates: the groups of Linears, their formats and gains.
        run: a run without weights; None where the pipeline does not run without them.
    """

    evaluator: Evaluator
    table: ShapeTable
    priced: ShapeTable
    latency: LatencyModel
    candidates: Candidates
    run: ShapeRun | None = None


def prepare(
    spec: StudySpec,
    request: SearchRequest,
    *,
    say: Say = silent,
    measuring: Measuring | None = None,
    studies: FindPrices = tuple,
    prices: KeptPrices | None = None,
    grouped: Grouped | None = None,
) -> Prepared:
    """Profile, price, load and group.

    Args:
        spec: the study; it is derived where only its model is known.
        request: formats, arithmetic, emulate, target, latency, granularity, consumers, device,
            compilation, cache folder and the bound on memory are used.
        say: called with each step as it begins.
        measuring: how the caller follows a measurement of shapes.
        studies: gives the rows that studies of the same database were searched by, which go before
            others; called if shapes are measured.
        prices: the rows of a study that is read again: they price it, and nothing is measured.
        grouped: called before the model is loaded, if it runs without weights.

    Raises:
        UserError: and its kinds: an unknown target, a target without a format, prices that cannot
            be measured here, missing weights, a model that does not fit, or that a consumer does
            not know, or a bound on memory that is not known to be kept by any choice.
        ConstraintError: no choice keeps to the bound on memory.
        MeasurementError: the model cannot be profiled.
    """
    spec = derive_study(spec)
    pricing = _Pricing.of(spec, request, measuring or Measuring(), studies, prices)
    checked = check_study(spec, _compared(spec, request, say), device=request.device, say=say)
    run = checked.run
    if run is not None:
        _limits(request, run.table, run.classes)  # raises before anything is measured
    check_memory(spec, request, run)
    latency = None if run is None else pricing.model(run, at_priced_scale(run.table, spec))
    if grouped is not None and run is not None and latency is not None:
        grouped(_candidates(run.table, spec, request, latency, run.classes), latency)
    evaluator = _evaluator(checked, request, say)
    if request.device.startswith("cuda"):
        say(evaluator.execution.describe())
    table = evaluator.profile() if run is None else run.table
    priced = at_priced_scale(table, spec)
    latency = latency or pricing.model(None, priced)
    classes, unfit = evaluator.loaded.classes, evaluator.switch.unfit()
    candidates = _candidates(table, spec, request, latency, classes, unfit=unfit)
    return Prepared(
        evaluator=evaluator,
        table=table,
        priced=priced,
        latency=latency,
        candidates=replace(candidates, prices=prices or prices_of(latency)),
        run=run,
    )


def check_memory(spec: StudySpec, request: SearchRequest, run: ShapeRun | None) -> None:
    """Check that some skip-list keeps to the request's bound on memory, if it has one.

    Args:
        spec: the study.
        request: what is searched.
        run: a run without weights, at the study's own settings; None where there is none.

    Raises:
        ConstraintError: none does; the message has the least peak of any.
        UserError: no peak is known.
    """
    if request.max_memory_bytes is None:
        return
    candidates = None
    if run is not None:
        predicted = latency_model(spec, request.target, runtime=choose_runtime(request.runtime))
        candidates = _candidates(run.table, spec, request, predicted, run.classes)
    check_memory_fits(candidates, request.max_memory_bytes, model=spec.name)


def _compared(spec: StudySpec, request: SearchRequest, say: Say) -> Compared:
    """By what pictures are compared. Raises as `compare_by`."""
    return compare_by(
        spec, device=request.device, wishes=request.wishes, objective=request.objective, say=say
    )


def _candidates(
    table: ShapeTable,
    spec: StudySpec,
    request: SearchRequest,
    latency: LatencyModel,
    classes: Mapping[str, str],
    *,
    unfit: Mapping[str, str] = MappingProxyType({}),
) -> Candidates:
    """What can be searched of a model with these shapes, and what memory its choices need."""
    priced = at_priced_scale(table, spec)
    policies, steps = policies_for(
        request.steps_asked, table, request.consumers, request.formats, classes
    )
    found = make_candidates(
        priced,
        spec,
        formats=request.formats,
        latency=latency,
        granularity=request.granularity,
        unfit=unfit,
        limits=_limits(request, table, classes),
        policies=policies,
        steps=steps,
    )
    return replace(found, memory=choice_memory(priced, found))


def _evaluator(checked: CheckedStudy, request: SearchRequest, say: Say) -> Evaluator:
    """Load the pipeline for a request."""
    return checked.load(say=say, texts=request.cache_folder / TEXTS).evaluator(
        cache_folder=request.cache_folder,
        compiled=request.compiled,
        arithmetic=request.own_arithmetic,
        emulate=request.emulate,
        formats=request.formats,
    )


def _limits(
    request: SearchRequest, table: ShapeTable, classes: Mapping[str, str]
) -> tuple[Limits, ...]:
    """What the consumers of the request ask of this model. Raises as `limits_of`."""
    return limits_of(request.consumers, request.formats, fqns=table.fqns, classes=classes)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Pricing:
    """What makes the model that prices, once the shapes are known.

    Attributes:
        spec, request, follow, studies, prices: see `prepare`.
        predicted: the predicted model of the target.
        source: whether times are measured here.
    """

    spec: StudySpec
    request: SearchRequest
    follow: Measuring
    studies: FindPrices
    prices: KeptPrices | None
    predicted: LatencyModel
    source: Source

    @classmethod
    def of(
        cls,
        spec: StudySpec,
        request: SearchRequest,
        follow: Measuring,
        studies: FindPrices,
        prices: KeptPrices | None,
    ) -> "_Pricing":
        """Check the target, its formats, and where prices come from.

        Raises:
            UserError: as `prepare`.
        """
        predicted = latency_model(spec, request.target, runtime=choose_runtime(request.runtime))
        for name in request.priced_formats:
            predicted.check_format(name)
        source = latency_source(
            spec,
            request.latency if prices is None else "predicted",
            target=request.target,
            device=request.device,
            formats=request.priced_formats,
            noted=follow.noted,
        )
        return cls(
            spec=spec,
            request=request,
            follow=follow,
            studies=studies,
            prices=prices,
            predicted=predicted,
            source=source,
        )

    def model(self, run: ShapeRun | None, priced: ShapeTable) -> LatencyModel:
        """The model; shapes that are missing are measured."""
        if self.prices is not None:
            return kept_latency(self.prices, predicted=self.predicted)
        if self.source == "predicted":
            return self.predicted
        return measured_latency(
            self.spec,
            run,
            priced,
            self.request.priced_formats,
            device=self.request.device,
            predicted=self.predicted,
            progress=self.follow.progress,
            say=self.follow.noted,
            keep=self.follow.measured,
            studies=self.studies(),
        )


def load_checked(
    spec: StudySpec, compared: Compared | None = None, *, device: str, say: Say = silent
) -> CheckedPipeline:
    """Load a pipeline after everything that can be checked without its weights.

    Args:
        spec: the study.
        compared: by what its pictures are compared; None is LPIPS, and the judges that are
            installed.
        device: where torch runs.
        say: called with each step as it begins.

    Raises:
        MissingWeightsError: the perceptual distance needs weights that are not on this machine.
        UserError: the model does not fit on the device, or cannot be loaded.
    """
    return check_study(spec, compared, device=device, say=say).load(say=say)


def check_study(
    spec: StudySpec, compared: Compared | None = None, *, device: str, say: Say = silent
) -> CheckedStudy:
    """Check everything that can be checked without weights. Arguments as in `load_checked`.

    Raises:
        MissingWeightsError: the perceptual distance needs weights that are not on this machine.
        UserError: the model does not fit on the device.
    """
    compared = compared or compare_by(spec, device=device, say=say)
    say("profiling one run")
    try:
        run = run_shapes(spec)
    except (MeasurementError, ConfigMismatchError):
        run = None  # loading will tell whether the configs are wrong
    room = None
    if run is not None:
        room = check_fits(run, batch_size=largest_batch(spec), device=device).room_bytes
    return CheckedStudy(
        spec=spec, device=device, compared=compared, run=run, weight_cache_bytes=room
    )
