"""The pattern dialect: what matches, and what is refused."""

import doctest
import re
import time

import pytest

from sensitivity.core import patterns
from sensitivity.core.patterns import check_pattern, expand, is_fqn, match, read_list
from sensitivity.errors import PatternError

BLOCKS = 12
ROLES = ("attn.to_q", "attn.to_k", "attn.to_out.0", "ff.net.0.proj", "ff.net.2", "norm1.linear")
UNIVERSE = (
    "x_embedder",
    *(f"blocks.{block}.{role}" for block in range(BLOCKS) for role in ROLES),
    *(f"single.{block}.proj_out" for block in range(3)),
    "proj_out",
)


def test_block_one_is_not_block_ten() -> None:
    """A container glob stops at the dot after its index."""
    assert match("blocks.1.*", UNIVERSE) == tuple(f"blocks.1.{role}" for role in ROLES)


def test_pattern_matches_the_whole_name() -> None:
    """A plain name is the top-level layer only, never a substring, and case counts."""
    assert match("proj_out", UNIVERSE) == ("proj_out",)
    assert match("proj_OUT", UNIVERSE) == ()
    assert match("to_q", UNIVERSE) == ()


def test_star_crosses_dots_and_question_mark_is_one_character() -> None:
    """`*` reaches any depth and may be empty; `?` is exactly one character."""
    assert match("*.to_q", ["a.to_q", "a.b.to_q", "to_q", "a.xto_q"]) == ("a.to_q", "a.b.to_q")
    assert match("*to_q", ["to_q", "a.to_q"]) == ("to_q", "a.to_q")
    assert match("b.?", ["b.1", "b.10", "b."]) == ("b.1",)


def test_sets_and_negated_sets() -> None:
    """Sets hold ranges and single characters, and `!` turns them round."""
    names = [f"b.{index}" for index in range(10)]
    assert match("b.[0-27]", names) == ("b.0", "b.1", "b.2", "b.7")
    assert match("b.[!0-8]", names) == ("b.9",)


@pytest.mark.parametrize(
    "bad",
    [
        "re:blocks.*",
        "blocks|x",
        "blocks.(1)",
        "a b",
        "a/b",
        "[",
        "a[]",
        "a[1",
        "a]",
        "a\nb",
        "^a",
        "a+",
        "é",
        "\\d",
    ],
)
def test_what_is_no_glob_is_refused(bad: str) -> None:
    """Regular expressions, paths and open sets are errors, because matching nothing in silence is
    worse.
    """
    with pytest.raises(
        PatternError, match=re.escape("it is a shell glob on the FQN, not a regular expression")
    ):
        check_pattern(bad)


def test_falling_ranges_and_lengths_are_refused() -> None:
    """A range that falls matches nothing, and a pattern has 1 to 512 characters."""
    with pytest.raises(
        PatternError,
        match=re.escape(
            "found the range 9-0 in 'b.[9-0]'; expected its lower end first: write [0-9]"
        ),
    ):
        check_pattern("b.[9-0]")
    with pytest.raises(PatternError, match="found a pattern of 0 characters; expected 1 to 512"):
        check_pattern("")
    with pytest.raises(PatternError, match="found a pattern of 513 characters"):
        check_pattern("a" * 513)


def test_fqns() -> None:
    """FQNs are dotted words, hyphens among them (Z-Image's `all_x_embedder.2-1`); paths, blanks,
    newlines and empty segments are not.
    """
    assert all(map(is_fqn, [*UNIVERSE, "all_x_embedder.2-1"]))
    assert expand(["all_x_embedder.2-1"], ["all_x_embedder.2-1", "all_x_embedder.1"]).matched == {
        "all_x_embedder.2-1"
    }
    assert not any(map(is_fqn, ["", "a..b", ".a", "a.", "a/b", "../a", "a b", "a\n", "a" * 513]))


def test_expand_reports_dead_patterns() -> None:
    """The union is returned with the patterns that match nothing, in order."""
    matched, dead = expand(["adaln_single", "single.*", "proj_out", "blocks.99.*"], UNIVERSE)
    assert matched == {"single.0.proj_out", "single.1.proj_out", "single.2.proj_out", "proj_out"}
    assert dead == ("adaln_single", "blocks.99.*")


def test_read_list() -> None:
    """A skip file has one entry a line; comments, blanks, repeats, CRLF and a byte order mark do
    not matter.
    """
    text = "\ufeff# header: not an entry\r\n\r\nproj_out  # why\r\n  blocks.[0-1].*\r\nproj_out\r\n"
    assert read_list(text) == ("proj_out", "blocks.[0-1].*")
    with pytest.raises(PatternError, match="line 2: found the pattern 'a b'"):
        read_list("ok\na b\n")


def test_hostile_patterns_are_fast() -> None:
    """Many stars against a long near-miss take milliseconds."""
    start = time.perf_counter()
    assert match("*a" * 200 + "*b", ["a" * 500 + "c"] * 100) == ()
    assert match("*" * 500 + "b", ["a" * 500] * 100) == ()
    assert time.perf_counter() - start < 5.0


def test_docstring_example() -> None:
    """The example in the module's docstring is true."""
    assert doctest.testmod(patterns) == (0, 1)
