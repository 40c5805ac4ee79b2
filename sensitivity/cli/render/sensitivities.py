"""Layer sensitivities: a table, a heatmap of block x role, and the long tail in one sentence.

The heatmap is readable without colour: a cell is the error in percent of the largest one in the
map, from 0 to 99 and ** for the largest. Groups that span several blocks or roles show the same
number in each cell. A dot is a Linear that stays bf16, a blank one that does not exist.
"""

from collections.abc import Sequence

from rich.console import Group as Lines
from rich.style import Style
from rich.text import Text

from sensitivity.cli.render.tables import FittedTable, number, words
from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import block_of
from sensitivity.core.words import and_more
from sensitivity.search.calibration.ranking import Sensitivity, long_tail

COOL, HOT = (30, 60, 120), (200, 40, 30)  # background of an error of 0 and of the largest
NAMED = 10
CELL = 3  # columns of the terminal a block takes


def sensitivity_table(rows: Sequence[Sensitivity], *, title: str, most: int) -> Lines:
    """The `most` most sensitive groups, the largest share of damage first."""
    table = FittedTable(
        words("group", least=24),
        words("format"),
        number("error", drop=1),
        number("share of damage"),
        number("saved ms"),
        number("share per saved ms", drop=2),
        title=title,
    )
    for row in rows[:most]:
        each = "slower" if row.share_per_ms is None else f"{row.share_per_ms:.2%}"
        table.add_row(
            row.group,
            str(row.format),
            f"{row.error:.3g}",
            f"{row.share:.1%}",
            f"{row.saved_s * 1e3:+.3f}",
            each,
        )
    legend = (
        "share: of the damage of all groups in that format, each quantized alone (squares of errors"
        " add up)"
    )
    if len(rows) > most:
        legend = f"and {len(rows) - most} more (--rows, or all in --json); {legend}"
    return Lines(table, Text(legend, style="dim"))


def tail_sentence(rows: Sequence[Sensitivity], name: FormatName) -> str:
    """The long tail of a format in words, its groups named."""
    tail = long_tail(rows, name)
    total = sum(row.format is name for row in rows)
    names = and_more((row.group for row in tail), most=NAMED)
    verb = "carries" if len(tail) == 1 else "carry"
    return (
        f"{name}: {len(tail)} of {total} groups {verb} {sum(row.share for row in tail):.0%} of the"
        f" damage: {names}"
    )


def heatmap(
    rows: Sequence[Sensitivity], fqns: Sequence[str], name: FormatName, *, width: int
) -> Lines:
    """Block x role of one format: a map for each class of blocks, and one for Linears outside them.

    Args:
        rows: sensitivities; those of other formats are left out.
        fqns: every Linear of the denoiser.
        name: the format.
        width: columns of the terminal.
    """
    errors = {fqn: row.error for row in rows if row.format is name for fqn in row.fqns}
    largest = max(errors.values(), default=0.0) or 1.0
    maps: dict[str, dict[str, dict[str, str]]] = {}  # block class -> role -> block index -> FQN
    for fqn in fqns:
        block = block_of(fqn)
        kind, _, index = block.rpartition(".")
        role = fqn.removeprefix(f"{block}.") if block else fqn
        maps.setdefault(kind, {}).setdefault(role, {})[index] = fqn
    # Linears outside blocks are last
    maps = dict(sorted(maps.items(), key=lambda item: not item[0]))
    labels = max((len(role) for roles in maps.values() for role in roles), default=0)
    lines = [
        Text(
            f"error in {name}, percent of the largest ({largest:.3g}, **); a dot stays bf16",
            style="bold",
        )
    ]
    for kind, roles in maps.items():
        lines += _map_lines(kind, roles, errors, largest, labels, width)
    return Lines(*lines)


def _map_lines(
    kind: str,
    roles: dict[str, dict[str, str]],
    errors: dict[str, float],
    largest: float,
    labels: int,
    width: int,
) -> list[Text]:
    """One class of blocks: a heading, then a line a role; blocks that do not fit go below."""
    indices = sorted(
        {index for cells in roles.values() for index in cells},
        key=lambda index: int(index) if index.isdigit() else -1,
    )
    fit = max(1, (width - labels - 1) // CELL)
    lines = []
    for start in range(0, len(indices), fit):
        shown = indices[start : start + fit]
        name = kind or "outside blocks"
        if len(name) > labels:
            lines.append(Text(name, style="bold"))
            name = ""
        numbers = "".join(f"{index:>{CELL}}" for index in shown)
        if name or numbers.strip():
            lines.append(Text(f"{name:<{labels}} {numbers}", style="bold"))
        for role, cells in roles.items():
            line = Text(f"{role:<{labels}} ")
            for index in shown:
                line.append_text(
                    _cell(
                        errors.get(cells[index]) if index in cells else None,
                        index in cells,
                        largest,
                    )
                )
            lines.append(line)
    return lines


def _cell(error: float | None, exists: bool, largest: float) -> Text:
    """Three columns: a number on a colour between cool and hot, a dot, or blanks."""
    if error is None:
        return Text(f"{'.' if exists else '':>{CELL}}", style="dim")
    heat = error / largest
    text = "**" if error == largest else str(min(99, round(heat * 100)))
    red, green, blue = (
        round(cool + (hot - cool) * heat) for cool, hot in zip(COOL, HOT, strict=True)
    )
    return Text(f"{text:>{CELL}}", style=Style(color="white", bgcolor=f"rgb({red},{green},{blue})"))
