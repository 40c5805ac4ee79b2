"""Tables fit every terminal: columns are left out in their order, and no number is ever cut."""

import io
import re

import pytest
from rich.text import Text

from sensitivity.cli.render.tables import Either, FittedTable, Names, number, words
from sensitivity.cli.screen import PIPE_WIDTH, TextConsole, make_console

M, NAMES = "4608", ["blocks.attn.to_q", "blocks.attn.to_k", "blocks.ff.net.0.proj"]
ROW = (M, "12,345.67", "1.322x [1.318, 1.326]", "nvfp4", "56")


def drawn(table: FittedTable, width: int) -> list[str]:
    """The lines of a table in a terminal of `width` columns, without blanks at their ends."""
    console = TextConsole(file=io.StringIO(), width=width, color_system=None)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def table_of(**changed: object) -> FittedTable:
    """Five columns of numbers and words, of which two may be left out: first the last one."""
    table = FittedTable(
        number("M"),
        number("GFLOP", drop=2),
        number("speedup [90 %]"),
        words("format"),
        number("compiling s", drop=1),
        **changed,  # type: ignore[arg-type]
    )
    table.add_row(*ROW)
    table.add_row("1", "0.01", "0.9x", "bf16", "7")
    return table


@pytest.mark.parametrize("width", range(20, 201, 3))
def test_no_line_is_too_long_and_no_number_is_cut(width: int) -> None:
    """At any width, whole numbers are there, or the name of their column is below."""
    lines = drawn(table_of(), width)
    text = " ".join(" ".join(lines).split())
    assert max(map(len, lines)) <= width
    left = re.search(r"left out: (.*?) \(", text)
    names = left[1].split(", ") if left else []
    for name, cell in zip(
        ("M", "GFLOP", "speedup [90 %]", "format", "compiling s"), ROW, strict=True
    ):
        assert (cell in text) == (name not in names)


def test_columns_are_left_out_in_their_order() -> None:
    """Headings wrap first; then the column of turn 1 goes, then that of turn 2; a line names them
    and the width that shows them.
    """
    needed = 4 + 9 + 21 + 6 + 9 + 4 * 2  # "compiling s" is 9 wide on two lines
    assert not [line for line in drawn(table_of(), needed) if "left out" in line]
    where = f"(shown from {needed} columns on, and in --json)"
    lines = drawn(table_of(), needed - 1)
    assert " ".join(lines).endswith(f"left out: compiling s {where}")
    assert "GFLOP" in lines[0]
    text = " ".join(drawn(table_of(in_json=False), 40))
    assert text.endswith(f"left out: GFLOP, compiling s (shown from {needed} columns on)")


def test_a_terminal_that_is_too_narrow_shows_pairs() -> None:
    """Where columns that are never left out do not fit, each value stands behind its heading."""
    text = " ".join(drawn(table_of(), 30))
    assert text.startswith("- M 4608; GFLOP 12,345.67; speedup [90 %] 1.322x [1.318, 1.326];")
    assert "left out" not in text


def test_words_wrap_at_blanks_and_long_names_between_their_parts() -> None:
    """A number within words stays whole; a wide terminal needs no break."""
    table = FittedTable(number("M"), words("why", least=14))
    table.add_row(M, "arithmetic 3.5x; single_blocks.10.attn.to_q")
    assert [line[6:] for line in drawn(table, 20)[2:]] == [
        "arithmetic",
        "3.5x;",
        "single_blocks",
        ".10.attn.to_q",
    ]
    assert len(drawn(table, 60)) == 3


def test_what_goes_first_is_narrowed_first() -> None:
    """Words that may be left out give way before those that may not."""
    table = FittedTable(words("name"), words("about", drop=1))
    table.add_row("a name of thirty characters...", "what may be told in fewer columns")
    first = drawn(table, 50)[2]
    assert first.startswith("a name of thirty characters...  what may be")


@pytest.mark.parametrize(
    ("width", "text"),
    [
        (60, "blocks.attn.to_q, blocks.attn.to_k, blocks.ff.net.0.proj"),
        (50, "blocks.attn.to_q, blocks.attn.to_k and 1 more"),
        (30, "blocks.attn.to_q and 2 more"),
    ],
)
def test_names_are_as_many_as_fit(width: int, text: str) -> None:
    """The others are counted; a name that comes again is not."""
    table = FittedTable(words("roles", least=10))
    table.add_row(Names([*NAMES, NAMES[0]]))
    assert drawn(table, width)[2:] == [text]


def test_a_short_form_stands_where_the_full_one_does_not_fit() -> None:
    """In one line each."""
    table = FittedTable(words("why", least=10))
    table.add_row(Either("reading the weight (launches)", "reading the weight"))
    assert drawn(table, 29)[2:] == ["reading the weight (launches)"]
    assert drawn(table, 28)[2:] == ["reading the weight"]


def test_an_empty_column_is_not_drawn() -> None:
    """Nor named below; with no row, headings stand alone."""
    table = FittedTable(words(""), words("list"), number("sound", drop=1))
    assert "sound" in drawn(table, 80)[0]
    table.add_row("", Text("all nvfp4"), "")
    assert drawn(table, 80)[0] == "list"
    assert "left out" not in " ".join(drawn(table, 10))


def test_a_row_has_a_cell_for_each_column() -> None:
    """One too few or too many is a mistake of the caller."""
    with pytest.raises(ValueError, match="2 cells; expected 1"):
        FittedTable(words("a")).add_row("1", "2")


def test_text_from_outside_is_as_wide_as_it_looks() -> None:
    """Control characters are blanks before anything is measured; brackets are no markup."""
    table = FittedTable(words("name"), number("n"), title="[b]title[/b]")
    table.add_row("\x1b[31mred\x1b[0m [/v2]", "1")
    assert drawn(table, 40)[0] == "[b]title[/b]"
    assert drawn(table, 40)[-1] == " [31mred [0m [/v2]  1"


def test_a_pipe_is_as_wide_as_columns_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else `PIPE_WIDTH`."""
    monkeypatch.setattr("sys.stdout", io.StringIO())
    monkeypatch.delenv("COLUMNS", raising=False)
    assert make_console(None).width == PIPE_WIDTH
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich calls a pipe a terminal then
    assert make_console(None).width == PIPE_WIDTH
    assert make_console("-").width == PIPE_WIDTH
    monkeypatch.delenv("FORCE_COLOR")
    monkeypatch.setenv("COLUMNS", "96")
    assert make_console(None).width == 96
