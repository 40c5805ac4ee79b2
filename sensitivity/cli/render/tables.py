"""Which columns of a table fit a terminal, and how wide is each?

A number is never cut and never wrapped. Where the columns do not fit side by side, room is made in
this order:

1. headings wrap at their spaces;
2. words wrap, lists of names become "a, b and 12 more", and texts that have a short form take it,
   down to the `least` width of their column; columns that would be left out first give way first,
   and of those the widest;
3. columns are left out, those with `drop=1` first, then 2, 3, ...; a line below names them and
   says which width shows them;
4. where even the columns that are never left out (`drop=0`) do not fit, each row is written as
   "heading value" pairs.

A column in which every row is empty is not drawn. Nothing here computes a result.

    table = FittedTable(words("skip-list"), number("s a run"), number("compiling s", drop=1))
    table.add_row("rule of thumb", "1.234", "56", style="yellow")
    console.print(table)

    skip-list      s a run
    ──────────────────────
    rule of thumb    1.234
    left out: compiling s (shown from 36 columns on, and in --json)
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

from rich import box
from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from sensitivity.core.words import and_more, printable

GAP = 2
"""Blanks between two columns."""
MOST_LINES = 4
"""Lines of a heading."""
LEAST = 12
"""Columns of the terminal that words get at least, where they have so many characters."""


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column: its heading, whether it holds numbers, and when it gives way.

    Attributes:
        heading: the words above it.
        is_number: aligned to the right, never wrapped.
        drop: 0 if it is never left out, else its turn: 1 is left out first. Columns of the same
            turn are left out together.
        least: columns of the terminal to which words may be narrowed.
        called: its name where it was left out; "" for the heading.
    """

    heading: str
    is_number: bool
    drop: int
    least: int
    called: str


def number(heading: str, *, drop: int = 0, called: str = "") -> Column:
    """A column of numbers, intervals or counts, which are never cut (see `Column`)."""
    return Column(heading=heading, is_number=True, drop=drop, least=0, called=called)


def words(heading: str, *, drop: int = 0, least: int = LEAST, called: str = "") -> Column:
    """A column of words, which wrap (see `Column`)."""
    return Column(heading=heading, is_number=False, drop=drop, least=least, called=called)


def four_digits(value: float) -> str:
    """A value with four digits, so that a column of them lines up: "1.540", "36.30", "1104"."""
    return f"{value:#.4g}".removesuffix(".")


class Names:
    """A cell that names as many as fit its column in one line, and counts the others.

    Args:
        names: what is named, each once.
        put: (names, how many are named at most) -> the text.
    """

    def __init__(
        self, names: Iterable[str], put: Callable[[Sequence[str], int], str] | None = None
    ) -> None:
        self.names = [printable(name) for name in dict.fromkeys(names)]
        self._put = put or (lambda names, most: and_more(names, most=most))
        self.full = self._put(self.names, len(self.names))

    def within(self, width: int) -> str:
        """The names in at most `width` columns of the terminal, one at least."""
        if cell_len(self.full) <= width:
            return self.full
        shown = self._put(self.names, 1)
        for most in range(2, len(self.names)):
            longer = self._put(self.names, most)
            if cell_len(longer) > width:
                break
            shown = longer
        return shown


class Either:
    """A cell with a short form, which is shown where the full one does not fit in one line."""

    def __init__(self, full: str, short: str) -> None:
        self.full, self.short = printable(full), printable(short)

    def within(self, width: int) -> str:
        """The form for a column of `width`."""
        return self.full if cell_len(self.full) <= width else self.short


Cell = str | Text | Names | Either


