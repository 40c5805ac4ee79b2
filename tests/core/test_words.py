"""Messages in words: safe to print, short, and with how much was left out."""

import pytest

from sensitivity.core.words import (
    and_more,
    counted,
    did_you_mean,
    duration,
    first_line,
    format_indices,
    printable,
    some,
)


class DriverError(Exception):
    """An error that wraps the driver's, as SQLAlchemy's do."""

    orig = ValueError("no such table: trials")


def test_text_is_one_line_that_a_terminal_may_show() -> None:
    """Line breaks, control characters and marks of direction become spaces; other letters stay."""
    assert printable("a\nb\x1b[31m\u202ec é 日") == "a b [31m c é 日"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("first\nsecond"), "first"),
        (ValueError("\n  first"), "first"),
        (ValueError(), "ValueError"),
        (ValueError("x" * 300), "x" * 200),
        (DriverError("(sqlite3.OperationalError) long story"), "no such table: trials"),
    ],
)
def test_an_error_is_its_first_line(error: Exception, line: str) -> None:
    """The message up to its line break, cut; the class where there is none; the driver's own."""
    assert first_line(error) == line


def test_long_lists_are_cut() -> None:
    """The first items and how many were left out; a list that is short enough is whole."""
    assert and_more("abcd", most=2) == "a, b and 2 more"
    assert and_more("ab", most=2) == "a, b"
    assert and_more(iter("abc"), most=2, separator="; ") == "a; b and 1 more"
    assert and_more((), most=2) == ""
    assert some("abcd") == "4 Linear(s) (a, b, c, ...)"
    assert some("a") == "1 Linear(s) (a)"


def test_names_are_counted_and_shown_safely() -> None:
    """Names that a terminal must not get are escaped, and long ones cut."""
    assert counted(["a", "b", "c"], most=2) == "3 (a, b and 1 more)"
    assert counted(["a\x1b[2J"]) == r"1 ('a\x1b[2J')"
    assert counted(["x" * 5000]) == f"1 ('{'x' * 80}')"


@pytest.mark.parametrize(
    ("indices", "text"),
    [([3, 0, 1, 7, 2], "0-3, 7"), ([5], "5"), ([1, 1, 3], "1, 3"), ([], "")],
)
def test_indices_are_ranges(indices: list[int], text: str) -> None:
    """Consecutive numbers are one range, in order and once."""
    assert format_indices(indices) == text


def test_a_misspelt_name_is_answered_with_the_closest() -> None:
    """One or several names that are close, or another text where none is."""
    assert did_you_mean("nvpf4", ["nvfp4", "fp8"]) == "did you mean 'nvfp4'?"
    assert did_you_mean("x", ["nvfp4"], otherwise="choose one") == "choose one"
    assert did_you_mean("ab1", ["ab2", "ab3"], most=2, cutoff=0.5) == "did you mean 'ab3' or 'ab2'?"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1.0, "0.0 s"),
        (0.44, "0.4 s"),
        (0.97, "1 s"),
        (8.4, "8 s"),
        (59.6, "1 min"),
        (160.0, "2 min 40 s"),
        (599.7, "10 min"),
        (3_580.0, "1 h"),
        (11_100.0, "3 h 5 min"),
        (12 * 86_400.0, "12 days"),
        (93_657_600.0, "1,084 days"),
    ],
)
def test_a_time_is_said_for_people(seconds: float, text: str) -> None:
    """Two units at most, none of them zero, and rounding never gives 60 of one."""
    assert duration(seconds) == text
