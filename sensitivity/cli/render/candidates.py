"""What a search may not quantize, as a table, and patterns that match nothing, as lines."""

from collections.abc import Mapping, Sequence

from rich.text import Text

from sensitivity.cli.render.tables import FittedTable, Names, number, words


def dead_pattern_lines(dead: Sequence[str]) -> list[str]:
    """A warning for each pattern of a study's always_skip that matches nothing."""
    return [
        f"warning: {pattern!r} of the study's always_skip matches no Linear" for pattern in dead
    ]


def fixed_table(fixed: Mapping[str, str]) -> FittedTable | Text:
    """Linears that stay bf16 whatever is chosen, by reason."""
    if not fixed:
        return Text("every Linear may be quantized")
    by_reason: dict[str, list[str]] = {}
    for fqn, reason in fixed.items():
        by_reason.setdefault(reason, []).append(fqn)
    rows = FittedTable(
        words("stays bf16 because", least=24),
        number("Linears"),
        words("names", least=20),
        title=f"{len(fixed)} Linears are not searched",
    )
    for reason, fqns in by_reason.items():
        rows.add_row(reason, str(len(fqns)), Names(fqns))
    return rows
