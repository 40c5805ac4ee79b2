"""What `search` and `select` do at their end: print the front and the winner, write the recipe."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console

from sensitivity.cli.outputs import save_recipe, write_json
from sensitivity.cli.recipe_paths import own_path
from sensitivity.cli.render.front import front_table
from sensitivity.cli.render.judges import judge_table
from sensitivity.cli.render.measured import end_table
from sensitivity.cli.render.tables import dead_pattern_lines, fixed_table
from sensitivity.cli.render.winner import others_s, winner_lines
from sensitivity.cli.screen import print_line
from sensitivity.core.words import and_more
from sensitivity.errors import ConstraintError, MeasurementError
from sensitivity.recipes.recipe import Recipe
from sensitivity.spec.overrides import random_notice
from sensitivity.workflows.conclude import SearchOutcome


@contextmanager
def showing_the_front(console: Console) -> Iterator[None]:
    """Where no skip-list keeps to the constraints, print the front before the error says so."""
    try:
        yield
    except ConstraintError as error:
        if error.outcome is not None:
            _print_tables(console, error.outcome)
        raise


def finish(
    console: Console,
    outcome: SearchOutcome,
    recipe_path: Path,
    json_path: str | None,
    *,
    budget: int,
    named: bool,
) -> None:
    """Print what was found, and write the recipe where there is one.

    Args:
        console: prints.
        outcome: what was found.
        recipe_path: where the recipe goes; unless the user named it, another choice's recipe that
            is there stays, and a path beside it is taken (`recipe_paths`).
        json_path: where the recipe goes as JSON too.
        budget: the trials that were asked for.
        named: whether the user named `recipe_path`.

    Raises:
        KeyboardInterrupt: the search was interrupted.
        MeasurementError: no trial finished.
    """
    prepared = outcome.prepared
    candidates = prepared.candidates
    console.print(fixed_table(candidates.fixed))
    for line in dead_pattern_lines(candidates.dead):
        print_line(console, line, style="yellow")
    _print_tables(console, outcome)
    if outcome.result.interrupted:
        raise KeyboardInterrupt
    if outcome.recipe is None:
        raise MeasurementError(
            f"none of the trials finished{_why(outcome.result.failures)}; mend the cause and run"
            " the same command again"
        )
    if outcome.times is not None:
        console.print(
            end_table(
                outcome.times,
                linears=len(prepared.table.linears),
                others_s=others_s(outcome.recipe.latency),
            )
        )
    path = write_recipe(outcome.recipe, recipe_path, named=named)
    kept = "" if path == recipe_path else f" ({recipe_path} holds another choice, and is kept)"
    lines = [*winner_lines(outcome), *_about_trials(outcome, budget), f"recipe: {path}{kept}"]
    if (spec := prepared.evaluator.spec).model.random_seed is not None:
        lines.append(random_notice(spec))
    print_line(console, "\n".join(lines))
    write_json(json.loads(outcome.recipe.to_json()), json_path)


def _print_tables(console: Console, outcome: SearchOutcome) -> None:
    """The front, and what judges say of the skip-lists that were verified."""
    console.print(front_table(outcome))
    if (judges := judge_table(outcome)) is not None:
        console.print(judges)


def write_recipe(recipe: Recipe, path: Path, *, named: bool) -> Path:
    """Write a recipe and say where it went: `path`, or, if the user did not name that and it holds
    another choice's recipe, one beside it.
    """
    own = path if named else own_path(path, recipe)
    save_recipe(recipe, own)
    return own


def _about_trials(outcome: SearchOutcome, budget: int) -> list[str]:
    """Trials that stopped early, that were not run, and that failed."""
    result, lines = outcome.result, []
    if result.stopped:
        lines.append(
            f"{len(result.stopped)} of {result.tried} trials stopped early,"
            f" {result.pictures_saved} pictures were not generated"
        )
    if result.tried < budget:
        gains = (gain for g in outcome.prepared.candidates.groups for gain in g.gains_s)
        why = (
            "every skip-list that could be found had been tried"
            if max(gains, default=0.0) > 0
            else "no group of Linears is faster quantized, so there is nothing to search"
        )
        lines.append(f"{result.tried} of {budget} trials: {why}")
    if result.failed:
        lines.append(f"{result.failed} trials failed{_why(result.failures)}")
    lines += [
        f"{name} could not be verified and was passed over ({reason})"
        for name, reason in outcome.unverified.items()
    ]
    return lines


def _why(reasons: Sequence[str]) -> str:
    """The reasons of failures, each once: " (MeasurementError: ...)"; "" where there is none."""
    found = and_more(dict.fromkeys(reasons), most=3, separator="; ")
    return f" ({found})" if found else ""
