"""How is a record shown in a notebook, and how does it get into pandas? As a table of its rows.

    table = RecordTable(title="2 Linears", columns=("fqn", "m"), rows=(("a", 4096), ("b", 1)))
    table.to_html()                  # what a notebook shows
    table.to_pandas()                # a DataFrame of every row, unrounded

Conventions. A column's name carries its unit. The HTML shows the first rows and counts the others,
and rounds numbers to four digits; names may come from anybody, so everything is escaped. pandas is
optional, and imported when it is asked for.
"""

import html
import importlib
from dataclasses import dataclass
from typing import Any

from sensitivity.core.words import printable
from sensitivity.errors import UserError

MOST_ROWS = 24
"""Rows that a notebook shows of a table."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordTable:
    """Rows with names for their columns.

    Attributes:
        title: one line above the table; "" for none.
        columns: (C,) their names.
        rows: (R, C) texts, numbers, booleans, and None for what is not known.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    title: str = ""

    def to_html(self, *, most: int = MOST_ROWS) -> str:
        """The table as HTML, with at most `most` rows."""
        parts = [f"<p>{_escaped(self.title)}</p>"] if self.title else []
        if self.rows:
            names = (name.replace("_", " ") for name in self.columns)  # so that they may wrap
            head = "".join(f"<th>{_escaped(name)}</th>" for name in names)
            body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in self.rows[:most])
            parts.append(
                f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"
            )
        if (left := len(self.rows) - most) > 0:
            parts.append(f"<p>and {left} more</p>")
        return "\n".join(parts)

    def to_pandas(self) -> Any:
        """The rows as a pandas DataFrame.

        Raises:
            UserError: pandas is not installed.
        """
        try:
            pandas: Any = importlib.import_module("pandas")
        except ImportError:
            raise UserError(
                "`to_pandas` needs pandas, which is not installed; expected it: run `pip install"
                " pandas`"
            ) from None
        return pandas.DataFrame(list(self.rows), columns=list(self.columns))


def _cell(value: Any) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    align = "right" if is_number else "left"
    return f'<td style="text-align: {align}">{_escaped(_words(value))}</td>'


def _words(value: Any) -> str:
    """A cell in words: numbers with four digits, nothing for what is not known."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    return html.escape(printable(text))
