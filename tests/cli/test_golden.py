"""What every command shows is as in `golden/`, at 80, 120 and 200 columns and in a pipe.

Where a change is meant, write the files anew and look at the difference:

    REWRITE_GOLDEN=1 pytest -n0 tests/cli/test_golden.py
    git diff tests/cli/golden
"""

import io
import os
import re

import pytest

from sensitivity.cli.screen import TextConsole, make_console

from support.paths import ROOT
from support.screens import SCREENS, Draw
from support.search_screens import SEARCH_SCREENS

GOLDEN = ROOT / "tests" / "cli" / "golden"
ALL: dict[str, Draw] = SCREENS | SEARCH_SCREENS
WIDTHS = {"80": 80, "120": 120, "200": 200, "pipe": None}
NUMBER = re.compile(r"(?<![\w.,-])[+-]?\d[\d,]*(?:\.\d+)?(?![\w.-])")


def shown(draw: Draw, width: int | None, monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command prints on a terminal of so many columns; in a pipe for None."""
    if width is None:
        monkeypatch.delenv("COLUMNS", raising=False)
        monkeypatch.setattr("sys.stdout", file := io.StringIO())
        draw(make_console(None))
    else:
        file = io.StringIO()
        draw(TextConsole(file=file, width=width, force_terminal=True, color_system=None))
    return "".join(f"{line.rstrip()}\n" for line in file.getvalue().splitlines())


@pytest.mark.parametrize("where", WIDTHS)
@pytest.mark.parametrize("command", ALL)
def test_a_command_shows_what_it_showed(
    command: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Letter by letter, but for blanks at the ends of lines."""
    path = GOLDEN / where / f"{command}.txt"
    text = shown(ALL[command], WIDTHS[where], monkeypatch)
    if os.environ.get("REWRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), (
        "if the change is meant: REWRITE_GOLDEN=1 pytest -n0 tests/cli/test_golden.py"
    )


def test_no_golden_file_is_left_over() -> None:
    """A file of a command that is gone would never be compared."""
    there = {path.relative_to(GOLDEN).as_posix() for path in GOLDEN.glob("*/*.txt")}
    assert there == {f"{where}/{command}.txt" for where in WIDTHS for command in ALL}


@pytest.mark.parametrize("command", ALL)
def test_a_narrow_terminal_shows_no_other_number(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each number at 60 and 97 columns is one that stands at 400 columns too: no digit is cut."""
    whole = set(NUMBER.findall(shown(ALL[command], 400, monkeypatch)))
    for width in (60, 97):
        text = re.sub(r"\(shown\s+from\s+\d+", "", shown(ALL[command], width, monkeypatch))
        assert set(NUMBER.findall(text)) <= whole