class FittedTable:
    """A table that draws the columns that fit, and says which ones do not.

    Args:
        columns: what `number` and `words` return, from left to right.
        title: the line above; "" for none.
        in_json: whether the command's JSON has what may be left out.
    """

    def __init__(self, *columns: Column, title: str = "", in_json: bool = True) -> None:
        self.columns = columns
        self.title = title
        self.in_json = in_json
        self._rows: list[tuple[tuple[Cell, ...], str]] = []

    def add_row(self, *cells: Cell, style: str = "") -> None:
        """Add a row: a cell for each column; `style` is one of rich's."""
        if len(cells) != len(self.columns):
            raise ValueError(f"{len(cells)} cells; expected {len(self.columns)}, one a column")
        self._rows.append((tuple(map(_plain, cells)), style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The title, the columns that fit, and the names of the others."""
        if self.title:
            yield Text(self.title, style="bold")
        sizes = [self._size(i) for i in range(len(self.columns))]
        filled = [i for i, size in enumerate(sizes) if size.content or not self._rows]
        kept = filled
        turns = sorted({self.columns[i].drop for i in filled} - {0})
        while (widths := self._widths(kept, sizes, options.max_width)) is None and turns:
            turn = turns.pop(0)
            kept = [i for i in kept if self.columns[i].drop != turn]
        if widths is None:
            yield from self._pairs(filled)
            return
        for line in console.render_lines(self._drawn(kept, widths), options, pad=False):
            yield from _without_end(line)
            yield Segment.line()
        if left := [self.columns[i] for i in filled if i not in kept]:
            names = ", ".join(column.called or column.heading for column in left)
            enough = _total([sizes[i].least(MOST_LINES) for i in filled])
            also = ", and in --json" if self.in_json else ""
            yield Text(f"left out: {names} (shown from {enough} columns on{also})", style="dim")

    def _size(self, i: int) -> "_Size":
        """How wide a column is."""
        column = self.columns[i]
        content = max((_text(cells[i]).cell_len for cells, _ in self._rows), default=0)
        narrowed = content if column.is_number else min(content, column.least)
        return _Size(heading=column.heading, content=content, narrowed=narrowed)

    def _widths(
        self, kept: Sequence[int], sizes: Sequence["_Size"], width: int
    ) -> list[int] | None:
        """The width of each column in a terminal of `width` columns; None where they do not fit."""
        for lines in range(1, MOST_LINES + 1):
            widths = [sizes[i].most(lines) for i in kept]
            if _total(widths) <= width:
                return widths
        for lines in (2, MOST_LINES):
            least = [sizes[i].least(lines) for i in kept]
            if _total(least) <= width:
                return self._narrowed(kept, [sizes[i].most(lines) for i in kept], least, width)
        return None

    def _narrowed(
        self, kept: Sequence[int], most: Sequence[int], least: Sequence[int], width: int
    ) -> list[int]:
        """Widths that fit: what would be left out first gives way first, of that the widest."""
        widths = [max(a, min(b, width)) for a, b in zip(least, most, strict=True)]
        turns = [self.columns[i].drop for i in kept]
        for turn in sorted(set(turns), key=lambda turn: (turn == 0, turn)):
            mine = [j for j in range(len(kept)) if turns[j] == turn]
            while _total(widths) > width and (wide := [j for j in mine if widths[j] > least[j]]):
                widths[max(wide, key=lambda j: widths[j])] -= 1
        return widths

    def _drawn(self, kept: Sequence[int], widths: Sequence[int]) -> Table:
        """The columns, each at its width."""
        table = Table(
            box=box.SIMPLE_HEAD,
            show_edge=False,
            pad_edge=False,
            collapse_padding=True,
            show_header=any(self.columns[i].heading for i in kept),
        )
        for i, width in zip(kept, widths, strict=True):
            column = self.columns[i]
            table.add_column(
                Text(column.heading),
                justify="right" if column.is_number else "left",
                vertical="top",
                overflow="fold",
                width=width,
            )
        for cells, style in self._rows:
            shown = [
                _wrapped(_text(cells[i], width), width)
                for i, width in zip(kept, widths, strict=True)
            ]
            table.add_row(*shown, style=style or None)
        return table

    def _pairs(self, filled: Sequence[int]) -> RenderResult:
        """Each row as "heading value" pairs, for a terminal narrower than any table."""
        for cells, style in self._rows:
            shown = [(self.columns[i].heading, _text(cells[i]).plain) for i in filled]
            pairs = [f"{heading} {text}".strip() for heading, text in shown if text]
            yield Text(f"- {'; '.join(pairs)}", style=style, overflow="fold")


@dataclass(frozen=True, kw_only=True)
class _Size:
    """How wide a column is: its heading, its widest cell, and that cell where words wrap."""

    heading: str
    content: int
    narrowed: int

    def most(self, lines: int) -> int:
        """The width at which the heading takes so many lines at most, and no cell wraps."""
        return max(_heading_width(self.heading, lines), self.content)

    def least(self, lines: int) -> int:
        """The same where words wrap: below it the column is left out."""
        return max(_heading_width(self.heading, lines), self.narrowed)


@cache
def _heading_width(heading: str, lines: int) -> int:
    """The least width at which a heading takes so many lines at most; no word of it is broken."""
    parts = heading.split()
    for width in range(max(map(cell_len, parts), default=0), cell_len(heading)):
        taken, used = 0, width
        for part in map(cell_len, parts):
            fits = used + 1 + part <= width
            taken, used = (taken, used + 1 + part) if fits else (taken + 1, part)
        if taken <= lines:
            return width
    return cell_len(heading)


def _total(widths: Sequence[int]) -> int:
    """The columns of the terminal that a table takes."""
    return sum(widths) + GAP * max(len(widths) - 1, 0)


def _without_end(line: Sequence[Segment]) -> list[Segment]:
    """A line without the blanks at its end, which a pipe would keep."""
    kept = list(line)
    while kept and not kept[-1].text.strip():
        kept.pop()
    return [*kept[:-1], *(one._replace(text=one.text.rstrip()) for one in kept[-1:])]


def _plain(cell: Cell) -> Cell:
    """A cell with printable text only, so that it is as wide as what is shown."""
    return printable(cell) if isinstance(cell, str) else cell


def _text(cell: Cell, width: int | None = None) -> Text:
    """What is drawn of a cell in a column of `width`; None for all of it."""
    if isinstance(cell, Text):
        return cell
    if isinstance(cell, str):
        return Text(cell)
    return Text(cell.full if width is None else cell.within(width))


BREAK = re.compile(r"(?<=[/,])(?=\D)|(?<=\D[/,])|(?<=\S)(?=\.\D)|(?<=[^\d\s])(?=\.)")
"""Where a long name may be broken: before a dot, after a slash or comma, never in a number."""
WORD_BREAK = re.compile(r"(?<=_)(?=[^\W\d_])")
"""Where a part of a name that is still too long may be broken: behind an underscore."""


def _wrapped(text: Text, width: int) -> Text:
    """A cell with line breaks at blanks and, in a name longer than a line, between its parts."""
    if text.cell_len <= width:
        return text
    breaks, start, end = [], 0, 0
    for part in _parts(text.plain, width):
        if end > start and cell_len(text.plain[start:end] + part.rstrip()) > width:
            breaks.append(end)
            start = end
        end += len(part)
    lines = text.divide(breaks)
    for line in lines:
        line.rstrip()
    return Text("\n").join(lines)


def _parts(text: str, width: int) -> Iterator[str]:
    """The words of a text with the blanks behind them; those longer than a line in pieces."""
    for word in re.findall(r"\s*\S+\s*", text):
        for piece in BREAK.split(word) if cell_len(word.rstrip()) > width else [word]:
            yield from WORD_BREAK.split(piece) if cell_len(piece.rstrip()) > width else [piece]
