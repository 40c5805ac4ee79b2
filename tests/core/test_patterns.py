"""The pattern dialect: what matches, what is refused, and that compressed lists select exactly what
they should.
"""

import doctest
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import sensitivity.core.patterns
from sensitivity.core.pattern_cover import compress, index_globs
from sensitivity.core.patterns import (
    check_pattern,
    expand,
    format_indices,
    is_fqn,
    match,
    read_list,
)
from sensitivity.errors import PatternError

BLOCKS = 12
ROLES = ("attn.to_q", "attn.to_k", "attn.to_out.0", "ff.net.0.proj", "ff.net.2", "norm1.linear")
UNIVERSE = (
    "x_embedder",
    *(f"blocks.{block}.{role}" for block in range(BLOCKS) for role in ROLES),
    *(f"single.{block}.proj_out" for block in range(3)),
    "proj_out",
)


def _patterns(selected: object) -> list[str]:
    return [entry.pattern for entry in compress(selected, UNIVERSE)]  # type: ignore[arg-type]


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
            "found the range 9-0 in 'b.[9-0]'; allowed are ranges that rise; write [0-9]"
        ),
    ):
        check_pattern("b.[9-0]")
    with pytest.raises(PatternError, match="found a pattern of 0 characters; allowed are 1 to 512"):
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
    assert time.perf_counter() - start < 1.0


def test_index_globs() -> None:
    """Numerals that share their first digits become sets, and sets that agree are joined."""
    globs = index_globs(str(index) for index in (*range(8, 30), 40, 100, 101))
    assert dict(globs) == {
        "[89]": ("8", "9"),
        "[12][0-9]": tuple(map(str, range(10, 30))),
        "40": ("40",),
        "10[01]": ("100", "101"),
    }
    assert format_indices([3, 0, 1, 7, 2]) == "0-3, 7"


@pytest.mark.parametrize(
    ("selected", "expected"),
    [
        (UNIVERSE, ["*"]),
        ((), []),
        (("proj_out",), ["proj_out"]),
        (tuple(f for f in UNIVERSE if f.startswith("blocks.1.")), ["blocks.1.*"]),
        (tuple(f for f in UNIVERSE if f.startswith("blocks.")), ["blocks.*"]),
        (tuple(f"blocks.{b}.attn.to_q" for b in range(BLOCKS)), ["blocks.*.attn.to_q"]),
        (tuple(f"blocks.{b}.attn.to_q" for b in range(4)), ["blocks.[0-3].attn.to_q"]),
        (
            tuple(f"blocks.{b}.{r}" for b in (0, 1, 10, 11) for r in ROLES),
            ["blocks.[01].*", "blocks.1[01].*"],
        ),
        (tuple(f"blocks.{b}.norm1.linear" for b in (2, 3)), ["blocks.[23].norm1.linear"]),
        (
            tuple(
                f"blocks.{b}.attn.{r}" for b in range(BLOCKS) for r in ("to_q", "to_k", "to_out.0")
            ),
            ["blocks.*.attn.*"],
        ),
        (
            ("x_embedder", "proj_out", *(f"single.{b}.proj_out" for b in range(3))),
            ["x_embedder", "single.*", "proj_out"],
        ),
    ],
)
def test_compress_finds_the_readable_form(selected: tuple[str, ...], expected: list[str]) -> None:
    """Whole models, containers, roles and index sets become one glob each; a lone Linear stays
    exact.
    """
    assert _patterns(selected) == expected


def test_compress_never_catches_a_neighbour() -> None:
    """`*` crosses dots, so a role glob that would catch a deeper Linear of the same tail is not
    used.
    """
    universe = ["b.0.q", "b.1.q", "b.0.x.q", "b.1.x.q"]
    found = [entry.pattern for entry in compress(["b.0.q", "b.1.q"], universe)]
    assert "b.*.q" not in found
    assert expand(found, universe).matched == {"b.0.q", "b.1.q"}


def test_compress_gives_reasons_in_words() -> None:
    """Each pattern says what it covers."""
    (entry,) = compress([f"blocks.{b}.attn.to_q" for b in range(4)], UNIVERSE)
    assert entry.reason == "attn.to_q in blocks 0-3"


def test_compress_refuses_strangers() -> None:
    """A selected name outside the universe, or a universe of paths, is an error."""
    with pytest.raises(
        PatternError, match=re.escape("found 1 selected FQN(s) outside the universe, first 'nope'")
    ):
        compress(["nope"], UNIVERSE)
    with pytest.raises(PatternError, match="found 'a/b' in the universe"):
        compress([], ["a/b"])


@settings(max_examples=60, deadline=None)
@given(st.sets(st.sampled_from(UNIVERSE)))
def test_compress_is_exact(selected: set[str]) -> None:
    """For any selection the patterns match exactly it, none is dead, and there are never more of
    them than names.
    """
    found = _patterns(selected)
    matched, dead = expand(found, UNIVERSE)
    assert matched == selected
    assert not dead
    assert len(found) <= len(selected)


def test_compress_is_fast_at_the_size_of_ltx2() -> None:
    """1,400 FQNs with half of them selected without order take less than a second."""
    universe = [
        f"transformer_blocks.{b}.{r}{i}.proj"
        for b in range(50)
        for r in ("attn", "ff")
        for i in range(14)
    ]
    selected = [fqn for place, fqn in enumerate(universe) if (place * 7919) % 13 < 6]
    start = time.perf_counter()
    found = [entry.pattern for entry in compress(selected, universe)]
    assert time.perf_counter() - start < 1.0
    assert expand(found, universe).matched == set(selected)


def test_docstring_example() -> None:
    """The example in the module's docstring is true."""
    assert doctest.testmod(sensitivity.patterns).failed == 0
