"""The main job as one library call: study in, recipe out. `find_recipe`.

    outcome = find_recipe("tiny-flux", SearchRequest(formats="nvfp4", budget=50))
    outcome.recipe.save("recipes/tiny-flux-nvfp4-b200.json")

`prepare` loads, profiles, prices and groups; `search.loop.run_search` scores trials; `conclude`
chooses, verifies and describes; `time_winner` times it end to end. `sensitivity search` does
nothing that this call does not.
"""

import os
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

from sensitivity.search.finished import find_prices
from sensitivity.search.held_out import HeldOutScores
from sensitivity.search.loop import SearchResult, run_search
from sensitivity.search.settings import SearchSettings
from sensitivity.search.store import Store, default_storage
from sensitivity.search.trials import SearchEvents
from sensitivity.spec.loading import spec_of
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.comparing import say_by_what
from sensitivity.workflows.conclude import SearchOutcome, conclude
from sensitivity.workflows.kept_activity import INTERRUPTED, Doing, keeping_activity
from sensitivity.workflows.outlook import outlook_of, picture_seconds
from sensitivity.workflows.picture_files import pictures_folder
from sensitivity.workflows.picture_keeper import keeping_pictures
from sensitivity.workflows.prepare import Prepared, prepare
from sensitivity.workflows.progress import Measuring, Outlook, Say, silent
from sensitivity.workflows.requests import SearchRequest
from sensitivity.workflows.time_winner import is_timed, keep_times, time_winner


def find_recipe(
    model: StudySpec | str | os.PathLike[str],
    request: SearchRequest | None = None,
    *,
    events: SearchEvents | None = None,
    say: Say = silent,
    verifying: Callable[[int, int], None] = lambda _done, _total: None,
    measuring: Measuring | None = None,
    expected: Callable[[Outlook], None] | None = None,
    found: Callable[[SearchOutcome], None] = lambda _outcome: None,
) -> SearchOutcome:
    """Search, choose, verify and describe as a recipe.

    Nothing is written but the study's database, pictures of verified lists beside it, the cache of
    references, and the table of measured shapes. A search that was interrupted goes on where it
    stopped. A search by measured latency ends with end-to-end times of the winner and the lists
    beside it (`time_winner`).

    Args:
        model: the study, or what `resolve_spec` takes; it is derived where only its model is known.
        request: what is searched, with which budget, and the bounds on the winner; None is a
            search with every default.
        events: called as trials begin and end.
        say: called with each step as it begins.
        verifying: called with (held-out pictures done, in all).
        measuring: how the caller follows a measurement of shapes.
        expected: called with what is known before the model is loaded, and again before the first
            picture; None saves a second or so.
        found: called with the outcome before its winner is timed end to end. Who writes the recipe
            then has it whatever happens to the timing.

    Raises:
        UserError: and its kinds, for anything that the caller can mend.
        MeasurementError: trials failed alike in a row, or every quantized skip-list failed.
    """
    spec, request = spec_of(model), request or SearchRequest()
    with (
        Store.open(request.storage or default_storage(spec)) as store,
        _keeping_activity(store, request) as doing,
    ):
        say, verifying = doing.say(say), doing.verifying(verifying)
        prices = partial(find_prices, store, spec.name)
        told = None if expected is None else doing.expected(expected)
        grouped = None if told is None else lambda *known: told(outlook_of(*known))
        prepared = prepare(
            spec, request, say=say, measuring=measuring, studies=prices, grouped=grouped
        )
        say_by_what(prepared.evaluator, say)
        if told is not None:
            picture = picture_seconds(prepared, request, store)
            told(outlook_of(prepared.candidates, prepared.latency, picture))
        outcome = _searched(prepared, request, store, doing.events(events), verifying, say)
        if is_timed(outcome):
            found(outcome)
            doing.timing()
            outcome = time_winner(outcome, say=say)
            keep_times(outcome, store)
        if outcome.result.interrupted:
            doing.log.end(INTERRUPTED)
        return outcome


def _keeping_activity(store: Store, request: SearchRequest) -> AbstractContextManager[Doing]:
    """Inside, the database says what the search is at."""
    return keeping_activity(
        store, "search", request.device, request.budget, command=request.command
    )


def _searched(
    prepared: Prepared,
    request: SearchRequest,
    store: Store,
    events: SearchEvents,
    verifying: Callable[[int, int], None],
    say: Say,
) -> SearchOutcome:
    """Run the trials, choose, and verify. The evaluator is closed whatever happens."""
    evaluator, candidates = prepared.evaluator, prepared.candidates
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
    if outcome.recipe is not None:
        outcome = replace(outcome, recipe=outcome.recipe.made_by(request.command))
    return replace(outcome, database=store.path)


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
        consumers=request.consumers,
    )
