"""The main job as one library call: study in, recipe out. `find_recipe`.

    request = SearchRequest(formats=(FormatName.NVFP4,), budget=50)
    outcome = find_recipe(resolve_spec("tiny-flux"), request)
    outcome.recipe.save("recipes/tiny-flux-nvfp4-b200.json")

`prepare` loads, profiles, prices and groups; `search.loop.run_search` scores trials; `conclude`
chooses, verifies and describes; `time_winner` times it end to end. `sensitivity search` does
nothing that this call does not.
"""

from collections.abc import Callable

from sensitivity.search.finished import find_prices
from sensitivity.search.held_out import HeldOutScores
from sensitivity.search.loop import SearchResult, run_search
from sensitivity.search.settings import SearchSettings
from sensitivity.search.store import Store, default_storage
from sensitivity.search.trials import SearchEvents
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.comparing import say_by_what
from sensitivity.workflows.conclude import SearchOutcome, conclude
from sensitivity.workflows.picture_files import pictures_folder
from sensitivity.workflows.picture_keeper import keeping_pictures
from sensitivity.workflows.prepare import Prepared, prepare
from sensitivity.workflows.progress import Measuring, Say, silent
from sensitivity.workflows.requests import SearchRequest
from sensitivity.workflows.time_winner import is_timed, keep_times, time_winner


def find_recipe(
    spec: StudySpec,
    request: SearchRequest,
    *,
    events: SearchEvents | None = None,
    say: Say = silent,
    verifying: Callable[[int, int], None] = lambda _done, _total: None,
    measuring: Measuring | None = None,
    found: Callable[[SearchOutcome], None] = lambda _outcome: None,
) -> SearchOutcome:
    """Search, choose, verify and describe as a recipe.

    Nothing is written but the study's database, pictures of verified lists beside it, the cache of
    references, and the table of measured shapes. A search that was interrupted goes on where it
    stopped. A search by measured latency ends with end-to-end times of the winner and the lists
    beside it (`time_winner`).

    Args:
        spec: the study; it is derived where only its model is known.
        request: what is searched, with which budget, and the bounds on the winner.
        events: called as trials begin and end.
        say: called with each step as it begins.
        verifying: called with (held-out pictures done, in all).
        measuring: how the caller follows a measurement of shapes.
        found: called with the outcome before its winner is timed end to end. Who writes the recipe
            then has it whatever happens to the timing.

    Raises:
        UserError: and its kinds, for anything that the caller can mend.
        MeasurementError: trials failed alike in a row, or every quantized skip-list failed.
    """
    with Store.open(request.storage or default_storage(spec)) as store:
        prepared = prepare(
            spec,
            request,
            say=say,
            measuring=measuring,
            studies=lambda: find_prices(store, spec.name),
        )
        evaluator, candidates = prepared.evaluator, prepared.candidates
        say_by_what(evaluator, say)
        settings = _settings(request, prepared)
        try:
            result = run_search(evaluator, candidates, store, settings, events)
            scores = HeldOutScores(
                evaluator=evaluator,
                store=store,
                candidates=candidates,
                progress=verifying,
                noted=say,
            )
            outcome = _concluded(prepared, settings, request, result, scores, say)
        finally:
            evaluator.close()
        if is_timed(outcome):
            found(outcome)
            outcome = time_winner(outcome, say=say)
            keep_times(outcome, store)
        return outcome


def _concluded(
    prepared: Prepared,
    settings: SearchSettings,
    request: SearchRequest,
    result: SearchResult,
    scores: HeldOutScores,
    say: Say,
) -> SearchOutcome:
    """The end of a search, with the pictures of what is verified kept beside the database."""
    evaluator = prepared.evaluator
    folder = pictures_folder(request.storage or default_storage(evaluator.spec), result.study)
    with keeping_pictures(evaluator, folder, most=request.keep_pictures) as keeper:
        outcome = conclude(prepared, settings, request.constraints, result, scores, say)
        keeper.finish_with(outcome.chosen, result, prepared.candidates)
        keeper.keep_floor(evaluator)
    return outcome


def _settings(request: SearchRequest, prepared: Prepared) -> SearchSettings:
    """What the study keeps of the request."""
    return SearchSettings(
        formats=request.formats,
        target=prepared.latency.target,
        budget=request.budget,
        seed=request.seed,
        sampler=request.sampler,
        granularity=request.granularity,
        calibrated=request.calibrated,
        arithmetic=request.own_arithmetic,
        emulate=request.emulate,
        latency=prepared.latency.source,
        runtime=prepared.latency.runtime.name,
        objective=request.objective,
    )
