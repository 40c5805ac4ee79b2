"""The main job as one library call: study in, recipe out. The command line does nothing that this does not.

    outcome = find_recipe(resolve_spec("tiny-flux"), SearchRequest(formats=(FormatName.NVFP4,), budget=50))
    outcome.recipe.save("recipes/tiny-flux-nvfp4-b200.json")

Everything that can be wrong in a request is checked before a weight is loaded.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from optuna.exceptions import StorageInternalError

from sensitivity.candidates import Candidates, Granularity, make_candidates
from sensitivity.errors import ConfigMismatchError, MeasurementError, OutputError, UserError
from sensitivity.fidelity._base import Score
from sensitivity.latency import CompileMode, LatencyEstimate, LatencyModel, PredictedLatency, ShapeScale, get_device, stand_for
from sensitivity.pipelines import load_pipeline
from sensitivity.recipe import Recipe
from sensitivity.scoring import Evaluator, default_cache_folder, study_distance
from sensitivity.search.sampler import SamplerName
from sensitivity.search.study import ScoredTrial, SearchEvents, SearchResult, SearchSettings, run_search
from sensitivity.shape_table import ShapeTable
from sensitivity.skeleton import run_shapes
from sensitivity.spec import FormatName, StudySpec, check_budget
from sensitivity.store import Store
from sensitivity.verify import build_recipe, choose_trial, front_of, trials_to_verify, verify_trials


@dataclass(frozen=True, kw_only=True, slots=True)
class SearchRequest:
    """What the user asks for. `target` None is the study's; `storage` None is `default_storage`; `device` is where torch runs."""

    formats: tuple[FormatName, ...] = (FormatName.NVFP4,)
    budget: int = 50
    target: str | None = None
    seed: int = 0
    sampler: SamplerName = SamplerName.KNAPSACK
    granularity: Granularity = "group"
    calibrated: bool = True
    max_lpips: float | None = None
    min_speedup: float | None = None
    storage: Path | None = None
    device: str = "cpu"
    cache_folder: Path = field(default_factory=default_cache_folder)


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
    """What a search found. `recipe` and `chosen` are None where it was interrupted before it could verify."""

    prepared: Prepared
    result: SearchResult
    front: tuple[ScoredTrial, ...]
    chosen: ScoredTrial | None
    held_out: dict[int, Score]
    estimate: LatencyEstimate | None
    recipe: Recipe | None


def default_storage(spec: StudySpec) -> Path:
    """Where a study's database lies: `sensitivity-runs/<study>.db` in the current folder."""
    return Path("sensitivity-runs") / f"{spec.name}.db"


def check_request(request: SearchRequest) -> None:
    """Raise UserError (or FormatError for a target without a format) for a request that cannot work on any model."""
    check_budget(request.budget)
    if request.max_lpips is not None and not request.max_lpips >= 0:
        raise UserError(f"--max-lpips is {request.max_lpips}; allowed is 0 or more: 0.1 is nearly indistinguishable on LPIPS alex")
    if request.min_speedup is not None and not 0 < request.min_speedup < float("inf"):
        raise UserError(f"--min-speedup is {request.min_speedup}; allowed is a factor above 0, such as 1.2")
    if request.seed < 0:
        raise UserError(f"--seed is {request.seed}; allowed is 0 or more")
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
    """Load, profile, price and group. `say` is told each step as it begins."""
    check_request(request)
    latency = latency_model(spec, request.target)
    for name in request.formats:
        latency.linear_us(m=128, k=128, n=128, format=name)  # a target without the format refuses before anything is loaded
    say(f"loading {spec.name} on {request.device}")
    distance = study_distance(spec, device=request.device)  # missing weights are said before a large model is loaded
    evaluator = Evaluator(load_pipeline(spec, device=request.device), cache_folder=request.cache_folder, distance=distance)
    say("profiling one run")
    table = _table(evaluator)
    priced = stand_for(table, ShapeScale(factor=spec.pricing.stands_for)) if spec.pricing.stands_for > 1 else table
    candidates = make_candidates(
        priced, spec, formats=request.formats, latency=latency, granularity=request.granularity, unfit=evaluator.switch.unfit()
    )
    return Prepared(evaluator=evaluator, table=table, priced=priced, latency=latency, candidates=candidates)


def _table(evaluator: Evaluator) -> ShapeTable:
    """The shapes of a run: without weights where that works, else from a real one."""
    try:
        return run_shapes(evaluator.spec).table
    except (MeasurementError, ConfigMismatchError):  # where there are weights, a run with them is the judge of the configs
        return evaluator.profile()


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
            return _conclude(prepared, store, settings, request, result, say, verifying)
        except StorageInternalError as error:
            raise OutputError(
                f"{store.path} cannot be written ({str(error).splitlines()[0][:200]}); allowed is a disk with room: free some and run the same command, it goes on"
            ) from error
        finally:
            evaluator.close()


def _conclude(
    prepared: Prepared, store: Store, settings: SearchSettings, request: SearchRequest, result: SearchResult, say: Callable[[str], None],
    verifying: Callable[[int, int], None],
) -> SearchOutcome:  # fmt: skip
    """Choose and verify; an interrupted search keeps its front and names no winner."""
    front = tuple(front_of(result.trials))
    bare = SearchOutcome(prepared=prepared, result=result, front=front, chosen=None, held_out={}, estimate=None, recipe=None)
    if result.interrupted or not result.trials:
        return bare
    evaluator, candidates = prepared.evaluator, prepared.candidates
    chosen = choose_trial(result.trials, candidates, max_lpips=request.max_lpips, min_speedup=request.min_speedup)
    say("verifying on held-out prompts")
    try:
        held_out = verify_trials(evaluator, store, candidates, trials_to_verify(result.trials, chosen), progress=verifying)
    except KeyboardInterrupt:
        return SearchOutcome(
            prepared=prepared, result=_interrupted(result), front=front, chosen=None, held_out={}, estimate=None, recipe=None
        )
    estimate = prepared.latency.estimate(prepared.priced, candidates.decode(chosen.choice))
    recipe = build_recipe(evaluator, candidates, estimate, settings, result, chosen, held_out)
    return SearchOutcome(prepared=prepared, result=result, front=front, chosen=chosen, held_out=held_out, estimate=estimate, recipe=recipe)


def _interrupted(result: SearchResult) -> SearchResult:
    return SearchResult(study=result.study, trials=result.trials, failed=result.failed, interrupted=True)


def profile_study(spec: StudySpec, *, component: str | None = None, batch_size: int | None = None) -> ShapeTable:
    """Shapes of every Linear of the study's denoiser, or of another component, and the census of the whole run. No weights are read.

    Raises:
        PipelineError, UserError, MeasurementError: see `run_shapes`.
    """
    if batch_size is not None and batch_size < 1:
        raise UserError(f"--batch-size is {batch_size}; allowed is 1 or more")
    return run_shapes(spec, component=component, batch_size=batch_size).table


def verify_recipe(recipe: Recipe, spec: StudySpec, *, device: str) -> Score:
    """Apply a recipe to the study's model by emulation and score it on the held-out prompts, drawn anew.

    Raises:
        RecipeMismatchError: the recipe is for another component or other Linears.
    """
    check_device(device)
    distance = study_distance(spec, device=device)
    loaded = load_pipeline(spec, device=device)
    recipe.apply(loaded.pipe, emulate=True)
    evaluator = Evaluator(loaded, cache_folder=default_cache_folder(), distance=distance)
    try:
        return evaluator.score(recipe.layers, "held_out")
    finally:
        evaluator.close()
