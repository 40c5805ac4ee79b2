"""The main job as one library call: study in, recipe out. The command line does nothing that this does not.

    outcome = find_recipe(resolve_spec("tiny-flux"), SearchRequest(formats=(FormatName.NVFP4,), budget=50))
    outcome.recipe.save("recipes/tiny-flux-nvfp4-b200.json")
    other = select_recipe(resolve_spec("tiny-flux"), SelectRequest(max_lpips=0.02))       # another point of the same study: no trial is drawn

Everything that can be wrong in a request is checked before a weight is loaded.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from optuna.exceptions import StorageInternalError

from sensitivity.candidates import Candidates, Granularity, make_candidates
from sensitivity.deriving import derive_study
from sensitivity.errors import (
    ConfigMismatchError,
    ConstraintError,
    MeasurementError,
    MissingWeightsError,
    OutputError,
    StoreError,
    UserError,
)
from sensitivity.fidelity._base import Score
from sensitivity.fidelity.lpips import LpipsDistance
from sensitivity.latency import CompileMode, LatencyEstimate, LatencyModel, PredictedLatency, ShapeScale, get_device, stand_for
from sensitivity.naming import Naming, compare, describe_unmet, front_of, name_winner, plan_scores, trials_beside
from sensitivity.pipelines import load_pipeline
from sensitivity.recipe import Recipe
from sensitivity.scoring import Evaluator, default_cache_folder, study_distance
from sensitivity.search.front import Constraints, check_constraints
from sensitivity.search.kept import Wanted, assume_settings, list_studies, pick_study
from sensitivity.search.sampler import SamplerName, stock_sampler
from sensitivity.search.study import SearchResult, SearchSettings, read_search, run_search, study_name
from sensitivity.search.trials import ScoredTrial, SearchEvents
from sensitivity.shape_table import ShapeTable
from sensitivity.sizing import check_fits
from sensitivity.skeleton import ShapeRun, run_shapes
from sensitivity.spec import FormatName, StudySpec, check_budget
from sensitivity.store import Store
from sensitivity.verify import HeldOutScores, build_recipe


@dataclass(frozen=True, kw_only=True, slots=True)
class _Request:
    """What a search and a choice among its trials have in common: bounds on the winner, where the study lies, where torch runs, and whether blocks are compiled there.

    `compiled` None leaves that to `Evaluator`.
    """

    max_lpips: float | None = None
    min_speedup: float | None = None
    max_seconds: float | None = None
    storage: Path | None = None
    device: str = "cpu"
    compiled: bool | None = None
    cache_folder: Path = field(default_factory=default_cache_folder)

    @property
    def constraints(self) -> Constraints:
        """What the winner must keep to."""
        return Constraints(max_lpips=self.max_lpips, min_speedup=self.min_speedup, max_seconds=self.max_seconds)


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRequest(_Request):
    """What the user asks for. `target` None is the study's; `storage` None is `default_storage`; `device` is where torch runs."""

    formats: tuple[FormatName, ...] = (FormatName.NVFP4,)
    budget: int = 50
    target: str | None = None
    seed: int = 0
    sampler: SamplerName = SamplerName.KNAPSACK
    granularity: Granularity = "group"
    calibrated: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectRequest(_Request):
    """What is chosen from a study that is in the database. `verify` False draws no held-out pictures; the rest is as in `SearchRequest`."""

    wanted: Wanted = field(default_factory=Wanted)
    verify: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Prepared:
    """What is known before the first trial: shapes as profiled and as priced, the model of latency, and the candidates."""

    evaluator: Evaluator
    table: ShapeTable
    priced: ShapeTable
    latency: LatencyModel
    candidates: Candidates


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchOutcome:
    """What a search found. `recipe`, `chosen` and `naming` are None where it was interrupted before it could verify.

    The outcome that a ConstraintError carries has no `chosen` and no `recipe`; `naming` is there if only the held-out prompts spoke against all.
    """

    prepared: Prepared
    result: SearchResult
    front: tuple[ScoredTrial, ...]
    chosen: ScoredTrial | None
    held_out: Mapping[int, Score]
    estimate: LatencyEstimate | None
    recipe: Recipe | None
    naming: Naming | None = None


def default_storage(spec: StudySpec) -> Path:
    """Where a study's database lies: `sensitivity-runs/<study>.db` in the current folder."""
    return Path("sensitivity-runs") / f"{spec.name}.db"


