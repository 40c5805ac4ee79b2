"""The main job as one library call: study in, recipe out.

The command line does nothing that this does not.

    outcome = find_recipe(resolve_spec("tiny-flux"), SearchRequest(formats=(FormatName.NVFP4,), budget=50))
    outcome.recipe.save("recipes/tiny-flux-nvfp4-b200.json")
    other = select_recipe(resolve_spec("tiny-flux"), SelectRequest(max_lpips=0.02))       # another point of the same study: no trial is drawn

Everything that can be wrong in a request is checked before a weight is loaded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from optuna.exceptions import StorageInternalError

from sensitivity.errors import (
    ConfigMismatchError,
    ConstraintError,
    MeasurementError,
    MissingWeightsError,
    OutputError,
    UserError,
)
from sensitivity.fidelity.evaluator import Evaluator, study_distance
from sensitivity.fidelity.lpips import LpipsDistance
from sensitivity.fidelity.score import Score
from sensitivity.latency import LatencyEstimate, LatencyModel, ShapeScale, stand_for
from sensitivity.latency.pricer import latency_model
from sensitivity.models.loading import load_pipeline
from sensitivity.recipes.recipe import Recipe
from sensitivity.search.candidates import Candidates, make_candidates
from sensitivity.search.front import Constraints
from sensitivity.search.held_out import HeldOutScores
from sensitivity.search.loop import SearchResult, SearchSettings, run_search
from sensitivity.search.store import Store, default_storage
from sensitivity.search.to_recipe import build_recipe
from sensitivity.search.trials import ScoredTrial, SearchEvents
from sensitivity.search.winner import (
    Naming,
    compare,
    describe_unmet,
    front_of,
    name_winner,
    plan_scores,
    trials_beside,
)
from sensitivity.shapes.deriving import derive_study
from sensitivity.shapes.run import ShapeRun, run_shapes
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.requests import SearchRequest, check_request
from sensitivity.workflows.sizing import check_fits


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What is known before the first trial: shapes as profiled and as priced, the model of latency,
    and the candidates.
    """

    evaluator: Evaluator
    table: ShapeTable
    priced: ShapeTable
    latency: LatencyModel
    candidates: Candidates


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOutcome:
    """What a search found.

    `recipe`, `chosen` and `naming` are None where it was interrupted before it could verify.

    The outcome that a ConstraintError carries has no `chosen` and no `recipe`; `naming` is there if
    only the held-out prompts spoke against all.
    """

    prepared: Prepared
    result: SearchResult
    front: tuple[ScoredTrial, ...]
    chosen: ScoredTrial | None
    held_out: Mapping[int, Score]
    estimate: LatencyEstimate | None
    recipe: Recipe | None
    naming: Naming | None = None


def prepare(
    spec: StudySpec, request: SearchRequest, *, say: Callable[[str], None] = lambda _text: None
) -> Prepared:
    """Load, profile, price and group; a study is derived where only the model is known.

    `say` is told each step as it begins.
    """
    check_request(request)
    spec = derive_study(spec)
    latency = latency_model(spec, request.target)
    for name in request.formats:
        latency.linear_us(
            m=128, k=128, n=128, format=name
        )  # a target without the format refuses before anything is loaded
    distance = _distance(
        spec, device=request.device
    )  # missing weights are said before a large model is loaded
    say("profiling one run")
    run = _shapes(spec)
    say(f"loading {spec.name} on {request.device}")
    room = _room(spec, run, request.device)
    evaluator = Evaluator(
        load_pipeline(spec, device=request.device),
        cache_folder=request.cache_folder,
        distance=distance,
        compiled=request.compiled,
    )
    evaluator.switch.weight_cache_bytes = room
    table = evaluator.profile() if run is None else run.table
    priced = (
        stand_for(table, ShapeScale(factor=spec.pricing.stands_for))
        if spec.pricing.stands_for > 1
        else table
    )
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


def _distance(spec: StudySpec, *, device: str) -> LpipsDistance:
    """The study's LPIPS. Raises MissingWeightsError where its trunk is not to be had."""
    try:
        return study_distance(spec, device=device)
    except MissingWeightsError as error:
        if spec.model.random_seed is None:
            raise
        raise MissingWeightsError(
            f"{error}; a run with random weights can do with --net tiny, which is there"
        ) from None


