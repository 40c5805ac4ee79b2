"""Which plain characters a regular expression needs."""

import re

import pytest

from sensitivity.consumers.regex_literals import Literals, literals_of


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        (r"^blocks\.[0-3]\.attn\.to_q$", Literals(".attn.to_q", ".attn.to_q", "", 0)),
        (r"proj_out", Literals("proj_out", "proj_out", "proj_out", 0)),
        (r"a\.b.*", Literals("a.b", "", "", 1)),
        (r"ab?cd", Literals("cd", "cd", "", 1)),
        (r"x[]a].yy", Literals("yy", "yy", "", 0)),
    ],
)
def test_literals_of_simple_expressions(expression: str, expected: Literals) -> None:
    """Runs end at sets, dots and repeats; a repeated character is in none."""
    re.compile(expression)
    assert literals_of(expression) == expected


@pytest.mark.parametrize("expression", ["(a|b)", "a|b", r"\d+", "a{2}", "(?i)abc", r"[\d]", "a$b"])
def test_others_are_not_looked_into(expression: str) -> None:
    """Groups, alternatives, counts and classes may match without any run."""
    assert literals_of(expression) is None