def check_request(request: SearchRequest) -> None:
    """Raise UserError (or FormatError for a target without a format) for a request that cannot work on any model."""
    check_budget(request.budget)
    check_constraints(request.constraints)
    if request.seed < 0:
        raise UserError(f"--seed is {request.seed}; allowed is 0 or more")
    if request.sampler != SamplerName.KNAPSACK:
        stock_sampler(request.sampler, seed=0)  # one that cannot be made is said now, not after the first trials
    check_device(request.device)


def check_device(device: str) -> None:
    """Raise UserError unless torch can run on `device` here."""
    kind = device.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UserError(f"--device is {device!r}; allowed are cpu, cuda and cuda:N")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = device.partition(":")[2] or "0"
        if not index.isdigit() or int(index) >= count:
            raise UserError(f"--device is {device!r}, and torch sees {count} CUDA devices here; use --device cpu, or check `nvidia-smi`")


def latency_model(spec: StudySpec, target: str | None, *, compile_mode: CompileMode = "reduce-overhead") -> LatencyModel:
    """The model that prices a study's Linears on a GPU. Raises UserError, with the closest names, for an unknown one."""
    return PredictedLatency(get_device(spec.pricing.target if target is None else target), compile_mode=compile_mode)


def prepare(spec: StudySpec, request: SearchRequest, *, say: Callable[[str], None] = lambda _text: None) -> Prepared:
    """Load, profile, price and group; a study is derived where only the model is known. `say` is told each step as it begins."""
    check_request(request)
    spec = derive_study(spec)
    latency = latency_model(spec, request.target)
    for name in request.formats:
        latency.linear_us(m=128, k=128, n=128, format=name)  # a target without the format refuses before anything is loaded
    distance = _distance(spec, device=request.device)  # missing weights are said before a large model is loaded
    say("profiling one run")
    run = _shapes(spec)
    say(f"loading {spec.name} on {request.device}")
    room = _room(spec, run, request.device)
    evaluator = Evaluator(
        load_pipeline(spec, device=request.device), cache_folder=request.cache_folder, distance=distance, compiled=request.compiled
    )
    evaluator.switch.weight_cache_bytes = room
    table = evaluator.profile() if run is None else run.table
    priced = stand_for(table, ShapeScale(factor=spec.pricing.stands_for)) if spec.pricing.stands_for > 1 else table
    candidates = make_candidates(
        priced, spec, formats=request.formats, latency=latency, granularity=request.granularity, unfit=evaluator.switch.unfit()
    )
    return Prepared(evaluator=evaluator, table=table, priced=priced, latency=latency, candidates=candidates)


def _distance(spec: StudySpec, *, device: str) -> LpipsDistance:
    """The study's LPIPS. Raises MissingWeightsError where its trunk is not to be had."""
    try:
        return study_distance(spec, device=device)
    except MissingWeightsError as error:
        if spec.model.random_seed is None:
            raise
        raise MissingWeightsError(f"{error}; a run with random weights can do with --net tiny, which is there") from None


def _shapes(spec: StudySpec) -> ShapeRun | None:
    """A run without weights; None where that does not work, and a run with them is the judge of the configs."""
    try:
        return run_shapes(spec)
    except (MeasurementError, ConfigMismatchError):
        return None


def _room(spec: StudySpec, run: ShapeRun | None, device: str) -> int | None:
    """Bytes that quantized weights may take beside the model; None where nobody knows. Raises UserError, before anything is loaded, for a model that does not fit."""
    return None if run is None else check_fits(spec, run, device=device).room_bytes


def find_recipe(
    spec: StudySpec, request: SearchRequest, *, events: SearchEvents | None = None, say: Callable[[str], None] = lambda _text: None,
    verifying: Callable[[int, int], None] = lambda _done, _total: None,
) -> SearchOutcome:  # fmt: skip
    """Search, choose, verify and describe as a recipe. Nothing is written but the study's database and the cache of references.

    Raises:
        UserError: and its kinds, for anything that the caller can mend.
        MeasurementError: three trials in a row failed alike.
    """
    check_request(request)
    with Store.open(request.storage or default_storage(spec)) as store:
        prepared = prepare(spec, request, say=say)
        evaluator, candidates = prepared.evaluator, prepared.candidates
        settings = SearchSettings(
            formats=request.formats, target=prepared.latency.target, budget=request.budget, seed=request.seed, sampler=request.sampler,
            granularity=request.granularity, calibrated=request.calibrated,
        )  # fmt: skip
        try:
            result = run_search(evaluator, candidates, store, settings, events)
            scores = HeldOutScores(evaluator=evaluator, store=store, candidates=candidates, progress=verifying)
            return _conclude(prepared, settings, request.constraints, result, scores, say)
        except StorageInternalError as error:
            raise OutputError(
                f"{store.path} cannot be written ({str(error).splitlines()[0][:200]}); allowed is a disk with room: free some and run the same command, it goes on"
            ) from error
        finally:
            evaluator.close()


