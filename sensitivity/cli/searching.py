"""What `search` and `worker` do alike: search with progress, and end as one of several may.

    path = recipe_path(spec, request, out)
    run_search(console, spec, request, path, json_path, named=False)

Of several workers of a study one verifies the winner, prints the verdict and writes the recipe; the
others say which that is.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from sensitivity.cli.outputs import check_recipe, default_recipe
from sensitivity.cli.ranks import is_quiet, prefix
from sensitivity.cli.screen import print_line
from sensitivity.core.arithmetic import served_otherwise
from sensitivity.core.supervised import tell_supervisor

if TYPE_CHECKING:
    from sensitivity.cli.render.live_search import SearchProgress
    from sensitivity.search.trials import SearchEvents
    from sensitivity.spec.study_spec import StudySpec
    from sensitivity.workflows.conclude import SearchOutcome
    from sensitivity.workflows.requests import SearchRequest


def recipe_path(
    spec: "StudySpec", request: "SearchRequest", out: Path | None, *, writes: bool = True
) -> Path:
    """Where the recipe goes.

    Raises:
        OutputError: `writes` is on, and nothing can be written there.
    """
    from sensitivity.latency.devices import get_device
    from sensitivity.search.settings import for_words
    from sensitivity.search.store import default_storage, kept_beside

    names = (spec.name, *request.formats, get_device(request.target or spec.pricing.target).name)
    path = out or default_recipe(
        kept_beside(request.storage, spec),
        *names,
        *served_otherwise(request.own_arithmetic),
        *for_words(request.consumers),
    )
    if writes:
        check_recipe(path, request.storage or default_storage(spec))
    return path


def run_search(
    console: Console,
    spec: "StudySpec",
    request: "SearchRequest",
    path: Path,
    json_path: str | None,
    *,
    named: bool,
    show_all: bool = False,
) -> None:
    """Search with progress, then print what was found and write the recipe.

    Args:
        console: prints.
        spec: the study.
        request: what is searched.
        path: where the recipe goes.
        json_path: where it goes as JSON too.
        named: whether the user named `path`.
        show_all: print what the verdict rests on, too.
    """
    from sensitivity.cli.finishing import end_interrupted, finish, showing_the_front, write_recipe
    from sensitivity.cli.signals import ending_in_order
    from sensitivity.workflows.find import find_recipe

    progress = _progress(console, request)

    def keep(outcome: "SearchOutcome") -> None:
        """Write the recipe before its run is timed, which may end the process."""
        if outcome.recipe is not None:
            progress.timing()
            written = write_recipe(outcome.recipe, path, named=named)
            progress.say(f"recipe: {written}, whose seconds are the sum of shapes until now")

    with ending_in_order(), showing_the_front(console), progress:
        outcome = find_recipe(
            spec,
            request,
            events=_telling(progress.events),
            say=progress.say,
            verifying=_counted(progress.verifying),
            measuring=progress.measuring,
            expected=progress.expected,
            found=keep,
        )
    if outcome.result.interrupted:
        end_interrupted(console, outcome, progress.kept())
    if outcome.concluded_by is not None:
        print_line(
            console,
            f"{prefix()}the trials are done; {outcome.concluded_by} verifies the winner and writes"
            " the recipe",
        )
        return
    finish(console, outcome, path, json_path, budget=request.budget, named=named, show_all=show_all)


def _progress(console: Console, request: "SearchRequest") -> "SearchProgress":
    """What shows the search: less where another process of this host shows it."""
    from sensitivity.cli.render.live_search import SearchProgress
    from sensitivity.cli.render.quiet_search import QuietProgress

    if is_quiet():
        return QuietProgress(
            console, prefix(), budget=request.budget, constraints=request.constraints
        )
    return SearchProgress(console, budget=request.budget, constraints=request.constraints)


def _telling(events: "SearchEvents") -> "SearchEvents":
    """The events of a search that tell the supervisor, too, when something is finished."""

    def told(event: Callable[..., None]) -> Callable[..., None]:
        def tell(*given: Any) -> None:
            tell_supervisor(finished=1)
            event(*given)

        return tell

    return replace(
        events,
        scored=told(events.scored),
        stopped=told(events.stopped),
        failed=told(events.failed),
        calibrated=_counted(events.calibrated),
    )


def _counted(event: Callable[[int, int], None]) -> Callable[[int, int], None]:
    """The same for an event that is called with (done, total): what was done before the first call
    was not done by this process.
    """
    before: list[int] = []

    def tell(done: int, total: int) -> None:
        if before and done > before[-1]:
            tell_supervisor(finished=1)
        before.append(done)
        event(done, total)

    return tell
