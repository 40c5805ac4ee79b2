"""How does a caller in Python follow a search? `find_recipe`, with progress where it is asked for.

    outcome = find_recipe("tiny-flux", SearchRequest(budget=3), progress=True)

It is `workflows.find.find_recipe` with what `sensitivity search` shows while it runs: one live view
on a terminal, and plain lines elsewhere, a notebook included. Nothing is shown otherwise.
"""

import os
import sys
from collections.abc import Callable

from sensitivity.cli.render.live_search import SearchProgress
from sensitivity.cli.screen import TextConsole
from sensitivity.errors import UserError
from sensitivity.search.trials import SearchEvents
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows import find
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.progress import Measuring, Say, silent
from sensitivity.workflows.requests import SearchRequest


def find_recipe(
    model: StudySpec | str | os.PathLike[str],
    request: SearchRequest | None = None,
    *,
    progress: bool = False,
    events: SearchEvents | None = None,
    say: Say = silent,
    verifying: Callable[[int, int], None] = lambda _done, _total: None,
    measuring: Measuring | None = None,
    found: Callable[[SearchOutcome], None] = lambda _outcome: None,
) -> SearchOutcome:
    """Search, choose, verify and describe as a recipe.

    Nothing is written but the study's database, pictures of verified lists beside it, the cache of
    references, and the table of measured shapes. A search that was interrupted goes on where it
    stopped.

    Args:
        model: a study, or what `resolve_spec` takes: a study's name, a TOML, a diffusers folder or
            a Hub id.
        request: what is searched, with which budget, and the bounds on the winner; None is a
            search with every default.
        progress: whether to show what `sensitivity search` shows while it runs. `events`, `say`,
            `verifying` and `measuring` are not called then.
        events: called as trials begin and end.
        say: called with each step as it begins.
        verifying: called with (held-out pictures done, in all).
        measuring: how the caller follows a measurement of shapes.
        found: called with the outcome before its winner is timed end to end, in a search by
            measured latency.

    Raises:
        UserError: and its kinds, for anything that the caller can mend.
        MeasurementError: trials failed alike in a row, or every quantized skip-list failed.
    """
    request = SearchRequest() if request is None else request
    if not isinstance(request, SearchRequest):
        raise UserError(
            f"`request` is a {type(request).__name__}; expected a `SearchRequest`: write"
            " SearchRequest(budget=50)"
        )
    if progress:
        return _shown(model, request, found)
    return find.find_recipe(
        model,
        request,
        events=events,
        say=say,
        verifying=verifying,
        measuring=measuring,
        found=found,
    )


def _shown(
    model: StudySpec | str | os.PathLike[str],
    request: SearchRequest,
    found: Callable[[SearchOutcome], None],
) -> SearchOutcome:
    """The search, with its progress on the standard output."""
    shown = SearchProgress(python_console(), budget=request.budget, constraints=request.constraints)

    def named(outcome: SearchOutcome) -> None:
        shown.timing()
        found(outcome)

    with shown:
        return find.find_recipe(
            model,
            request,
            events=shown.events,
            say=shown.say,
            verifying=shown.verifying,
            measuring=shown.measuring,
            expected=shown.expected,
            found=named,
        )


def python_console() -> TextConsole:
    """A console for callers in Python: fields keep their names, and what is no terminal gets plain
    lines. A notebook is none, though its kernel asks for colours.
    """
    is_terminal = None if sys.stdout.isatty() else False
    return TextConsole(
        names_flags=False,
        force_jupyter=False,
        force_terminal=is_terminal,
        force_interactive=is_terminal,
    )
