"""The Linears of a model as a table, by shape."""

from typing import TYPE_CHECKING

from rich.console import Group as Lines
from rich.text import Text

from sensitivity.cli.render.tables import FittedTable, Names, number, words
from sensitivity.core.words import and_more
from sensitivity.workflows.audit.wording import some_roles

if TYPE_CHECKING:
    from sensitivity.shapes.table import ShapeTable

MAX_NAMES = 3
"""Linears that were never called which are named in a line."""


def profile_table(table: "ShapeTable") -> Lines:
    """Linears grouped by shape, most FLOPs first, with shares."""
    settings = ", ".join(f"{key} {value}" for key, value in table.settings.items())
    rows = FittedTable(
        number("M"),
        number("K"),
        number("N"),
        number("Linears"),
        number("calls", drop=1),
        number("GFLOP"),
        number("share"),
        words("roles", drop=2, least=20),
        title=(
            f"{table.model}: {len(table.linears)} Linears called, {len(table.uncalled)} never; one"
            f" pipeline run, batch {table.batch_size}"
        )
        + (f" ({settings})" if settings else ""),
    )
    for group in table.by_shape():
        rows.add_row(
            str(group.m),
            str(group.k),
            str(group.n),
            str(group.linears),
            str(group.calls),
            _giga(group.flops),
            f"{group.share:.1%}",
            Names(group.roles, some_roles),
        )
    notes = [Text(f"total {_giga(table.flops)} GFLOP in Linears")]
    if table.uncalled:
        notes.append(
            Text(f"never called: {and_more(dict.fromkeys(table.uncalled), most=MAX_NAMES)}")
        )
    return Lines(rows, *notes)


def _giga(flops: int) -> str:
    """FLOPs in GFLOP, with decimals where there are few."""
    return f"{flops / 1e9:,.0f}" if flops >= 1e12 else f"{flops / 1e9:.2f}"
