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
from dataclasses import dataclass, replace
from functools import partial

from sensitivity.errors import ConstraintError, MeasurementError
from sensitivity.search.claims import Claims
from sensitivity.search.ending import Ending
from sensitivity.search.finished import find_prices
from sensitivity.search.held_out import HeldOutScores
from sensitivity.search.kept_prices import KeptPrices
from sensitivity.search.loop import SearchResult, run_search
from sensitivity.search.settings import SearchSettings, study_name
from sensitivity.search.shared_work import SharedWork
from sensitivity.search.store import Store, default_storage, kept_beside
from sensitivity.search.trials import SearchEvents
from sensitivity.search.workers import Worker
from sensitivity.spec.loading import spec_of
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.comparing import say_by_what
from sensitivity.workflows.conclude import SearchOutcome, conclude, not_concluded, verify_together
from sensitivity.workflows.kept_activity import INTERRUPTED, Doing, keeping_activity
from sensitivity.workflows.kept_request import check_joined, kept_request
from sensitivity.workflows.outlook import outlook_of, picture_seconds
from sensitivity.workflows.picture_files import pictures_folder
from sensitivity.workflows.picture_keeper import PictureKeeper, keeping_pictures
from sensitivity.workflows.prepare import Prepared, prepare
from sensitivity.workflows.progress import Measuring, Outlook, Say, silent
from sensitivity.workflows.requests import SearchRequest
from sensitivity.workflows.shared_prices import SharedPrices
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

    Several processes may search one study, on a server or with `request.shared`. One of them
    chooses and verifies when all trials are there; the others return then, with
    `SearchOutcome.concluded_by` and without a recipe. The same call, made later, concludes anew
    from what is kept.

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
        StoreError: `request.joins` names another study than the one that comes of the request here.
        UserError: and its kinds, for anything that the caller can mend.
        MeasurementError: trials failed alike in a row, or every quantized skip-list failed.
    """
    spec, request = spec_of(model), request or SearchRequest()
    with (
        Store.open(request.storage or default_storage(spec), shared=request.shared) as store,
        _keeping_activity(store, request) as doing,
    ):
        store.keep_spool_beside(request.cache_folder)
        say, verifying = doing.say(say), doing.verifying(verifying)
        told = None if expected is None else doing.expected(expected)
        prepared = _prepared(spec, request, store, doing.worker, say, measuring, told)
        search = _Search(prepared, request, store, doing.worker)
        outcome = search.run(doing.events(events), verifying, say)
        if is_timed(outcome):
            found(outcome)
            doing.timing()
            outcome = time_winner(outcome, say=say)
            keep_times(outcome, store)
        if outcome.result.interrupted:
            doing.log.end(INTERRUPTED)
        return outcome


def _prepared(
    spec: StudySpec,
    request: SearchRequest,
    store: Store,
    worker: Worker | None,
    say: Say,
    measuring: Measuring | None,
    told: Callable[[Outlook], None] | None,
) -> Prepared:
    """What the trials begin with; workers of one database have the same prices."""
    prices: Callable[[], list[KeptPrices]] = partial(find_prices, store, spec.name)
    if store.is_shared and worker is not None:
        shared = SharedPrices(store, Claims(store, worker), spec, request, say)
        prices, measuring = shared.find, shared.following(measuring)
    grouped = None if told is None else lambda *known: told(outlook_of(*known))
    prepared = prepare(spec, request, say=say, measuring=measuring, studies=prices, grouped=grouped)
    say_by_what(prepared.evaluator, say)
    if told is not None:
        picture = picture_seconds(prepared, request, store)
        told(outlook_of(prepared.candidates, prepared.latency, picture))
    return prepared


def _keeping_activity(store: Store, request: SearchRequest) -> AbstractContextManager[Doing]:
    """Inside, the database says what the search is at."""
    return keeping_activity(
        store, "search", request.device, request.budget, command=request.command
    )


@dataclass(frozen=True)
class _Search:
    """One search of one process.

    Attributes:
        prepared: what is searched.
        request: how.
        store: where it is kept.
        worker: this process; None where the database may not be written.
    """

    prepared: Prepared
    request: SearchRequest
    store: Store
    worker: Worker | None

    def run(
        self, events: SearchEvents, verifying: Callable[[int, int], None], say: Say
    ) -> SearchOutcome:
        """Run the trials, choose, and verify. The evaluator is closed whatever happens."""
        evaluator, candidates = self.prepared.evaluator, self.prepared.candidates
        settings = _settings(self.request, self.prepared)
        try:
            if self.request.joins is not None:
                name = study_name(evaluator, candidates, settings)
                check_joined(self.store, self.request.joins, name, evaluator.environment)
            if self.worker is not None and self.store.is_shared:
                evaluator.sharing = SharedWork(Claims(self.store, self.worker))
            ending = Ending(self.store, self.worker)
            result = run_search(
                evaluator,
                candidates,
                self.store,
                settings,
                events,
                worker=self.worker,
                kept=kept_request(evaluator.spec, self.request, evaluator.environment),
            )
            scores = HeldOutScores(
                evaluator=evaluator,
                store=self.store,
                candidates=candidates,
                progress=verifying,
                noted=say,
            )
            outcome = self._end(ending, settings, result, scores, say)
        finally:
            evaluator.close()
        if outcome.recipe is not None:
            outcome = replace(outcome, recipe=outcome.recipe.made_by(self.request.command))
        return replace(outcome, database=self.store.storage)

    def _end(
        self,
        ending: Ending,
        settings: SearchSettings,
        result: SearchResult,
        scores: HeldOutScores,
        say: Say,
    ) -> SearchOutcome:
        """The end of a search, if no other worker is at it."""
        try:
            self._verify_together(result, scores, say)
        except KeyboardInterrupt:
            result = replace(result, interrupted=True)
        if result.interrupted:
            return self._concluded(settings, result, scores, say)
        by = ending.take(result.study)
        if by is not None:
            return not_concluded(self.prepared, result, by)
        try:
            outcome = self._concluded(settings, result, scores, say)
            if not outcome.result.interrupted:
                ending.note()
            return outcome
        except (ConstraintError, MeasurementError):
            ending.note()
            raise
        finally:
            ending.release()

    def _verify_together(self, result: SearchResult, scores: HeldOutScores, say: Say) -> None:
        """Draw what the choice will ask for with the other workers, and keep its pictures."""
        with self._keeping_pictures(result):
            verify_together(self.prepared, self.request.constraints, result, scores, say)

    def _keeping_pictures(self, result: SearchResult) -> AbstractContextManager[PictureKeeper]:
        evaluator, request = self.prepared.evaluator, self.request
        folder = pictures_folder(kept_beside(request.storage, evaluator.spec), result.study)
        locked = partial(self.store.locked, "pictures")
        return keeping_pictures(evaluator, folder, most=request.keep_pictures, locked=locked)

    def _concluded(
        self, settings: SearchSettings, result: SearchResult, scores: HeldOutScores, say: Say
    ) -> SearchOutcome:
        """The choice, with the pictures of what is verified kept beside the database."""
        evaluator, request = self.prepared.evaluator, self.request
        with self._keeping_pictures(result) as keeper:
            outcome = conclude(self.prepared, settings, request.constraints, result, scores, say)
            keeper.finish_with(outcome.chosen, result, self.prepared.candidates)
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
        edge_steps=request.edge_steps,
        first_steps=request.first_steps,
        last_steps=request.last_steps,
    )
