"""Which commands come next? What one types after a recipe is found, ready to paste.

    for what, command in next_commands(outcome, path, takers, study=None):
        print(what, command)

Options that say which model, prompts and database are meant are repeated as they were typed.
Another choice is a member of the front that lies halfway between the chosen one and the front's
end, so that it is a real alternative.
"""

import math
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich.console import Console

from sensitivity.cli.same_command import program
from sensitivity.cli.screen import print_line
from sensitivity.cli.typed_options import typed
from sensitivity.fidelity.words import lpips_words
from sensitivity.recipes.recipe import Recipe
from sensitivity.search.front import Constraints
from sensitivity.search.trials import ScoredTrial
from sensitivity.spec.shipped import list_studies
from sensitivity.workflows.conclude import SearchOutcome

PREFERRED = ("diffusers", "torchao", "modelopt", "compressed-tensors", "comfyui", "skip-list")
"""Consumers that an export is shown for, where the recipe does not say for whom it is."""
STUDY = ("prompts", "weights", "net", "steps", "settings", "objective", "device", "compiled")
"""Options that decide which study it is, beside its model and its database."""
MOST_DIGITS = 6


Commands = list[tuple[str, str]]
"""(what it does, the command)"""


def next_commands(
    outcome: SearchOutcome,
    path: Path,
    takers: Sequence[str],
    *,
    study: str | None = None,
) -> Commands:
    """Look, hand on, choose otherwise.

    Args:
        outcome: of a search or a selection, with a winner.
        path: of its recipe.
        takers: consumers that take the recipe as it is.
        study: the study's name where its database holds several of the model.
    """
    if outcome.recipe is None:
        return []
    spec = outcome.prepared.evaluator.spec
    model = typed("model") or ["--model", spec.name]
    shipped = spec.name in list_studies()
    report = ["report", str(path), *([] if shipped else model), *typed("storage")]
    found = [("see its pictures and every number, in a browser", _line(report))]
    found += _exporting(outcome.recipe, path, takers)
    named = ["--study", study] if study is not None else []
    select = ["select", *model, *typed("storage"), *named, *typed(*STUDY, "max_memory")]
    for way, trial in alternatives(outcome):
        what = f"{way}: {_speedup(outcome, trial):.3f}x at LPIPS {lpips_words(trial.typical)} or so"
        found.append((what, _line([*select, "--min-speedup", bound_of(outcome, trial)])))
    return found


def after_verifying(recipe: Recipe, path: Path, takers: Sequence[str]) -> Commands:
    """Hand on.

    Args:
        recipe: what was verified.
        path: its file.
        takers: consumers that take it as it is.
    """
    return _exporting(recipe, path, takers)


def print_commands(console: Console, commands: Commands) -> None:
    """Print commands below what they do, none of them wrapped."""
    for what, line in commands:
        print_line(console, f"{what}:", style="bold")
        print_line(console, f"  {line}")


def _exporting(recipe: Recipe, path: Path, takers: Sequence[str]) -> Commands:
    """For a consumer that it was searched for, else the first of `PREFERRED` that takes it."""
    order = [name for name in (*recipe.search.consumers, *PREFERRED) if name in takers]
    if not order:
        return []
    others = ", ".join(name for name in takers if name != order[0])
    what = f"hand it to {order[0]}" + (f" (or {others})" if others else "")
    allowed = ["--allow-random-weights"] if recipe.model.weights == "random" else []
    return [(what, _line(["export", str(path), "--to", order[0], *allowed]))]


def alternatives(outcome: SearchOutcome) -> list[tuple[str, ScoredTrial]]:
    """(what it is to the chosen one, the trial) of one that is faster and one that is closer to
    bf16, as far as the front has them: those halfway to the front's ends. A bound on memory holds
    for them, too.
    """
    chosen, none = outcome.chosen, outcome.prepared.candidates.none_quantized
    if chosen is None:
        return []
    fits = Constraints().fits if outcome.winner is None else outcome.winner.constraints.fits
    members = [
        t
        for t in outcome.front
        if t.index != chosen.index and t.choice != none and fits(t.memory_bytes)
    ]
    faster = [t for t in members if t.latency_s < chosen.latency_s]
    closer = [t for t in members if t.latency_s > chosen.latency_s]
    return [
        (way, _halfway(own, chosen))
        for way, own in (
            ("choose a faster one", faster),
            ("choose one closer to bf16", closer),
        )
        if own
    ]


def bound_of(outcome: SearchOutcome, trial: ScoredTrial) -> str:
    """The shortest bound on the speedup that names this member of the front: at most its own
    speedup, and above those of all slower members.
    """
    own = _speedup(outcome, trial)
    slower = [_speedup(outcome, t) for t in outcome.front if t.latency_s > trial.latency_s]
    floor = max(slower, default=0.0)
    for digits in range(1, MOST_DIGITS):
        bound = math.floor(own * 10**digits) / 10**digits
        if bound > floor:
            return f"{bound:.{digits}f}"
    return f"{math.floor(own * 10**MOST_DIGITS) / 10**MOST_DIGITS:.{MOST_DIGITS}f}"


def _halfway(members: Iterable[ScoredTrial], chosen: ScoredTrial) -> ScoredTrial:
    """The one whose seconds are nearest to halfway between the chosen one's and the farthest's."""
    logs = {t.index: math.log(t.latency_s / chosen.latency_s) for t in members}
    middle = max(logs.values(), key=abs) / 2
    return min(members, key=lambda t: abs(logs[t.index] - middle))


def _speedup(outcome: SearchOutcome, trial: ScoredTrial) -> float:
    return outcome.prepared.candidates.bf16_s / trial.latency_s


def _line(words: Sequence[str]) -> str:
    return shlex.join([*program(), *words])
