"""Compressed lists of patterns: they are readable, and select exactly what they should."""

import doctest
import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sensitivity.core import pattern_cover
from sensitivity.core.pattern_cover import compress, index_globs
from sensitivity.core.patterns import expand
from sensitivity.errors import PatternError

BLOCKS = 12
ROLES = ("attn.to_q", "attn.to_k", "attn.to_out.0", "ff.net.0.proj", "ff.net.2", "norm1.linear")
UNIVERSE = (
    "x_embedder",
    *(f"blocks.{block}.{role}" for block in range(BLOCKS) for role in ROLES),
    *(f"single.{block}.proj_out" for block in range(3)),
    "proj_out",
)


def patterns_of(selected: object) -> list[str]:
    return [entry.pattern for entry in compress(selected, UNIVERSE)]  # type: ignore[arg-type]


def test_index_globs() -> None:
    """Numerals that share their first digits become sets, and sets that agree are joined."""
    globs = index_globs(str(index) for index in (*range(8, 30), 40, 100, 101))
    assert dict(globs) == {
        "[89]": ("8", "9"),
        "[12][0-9]": tuple(map(str, range(10, 30))),
        "40": ("40",),
        "10[01]": ("100", "101"),
    }


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
    assert patterns_of(selected) == expected


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


def test_names_outside_the_universe_are_refused() -> None:
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
    found = patterns_of(selected)
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
    assert time.perf_counter() - start < 5.0
    assert expand(found, universe).matched == set(selected)


def test_docstring_example() -> None:
    """The example in the module's docstring is true."""
    assert doctest.testmod(pattern_cover) == (0, 1)
