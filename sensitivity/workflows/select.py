"""Choose another skip-list of a finished search: `select_recipe`.

The trials and their scores are read from the study's database. No trial is proposed or run.
Held-out scores that are missing are made, unless the request says otherwise: then nothing is
written, and a search may go on meanwhile.

    outcome = select_recipe("tiny-flux", SelectRequest(max_lpips=0.02))

The model is loaded all the same: only with it can be told whether the study was made under the
present conditions (weights, prompts, prices, versions, device). Measured prices are those that the
study keeps: nothing is measured, whatever became of the table of shapes. So are end-to-end times,
which the study has of the choice that its search named.
"""

import os
from collections.abc import Callable
from dataclasses import replace

from sensitivity.core.environment import describe_environment
from sensitivity.core.storage_url import Storage, is_missing
from sensitivity.errors import InUseError, StoreError
from sensitivity.latency.devices import get_device
from sensitivity.search.finished import (
    KeptStudy,
    assume_settings,
    list_optuna_studies,
    pick_study,
)
from sensitivity.search.held_out import HeldOutScores
from sensitivity.search.loop import SearchResult, read_search
from sensitivity.search.settings import EARLIER, PROPOSALS, SearchSettings, study_name
from sensitivity.search.store import Store, default_storage, kept_beside
from sensitivity.spec.loading import spec_of
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.comparing import say_by_what
from sensitivity.workflows.conclude import SearchOutcome, conclude
from sensitivity.workflows.kept_activity import keeping_activity
from sensitivity.workflows.picture_files import pictures_folder
from sensitivity.workflows.picture_keeper import keeping_pictures
from sensitivity.workflows.prepare import Prepared, prepare
from sensitivity.workflows.progress import Say, silent
from sensitivity.workflows.requests import SearchRequest, SelectRequest
from sensitivity.workflows.time_winner import with_kept_times


def select_recipe(
    model: StudySpec | str | os.PathLike[str],
    request: SelectRequest,
    *,
    say: Say = silent,
    verifying: Callable[[int, int], None] = lambda _done, _total: None,
    announced: Say | None = None,
) -> SearchOutcome:
    """Choose again from the trials of a study that is in the database.

    Args:
        model: the study, or what `resolve_spec` takes.
        request: which search of it, and the bounds on the winner.
        say: called with each step as it begins.
        verifying: called with (held-out pictures done, in all).
        announced: called with what will be drawn, and how long that takes; None: as `say`.

    Raises:
        StoreError: there is no database, it has no such study or several, or the study was made
            under other conditions; or another process has the database, and scores are to be made.
        DamageError: the study is not what its search wrote; or a score is not, and is not to be
            computed.
        ConstraintError: no skip-list keeps to the constraints; it carries the outcome.
        MeasurementError: every quantized skip-list failed.
    """
    spec = spec_of(model)
    storage = request.storage or default_storage(spec)
    with (
        _opened(storage, spec.name, verify=request.verify) as store,
        keeping_activity(store, "choice", request.device) as doing,
    ):
        say = doing.say(say)
        study = _pick(store, spec, request)
        doing.log.update(study=study.name)
        settings = _settings_of(study, spec, request)
        asked = _as_searched(settings, request, spec)
        prepared = prepare(spec, asked, say=say, prices=study.prices)
        try:
            say_by_what(prepared.evaluator, say)
            result = _read(store, study, settings, prepared)
            say(_choosing(result, settings))
            scores = HeldOutScores(
                evaluator=prepared.evaluator,
                store=store,
                candidates=prepared.candidates,
                compute=request.verify,
                progress=doing.verifying(verifying),
                noted=say,
                announced=announced,
            )
            folder = pictures_folder(kept_beside(storage, spec), result.study)
            most = request.keep_pictures if request.verify else 0
            with keeping_pictures(prepared.evaluator, folder, most=most) as keeper:
                outcome = conclude(prepared, settings, request.constraints, result, scores, say)
                keeper.finish_with(outcome.chosen, result, prepared.candidates)
            if outcome.recipe is not None:
                outcome = replace(outcome, recipe=outcome.recipe.made_by(request.command))
            return with_kept_times(replace(outcome, database=storage), store)
        finally:
            prepared.evaluator.close()


