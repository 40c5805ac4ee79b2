"""Choose another skip-list of a finished search: `select_recipe`. No trial is proposed or run."""

from collections.abc import Callable

from sensitivity.core.devices import check_device
from sensitivity.errors import StoreError
from sensitivity.search.finished import assume_settings, list_studies, pick_study
from sensitivity.search.front import check_constraints
from sensitivity.search.held_out import HeldOutScores
from sensitivity.search.loop import read_search, study_name
from sensitivity.search.store import Store, default_storage
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.find import SearchOutcome, _conclude, prepare
from sensitivity.workflows.requests import SearchRequest, SelectRequest


def select_recipe(
    spec: StudySpec,
    request: SelectRequest,
    *,
    say: Callable[[str], None] = lambda _text: None,
    verifying: Callable[[int, int], None] = lambda _done, _total: None,
) -> SearchOutcome:
    """Choose again from the trials of a study that is in the database.

    No trial is proposed or drawn; held-out scores that are missing are, where `verify` says so.

    Raises:
        StoreError: the database is not there, none or several of its studies are wanted, or the one
            was made under other conditions.
        ConstraintError: no skip-list keeps to the constraints; it carries the outcome.
    """
    check_constraints(request.constraints)
    check_device(request.device)
    path = request.storage or default_storage(spec)
    if not path.is_file():
        raise StoreError(
            f"{path} is not there; allowed is the database of a search: run `sensitivity search"
            f" --model {spec.name}`, or pass its --storage"
        )
    with Store.open(path) as store:
        study = pick_study(
            list_studies(store, spec.name), request.wanted, model=spec.name, database=path
        )
        settings = study.settings or assume_settings(
            request.wanted, target=spec.pricing.target, budget=study.finished
        )
        as_searched = SearchRequest(
            formats=settings.formats,
            target=settings.target,
            granularity=settings.granularity,
            device=request.device,
            cache_folder=request.cache_folder,
            compiled=request.compiled,
        )
        prepared = prepare(spec, as_searched, say=say)
        evaluator, candidates = prepared.evaluator, prepared.candidates
        try:
            if study_name(evaluator, candidates, settings) != study.name:
                raise StoreError(
                    f"the study {study.name} was made with another model, prompts, prices, package"
                    " versions or thread count than there are here; allowed is the same: choose"
                    " where it was made, or search again"
                )
            result = read_search(store, study.name, candidates)
            early = f", {len(result.stopped)} more stopped early" if result.stopped else ""
            say(
                f"choosing among the {len(result.trials)} trials of study {study.name}"
                f" ({settings.budget} were asked for{early})"
            )
            scores = HeldOutScores(
                evaluator=evaluator,
                store=store,
                candidates=candidates,
                draw=request.verify,
                progress=verifying,
            )
            return _conclude(prepared, settings, request.constraints, result, scores, say)
        finally:
            evaluator.close()
