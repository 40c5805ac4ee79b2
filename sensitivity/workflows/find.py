"""The main job as one library call: study in, recipe out. `find_recipe`.

    request = SearchRequest(formats=(FormatName.NVFP4,), budget=50)
    outcome = find_recipe(resolve_spec("tiny-flux"), request)
    outcome.recipe.save("recipes/tiny-flux-nvfp4-b200.json")

`prepare` loads, profiles, prices and groups; `search.loop.run_search` scores trials; `conclude`
chooses, verifies and describes. `sensitivity search` does nothing that this call does not.
"""

from collections.abc import Callable

from sensitivity.search.held_out import HeldOutScores
from sensitivity.search.loop import run_search
from sensitivity.search.settings import SearchSettings
from sensitivity.search.store import Store, default_storage
from sensitivity.search.trials import SearchEvents
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.conclude import SearchOutcome, conclude
from sensitivity.workflows.prepare import prepare
from sensitivity.workflows.progress import Say, silent
from sensitivity.workflows.requests import SearchRequest


def find_recipe(
    spec: StudySpec,
    request: SearchRequest,
    *,
    events: SearchEvents | None = None,
    say: Say = silent,
    verifying: Callable[[int, int], None] = lambda _done, _total: None,
) -> SearchOutcome:
    """Search, choose, verify and describe as a recipe.

    Nothing is written but the study's database and the cache of references. A search that was
    interrupted goes on where it stopped.

    Args:
        spec: the study; it is derived where only its model is known.
        request: what is searched, with which budget, and the bounds on the winner.
        events: called as trials begin and end.
        say: called with each step as it begins.
        verifying: called with (held-out pictures done, in all).

    Raises:
        UserError: and its kinds, for anything that the caller can mend.
        MeasurementError: trials failed alike in a row, or every quantized skip-list failed.
    """
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
            arithmetic=request.arithmetic,
        )
        try:
            result = run_search(evaluator, candidates, store, settings, events)
            scores = HeldOutScores(
                evaluator=evaluator,
                store=store,
                candidates=candidates,
                progress=verifying,
                noted=say,
            )
            return conclude(prepared, settings, request.constraints, result, scores, say)
        finally:
            evaluator.close()