def _shapes(spec: StudySpec) -> ShapeRun | None:
    """A run without weights; None where that does not work, and a run with them is the judge of the
    configs.
    """
    try:
        return run_shapes(spec)
    except (MeasurementError, ConfigMismatchError):
        return None


def _room(spec: StudySpec, run: ShapeRun | None, device: str) -> int | None:
    """Bytes that quantized weights may take beside the model; None where nobody knows.

    Raises UserError, before anything is loaded, for a model that does not fit.
    """
    return None if run is None else check_fits(spec, run, device=device).room_bytes


def find_recipe(
    spec: StudySpec,
    request: SearchRequest,
    *,
    events: SearchEvents | None = None,
    say: Callable[[str], None] = lambda _text: None,
    verifying: Callable[[int, int], None] = lambda _done, _total: None,
) -> SearchOutcome:
    """Search, choose, verify and describe as a recipe.

    Nothing is written but the study's database and the cache of references.

    Raises:
        UserError: and its kinds, for anything that the caller can mend.
        MeasurementError: three trials in a row failed alike.
    """
    check_request(request)
    with Store.open(request.storage or default_storage(spec)) as store:
        prepared = prepare(spec, request, say=say)
        evaluator, candidates = prepared.evaluator, prepared.candidates
        settings = SearchSettings(
            formats=request.formats,
            target=prepared.latency.target,
            budget=request.budget,
            seed=request.seed,
            sampler=request.sampler,
            granularity=request.granularity,
            calibrated=request.calibrated,
        )
        try:
            result = run_search(evaluator, candidates, store, settings, events)
            scores = HeldOutScores(
                evaluator=evaluator, store=store, candidates=candidates, progress=verifying
            )
            return _conclude(prepared, settings, request.constraints, result, scores, say)
        except StorageInternalError as error:
            raise OutputError(
                f"{store.path} cannot be written ({str(error).splitlines()[0][:200]}); allowed is a"
                " disk with room: free some and run the same command, it goes on"
            ) from error
        finally:
            evaluator.close()


def _conclude(
    prepared: Prepared,
    settings: SearchSettings,
    constraints: Constraints,
    result: SearchResult,
    scores: HeldOutScores,
    say: Callable[[str], None],
) -> SearchOutcome:
    """Choose, verify, name; an interrupted search keeps its front and names no winner.

    Raises:
        ConstraintError: no skip-list keeps to the constraints; it carries the outcome without a
            winner.
    """
    candidates, latency = prepared.candidates, prepared.latency
    bare = SearchOutcome(
        prepared=prepared,
        result=result,
        front=tuple(front_of(result.trials)),
        chosen=None,
        held_out={},
        estimate=None,
        recipe=None,
    )
    if result.interrupted or not result.trials:
        return bare
    try:
        say(scores.announce(plan_scores(result.trials, constraints, bf16_s=candidates.bf16_s)))
        naming = name_winner(
            result.trials, constraints=constraints, bf16_s=candidates.bf16_s, score=scores
        )
        bare = replace(bare, naming=naming, held_out=naming.held_out)
        chosen = naming.chosen
        if chosen is None:
            raise ConstraintError(describe_unmet(naming, bf16_s=candidates.bf16_s))
        naming = compare(naming, trials_beside(result.trials), scores)
    except ConstraintError as error:
        error.outcome = bare
        raise
    except KeyboardInterrupt:
        return replace(bare, naming=None, held_out={}, result=replace(result, interrupted=True))
    estimate = latency.estimate(prepared.priced, candidates.decode(chosen.choice))
    recipe = build_recipe(prepared.evaluator, candidates, estimate, settings, result, naming)
    return replace(
        bare,
        chosen=chosen,
        held_out=naming.held_out,
        estimate=estimate,
        recipe=recipe,
        naming=naming,
    )


def profile_study(
    spec: StudySpec, *, component: str | None = None, batch_size: int | None = None
) -> ShapeTable:
    """Shapes of every Linear of the study's denoiser, or of another component, and the census of
    the whole run. No weights are read.

    Raises:
        PipelineError, UserError, MeasurementError: see `run_shapes`.
    """
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}; allowed is 1 or more")
    return run_shapes(derive_study(spec), component=component, batch_size=batch_size).table