def _opened(storage: Storage, model: str, *, verify: bool) -> Store:
    """The database: beside a search that runs where nothing is written, else alone."""
    if is_missing(storage):
        raise StoreError(
            f"{storage} is not there; expected the database of a search: run `sensitivity search`"
            f" for {model}, or name its database in `storage`"
        )
    if not verify:
        return Store.read(storage, makes_again=False)
    try:
        return Store.open(storage, for_reading=True)
    except InUseError as error:
        raise InUseError(
            f"{error}, or turn `verify` off, which reads what is there and waits for nobody"
        ) from None


def _pick(store: Store, spec: StudySpec, request: SelectRequest) -> KeptStudy:
    """The study that is meant; one that minimised something else only if its name is given."""
    studies = list_optuna_studies(store, spec.name)
    alike = [study for study in studies if _has_objective(study, request.objective)]
    studies = studies if request.wanted.name is not None else alike or studies
    return pick_study(studies, request.wanted, model=spec.name, database=store.describe())


def _settings_of(study: KeptStudy, spec: StudySpec, request: SelectRequest) -> SearchSettings:
    """What the study was searched by. Raises StoreError where it cannot be read here."""
    settings = study.settings or assume_settings(
        request.wanted, target=spec.pricing.target, budget=study.finished
    )
    _check_prices(study, settings, request.device)
    _check_objective(study, settings, request.objective)
    return settings


def _as_searched(
    settings: SearchSettings, request: SelectRequest, spec: StudySpec
) -> SearchRequest:
    """The request that prepares the same candidates as the search had.

    A search keeps its device's name; if that is the device TOML of the study, it is read again.
    """
    own = spec.pricing.target
    target = own if get_device(own).name == settings.target else settings.target
    return SearchRequest(
        formats=settings.formats,
        arithmetic=settings.arithmetic,
        emulate=settings.keeps_to_emulation,
        target=target,
        granularity=settings.granularity,
        device=request.device,
        cache_folder=request.cache_folder,
        compiled=request.compiled,
        latency="predicted",
        runtime=settings.runtime,
        judges=request.judges,
        max_judge=request.max_judge,
        min_judge=request.min_judge,
        objective=request.objective,
        consumers=settings.consumers,
        edge_steps=settings.edge_steps,
        first_steps=settings.first_steps,
        last_steps=settings.last_steps,
    )


def _check_prices(study: KeptStudy, settings: SearchSettings, device: str) -> None:
    """Raise StoreError for a study that was priced by measured times and does not have them, or
    whose pictures were drawn on the GPU of these times, which is not here.
    """
    if settings.latency != "measured":
        return
    if study.prices is None:
        raise StoreError(
            f"the study {study.name} was priced by times that were measured, and they are not in"
            " the database; expected them with its trials: run the same search again, which"
            " measures them"
        )
    here = describe_environment(device)["device"]
    if here != study.prices.device:
        raise StoreError(
            f"the study {study.name} was searched on a {study.prices.device}, and `device`"
            f" {device} is a {here}; expected the same, since scores are those of the device that"
            " drew the pictures: choose there (its measured times are in the database), or search"
            " again here"
        )


def _has_objective(study: KeptStudy, objective: str | None) -> bool:
    return study.settings is None or study.settings.objective == objective


def _check_objective(study: KeptStudy, settings: SearchSettings, objective: str | None) -> None:
    """Raise StoreError for a study that was searched by another objective than is named now.

    Code that only a database names is never imported.
    """
    if settings.objective != objective:
        expected = "none" if settings.objective is None else settings.objective
        raise StoreError(
            f"the study {study.name} was searched by {settings.objective or 'LPIPS'}, and"
            f" `objective` is {objective or 'not given'}; expected {expected}: correct it, or name"
            " another `study`"
        )


def _read(
    store: Store, study: KeptStudy, settings: SearchSettings, prepared: Prepared
) -> SearchResult:
    """The study's trials. Raises StoreError if the study was made under other conditions."""
    own = [
        study_name(prepared.evaluator, prepared.candidates, settings, proposals=version)
        for version in (PROPOSALS, EARLIER)
    ]
    if study.name not in own:
        raise StoreError(
            f"the study {study.name} was made with another model, prompts, prices, package"
            " versions, device or thread count than there are here; expected the same: choose where"
            " it was made, or search again"
        )
    return read_search(store, study.name, prepared.candidates)


def _choosing(result: SearchResult, settings: SearchSettings) -> str:
    """What is chosen from, in words."""
    early = f", {len(result.stopped)} more stopped early" if result.stopped else ""
    trials = sum(not trial.label for trial in result.trials)
    return (
        f"choosing among the {trials} trials of study {result.study} ({settings.budget} were asked"
        f" for{early}) and {len(result.trials) - trials} baselines"
    )