def select_recipe(
    spec: StudySpec, request: SelectRequest, *, say: Callable[[str], None] = lambda _text: None,
    verifying: Callable[[int, int], None] = lambda _done, _total: None,
) -> SearchOutcome:  # fmt: skip
    """Choose again from the trials of a study that is in the database. No trial is proposed or drawn; held-out scores that are missing are, where `verify` says so.

    Raises:
        StoreError: the database is not there, none or several of its studies are wanted, or the one was made under other conditions.
        ConstraintError: no skip-list keeps to the constraints; it carries the outcome.
    """
    check_constraints(request.constraints)
    check_device(request.device)
    path = request.storage or default_storage(spec)
    if not path.is_file():
        raise StoreError(
            f"{path} is not there; allowed is the database of a search: run `sensitivity search --model {spec.name}`, or pass its --storage"
        )
    with Store.open(path) as store:
        study = pick_study(list_studies(store, spec.name), request.wanted, model=spec.name, database=path)
        settings = study.settings or assume_settings(request.wanted, target=spec.pricing.target, budget=study.finished)
        as_searched = SearchRequest(
            formats=settings.formats, target=settings.target, granularity=settings.granularity, device=request.device, cache_folder=request.cache_folder,
            compiled=request.compiled,
        )  # fmt: skip
        prepared = prepare(spec, as_searched, say=say)
        evaluator, candidates = prepared.evaluator, prepared.candidates
        try:
            if study_name(evaluator, candidates, settings) != study.name:
                raise StoreError(
                    f"the study {study.name} was made with another model, prompts, prices, package versions or thread count than there are here; "
                    "allowed is the same: choose where it was made, or search again"
                )
            result = read_search(store, study.name, candidates)
            early = f", {len(result.stopped)} more stopped early" if result.stopped else ""
            say(f"choosing among the {len(result.trials)} trials of study {study.name} ({settings.budget} were asked for{early})")
            scores = HeldOutScores(evaluator=evaluator, store=store, candidates=candidates, draw=request.verify, progress=verifying)
            return _conclude(prepared, settings, request.constraints, result, scores, say)
        finally:
            evaluator.close()


def _conclude(
    prepared: Prepared, settings: SearchSettings, constraints: Constraints, result: SearchResult, scores: HeldOutScores, say: Callable[[str], None]
) -> SearchOutcome:  # fmt: skip
    """Choose, verify, name; an interrupted search keeps its front and names no winner.

    Raises:
        ConstraintError: no skip-list keeps to the constraints; it carries the outcome without a winner.
    """
    candidates, latency = prepared.candidates, prepared.latency
    bare = SearchOutcome(
        prepared=prepared, result=result, front=tuple(front_of(result.trials)), chosen=None, held_out={}, estimate=None, recipe=None
    )
    if result.interrupted or not result.trials:
        return bare
    try:
        say(scores.announce(plan_scores(result.trials, constraints, bf16_s=candidates.bf16_s)))
        naming = name_winner(result.trials, constraints=constraints, bf16_s=candidates.bf16_s, score=scores)
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
    return replace(bare, chosen=chosen, held_out=naming.held_out, estimate=estimate, recipe=recipe, naming=naming)


def profile_study(spec: StudySpec, *, component: str | None = None, batch_size: int | None = None) -> ShapeTable:
    """Shapes of every Linear of the study's denoiser, or of another component, and the census of the whole run. No weights are read.

    Raises:
        PipelineError, UserError, MeasurementError: see `run_shapes`.
    """
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}; allowed is 1 or more")
    return run_shapes(derive_study(spec), component=component, batch_size=batch_size).table


def verify_recipe(recipe: Recipe, spec: StudySpec, *, device: str) -> Score:
    """Apply a recipe to the study's model by emulation and score it on the held-out prompts, drawn anew.

    Raises:
        RecipeMismatchError: the recipe is for another component or other Linears.
    """
    check_device(device)
    spec = derive_study(spec)
    distance = _distance(spec, device=device)
    room = _room(spec, _shapes(spec), device)
    loaded = load_pipeline(spec, device=device)
    recipe.apply(loaded.pipe, emulate=True, allow_random_weights=spec.model.weights == "random")
    evaluator = Evaluator(loaded, cache_folder=default_cache_folder(), distance=distance)
    evaluator.switch.weight_cache_bytes = room
    try:
        return evaluator.score(recipe.layers, "held_out")
    finally:
        evaluator.close()
