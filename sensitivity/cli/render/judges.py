"""What judges say beside LPIPS: a table of the verified skip-lists, or lines of one score.

if (table := judge_table(outcome)) is not None:
    console.print(table)
"""

from collections.abc import Iterator

from rich.console import Group as Lines
from rich.text import Text

from sensitivity.cli.render.tables import FittedTable, four_digits, number, words
from sensitivity.core.words import printable
from sensitivity.fidelity.score import JudgeValues, Score
from sensitivity.workflows.conclude import SearchOutcome


def judge_table(outcome: SearchOutcome) -> Lines | None:
    """The mean of each judge over the held-out prompts, a row for each verified skip-list, and the
    judges' noise floors; None where no judge looked.
    """
    trials = [t for t in outcome.result.trials if t.index in outcome.held_out]
    scores = {t.index: outcome.held_out[t.index] for t in trials}
    known = {name: values for score in scores.values() for name, values in score.judges.items()}
    if not known:
        return None
    table = FittedTable(
        words(""),
        words("skip-list", least=14),
        *(
            number(_heading(name, values), drop=len(known) - i)
            for i, (name, values) in enumerate(known.items())
        ),
        title="what other judges say of the held-out pictures (mean)",
    )
    for trial in sorted(trials, key=lambda t: (t.latency_s, t.typical)):
        is_chosen = outcome.chosen is not None and trial.index == outcome.chosen.index
        table.add_row(
            ">" if is_chosen else "",
            Text(trial.name),
            *(_cell(scores[trial.index].judges.get(name)) for name in known),
            style="bold green" if is_chosen else "",
        )
    floors = [_number(values.noise_floor) for values in known.values()]
    if any(floors):
        table.add_row("", "bf16 again (noise floor)", *floors, style="dim")
    legend = [f"{printable(name)}: {_basis(values)}" for name, values in known.items()]
    return Lines(table, *(Text(line, style="dim") for line in legend))


def distance_words(net: str) -> str:
    """What LPIPS means in a table: the net, or the objective that was minimised in its place."""
    return f"for LPIPS read the objective {printable(net)}" if ":" in net else f"LPIPS {net}"


def judge_lines(score: Score) -> Iterator[str]:
    """A line for each judge that looked at the pictures of a score."""
    for name, values in score.judges.items():
        floor = "" if values.noise_floor is None else f" (bf16 again {_number(values.noise_floor)})"
        unit = f" {values.unit}" if values.unit else ""
        yield (f"judge {printable(name)}: {_number(values.mean)}{unit}{floor}, {_basis(values)}")


def _heading(name: str, values: JudgeValues) -> str:
    unit = f" {values.unit}" if values.unit else ""
    return f"{printable(name)}{'↑' if values.higher_is_better else '↓'}{unit}"


def _basis(values: JudgeValues) -> str:
    """Which way is better, over how many prompts, and what computed it."""
    better = "higher" if values.higher_is_better else "lower"
    prompts = len(values.per_prompt)
    return f"{better} is better; {prompts} prompts; {printable(values.made_by)}"


def _cell(values: JudgeValues | None) -> str:
    return "" if values is None else _number(values.mean)


def _number(value: float | None) -> str:
    return "" if value is None else four_digits(value)
