"""Text from outside is printed as text: never markup, never control characters."""

import io
import logging
import sys

import pytest
from rich.live import Live
from rich.table import Table

from sensitivity.cli import entry
from sensitivity.cli.outputs import write_json
from sensitivity.cli.render.live_search import SearchProgress
from sensitivity.cli.screen import TextConsole, print_error, print_line, step
from sensitivity.errors import UserError

HOSTILE = [
    "list [/v2]",
    "[red]not red[/red]",
    "[link=https://example.org]here[/link]",
    ":smile:",
    "\x1b[31mred\x1b[0m",
    "\x9b31mred",
    "nul \0 and bell \a",
    "bidi \u202egnp.exe\u202c",
    "lone \udcff surrogate",
    "line\u2028break",
]


def shown(text: str) -> str:
    """What a user should see of a text: the same characters, unprintable ones as spaces."""
    return "".join(c if c.isprintable() else " " for c in text)


@pytest.fixture
def console() -> TextConsole:
    """A wide console that writes to a string, without colours."""
    return TextConsole(file=io.StringIO(), width=200, color_system=None)


def written(console: TextConsole) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


@pytest.mark.parametrize("text", HOSTILE)
def test_text_from_outside_is_printed_as_it_is(console: TextConsole, text: str) -> None:
    """In lines, tables, titles and moving lines; nothing in it is obeyed."""
    table = Table(text, title=text)
    table.add_row(text)
    print_line(console, text)
    console.print(table)
    with Live(table, console=console):
        pass
    out = written(console)
    assert out.count(shown(text)) >= 5
    assert out.replace("\n", "").isprintable()


@pytest.mark.parametrize("text", HOSTILE)
def test_progress_takes_any_text(text: str) -> None:
    """A step's name on a terminal, where rich draws a spinner and a bar."""
    terminal = TextConsole(file=io.StringIO(), width=200, force_terminal=True, color_system=None)
    with step(terminal, text):
        pass
    with SearchProgress(terminal, budget=3) as progress:
        progress.say(text)
        progress.show(text, 1, 3)
    assert shown(text).strip() in written(terminal)


def test_errors_and_log_lines_are_printable(capsys: pytest.CaptureFixture[str]) -> None:
    """An error's text, a log line, and a traceback of what was not expected."""
    print_error("\x1b[31mred [/b]")
    record = logging.LogRecord("x", logging.WARNING, "", 0, "\x1b]0;title\a", None, None)
    assert entry._FlagNaming("%(message)s").format(record) == " ]0;title "
    assert capsys.readouterr().err == "error:  [31mred [/b]\n"


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (UserError("\x1b[2J gone"), 2, "error:  [2J gone"),
        (RuntimeError("\x1b[2J gone"), 1, "RuntimeError:  [2J gone"),
        (MemoryError(), 1, "error: out of memory; the model and its pictures must fit"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, "must fit"),
    ],
)
def test_the_program_ends_with_words_and_a_code(
    error: Exception,
    code: int,
    words: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What a command raises is printed without control characters, and decides the exit code."""

    def fails(**_options: object) -> None:
        raise error

    monkeypatch.setattr(entry, "app", fails)
    monkeypatch.setattr(sys, "argv", ["sensitivity"])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    assert ended.value.code == code
    err = capsys.readouterr().err
    assert words in err
    assert "\x1b" not in err


def test_json_on_a_terminal_is_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON that goes to stdout has no control characters, reads back the same, and keeps letters
    of every language.
    """
    import json

    data = {"name": "\x9b2J\u202e\udcff\x7f", "prompt": "ein Bär, 熊"}
    write_json(data, "-")
    out = capsys.readouterr().out
    assert json.loads(out) == data
    assert out.replace("\n", "").isprintable()
    assert "Bär, 熊" in out
