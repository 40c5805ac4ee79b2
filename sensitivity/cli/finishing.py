"""What `search` and `select` do at their end: write the recipe, and say what was found.

The verdict comes first, what it rests on only with `--all`, and what one types next comes last.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from rich.console import Console

from sensitivity.cli.next_commands import next_commands, print_commands
from sensitivity.cli.outputs import save_recipe, write_json
from sensitivity.cli.recipe_paths import own_path
from sensitivity.cli.render.candidates import dead_pattern_lines, fixed_table
from sensitivity.cli.render.front import front_table, front_words
from sensitivity.cli.render.judges import judge_table
from sensitivity.cli.render.measured import end_table
from sensitivity.cli.render.verdict import verdict_screen
from sensitivity.cli.render.winner import how_chosen, note_lines, others_s
from sensitivity.cli.screen import print_line
from sensitivity.core.words import and_more
from sensitivity.errors import ConstraintError, MeasurementError, SensitivityError
from sensitivity.recipes.recipe import Recipe
from sensitivity.search.finished import list_optuna_studies
from sensitivity.search.store import Store
from sensitivity.spec.overrides import random_notice
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.report.snippets import snippets_of
from sensitivity.workflows.report.verdict import verdict_of


@contextmanager
def showing_the_front(console: Console) -> Iterator[None]:
    """Where no skip-list keeps to the constraints, print the front before the error says so."""
    try:
        yield
    except ConstraintError as error:
        if error.outcome is not None:
            console.print(front_table(error.outcome))
        raise


def end_interrupted(console: Console, outcome: SearchOutcome, kept: str) -> NoReturn:
    """End a search that was interrupted: its front, if there is one, and what is kept.

    Args:
        console: prints.
        outcome: has no winner.
        kept: what is finished, in words.

    Raises:
        KeyboardInterrupt: always; the command line says how to go on.
    """
    none = outcome.prepared.candidates.none_quantized
    if any(trial.choice != none for trial in outcome.result.trials):
        console.print(front_table(outcome))
    print_line(console, f"finished and kept: {kept}")
    raise KeyboardInterrupt


def finish(
    console: Console,
    outcome: SearchOutcome,
    recipe_path: Path,
    json_path: str | None,
    *,
    budget: int,
    named: bool,
    show_all: bool = False,
) -> None:
    """Write the recipe, then print the verdict, what to know of the trials, and the next commands.

    Args:
        console: prints.
        outcome: what was found.
        recipe_path: where the recipe goes; unless the user named it, another choice's recipe that
            is there stays, and a path beside it is taken (`recipe_paths`).
        json_path: where the recipe goes as JSON too.
        budget: the trials that were asked for.
        named: whether the user named `recipe_path`.
        show_all: print the front, judges and timed lists too.

    Raises:
        MeasurementError: no trial finished.
    """
    recipe = outcome.recipe
    if recipe is None:
        raise MeasurementError(
            f"none of the trials finished{_why(outcome.result.failures)}; mend the cause and run"
            " the same command again"
        )
    path = write_recipe(recipe, recipe_path, named=named)
    snippets = snippets_of(recipe)
    more = [("front", front_words(outcome) + ("" if show_all else " (--all prints each)"))]
    console.print(verdict_screen(verdict_of(recipe), snippets, more=more))
    _print_notes(console, outcome, budget)
    if show_all:
        _print_tables(console, outcome, recipe)
    kept = "" if path == recipe_path else f" ({recipe_path} holds another choice, and is kept)"
    print_line(console, f"\nrecipe: {path}{kept}")
    if outcome.database is not None:
        print_line(console, f"database: {outcome.database} (trials, scores)")
    commands = next_commands(
        outcome,
        path,
        [own.consumer for own in snippets if own.text],
        study=_study_to_name(outcome),
    )
    print_line(console, "")
    print_commands(console, commands)
    write_json(json.loads(recipe.to_json()), json_path)


def _print_notes(console: Console, outcome: SearchOutcome, budget: int) -> None:
    """What to know beside the verdict: of trials, times, random weights and dead patterns."""
    notes = [
        *_about_trials(outcome, budget),
        *note_lines(outcome),
        *dead_pattern_lines(outcome.prepared.candidates.dead),
    ]
    if (spec := outcome.prepared.evaluator.spec).model.random_seed is not None:
        notes.append(random_notice(spec))
    if notes:
        print_line(console, "")
    for line in notes:
        print_line(console, line, style="yellow")


def _print_tables(console: Console, outcome: SearchOutcome, recipe: Recipe) -> None:
    """What the verdict rests on: the front, judges, timed lists, and what was never searched."""
    prepared = outcome.prepared
    parts = [front_table(outcome), how_chosen(outcome), judge_table(outcome)]
    if outcome.times is not None:
        linears, others = len(prepared.table.linears), others_s(recipe.latency)
        parts.append(end_table(outcome.times, linears=linears, others_s=others))
    parts.append(fixed_table(prepared.candidates.fixed))
    for part in parts:
        if part:
            console.print()
            console.print(part)


def _study_to_name(outcome: SearchOutcome) -> str | None:
    """The study's name, where its database holds several of the model; else None."""
    model, database = outcome.prepared.evaluator.spec.name, outcome.database
    if database is None:
        return None
    try:
        with Store.read(database, makes_again=False) as store:
            studies = [own for own in list_optuna_studies(store, model) if not own.is_continued]
    except SensitivityError:  # the command that is shown then tells
        return None
    return outcome.result.study if len(studies) > 1 else None


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
