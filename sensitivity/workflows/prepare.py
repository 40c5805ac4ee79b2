"""What must be known before a search can score its first trial?

`prepare` derives the study if only the model is known, runs the pipeline without weights, checks
that the model fits, loads it, prices its Linears and groups them. `load_checked` is the part that a
verification needs as well.

    prepared = prepare(resolve_spec("tiny-flux"), SearchRequest(formats=(FormatName.NVFP4,)))
    prepared.candidates.groups

What can be checked without weights is checked first: the target, its formats, the weights of the
perceptual distance, and memory. No picture is generated and no trial is scored here.
"""

from dataclasses import dataclass
from pathlib import Path

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.errors import ConfigMismatchError, MeasurementError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.lpips import LpipsDistance, study_distance
from sensitivity.latency import LatencyModel
from sensitivity.latency.pricer import at_priced_scale, latency_model
from sensitivity.models.loading import LoadedPipeline, load_pipeline
from sensitivity.search.candidates import Candidates
from sensitivity.search.grouping import make_candidates
from sensitivity.shapes.deriving import derive_study
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.progress import Say, silent
from sensitivity.workflows.requests import SearchRequest
from sensitivity.workflows.sizing import check_fits, largest_batch


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckedPipeline:
    """A study's pipeline on a device where it fits.

    Attributes:
        loaded: the pipeline.
        distance: the study's perceptual distance.
        run: its run without weights; None where the pipeline does not run without them.
        weight_cache_bytes: what quantized weights may take beside the model; None is unknown.
    """

    loaded: LoadedPipeline
    distance: LpipsDistance
    run: ShapeRun | None
    weight_cache_bytes: int | None

    def evaluator(
        self,
        *,
        cache_folder: Path,
        compiled: bool | None = None,
        arithmetic: Arithmetic = Arithmetic.EAGER,
    ) -> Evaluator:
        """An `Evaluator` of the pipeline. See there for the arguments."""
        made = Evaluator(
            self.loaded,
            cache_folder=cache_folder,
            distance=self.distance,
            compiled=compiled,
            arithmetic=arithmetic,
        )
        made.switch.weight_cache_bytes = self.weight_cache_bytes
        return made


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What is known before the first trial.

    Attributes:
        evaluator: scores skip-lists of the loaded pipeline.
        table: shapes of one run of the loaded model.
        priced: the same at the scale that the study prices.
        latency: prices a Linear on the target.
        candidates: the groups of Linears, their formats and gains.
    """

    evaluator: Evaluator
    table: ShapeTable
    priced: ShapeTable
    latency: LatencyModel
    candidates: Candidates


def prepare(spec: StudySpec, request: SearchRequest, *, say: Say = silent) -> Prepared:
    """Load, profile, price and group.

    Args:
        spec: the study; it is derived where only its model is known.
        request: formats, arithmetic, target, granularity, device, compilation and cache folder are
            used.
        say: called with each step as it begins.

    Raises:
        UserError: and its kinds: an unknown target, a target without a format, missing weights, a
            model that does not fit.
        MeasurementError: the model cannot be profiled.
    """
    spec = derive_study(spec)
    latency = latency_model(spec, request.target)
    for name in request.formats:
        latency.check_format(name)
    pipeline = load_checked(spec, device=request.device, say=say)
    evaluator = pipeline.evaluator(
        cache_folder=request.cache_folder,
        compiled=request.compiled,
        arithmetic=request.arithmetic,
    )
    table = evaluator.profile() if pipeline.run is None else pipeline.run.table
    priced = at_priced_scale(table, spec)
    candidates = make_candidates(
        priced,
        spec,
        formats=request.formats,
        latency=latency,
        granularity=request.granularity,
        unfit=evaluator.switch.unfit(),
    )
    return Prepared(
        evaluator=evaluator, table=table, priced=priced, latency=latency, candidates=candidates
    )


def load_checked(spec: StudySpec, *, device: str, say: Say = silent) -> CheckedPipeline:
    """Load a pipeline after everything that can be checked without its weights.

    Raises:
        MissingWeightsError: the perceptual distance needs weights that are not on this machine.
        UserError: the model does not fit on the device, or cannot be loaded.
    """
    distance = study_distance(spec, device=device)
    say("profiling one run")
    try:
        run = run_shapes(spec)
    except (MeasurementError, ConfigMismatchError):
        run = None  # loading will tell whether the configs are wrong
    room = None
    if run is not None:
        room = check_fits(run, batch_size=largest_batch(spec), device=device).room_bytes
    say(f"loading {spec.name} on {device}")
    return CheckedPipeline(
        loaded=load_pipeline(spec, device=device),
        distance=distance,
        run=run,
        weight_cache_bytes=room,
    )
