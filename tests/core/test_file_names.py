"""A name from outside becomes one part of a path, as it is where it can, and never too long."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensitivity.core.file_names import MAX_BYTES, MAX_SLUG, file_name, is_target_file, slug


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tiny-flux", "tiny-flux"),
        ("FLUX.1-dev_v2", "FLUX.1-dev_v2"),
        ("./g.toml", "g.toml"),
        ("../../etc/passwd", "etc-passwd"),
        ("/dev/null", "dev-null"),
        ("org/My model", "org-My-model"),
        ("a\x00b\n[c]", "a-b--c-"),
        (".hidden", "hidden"),
        ("C:\\x", "C--x"),
        ("日本", "unnamed"),
        ("", "unnamed"),
        ("..", "unnamed"),
    ],
)
def test_what_no_name_can_have_is_replaced(text: str, expected: str) -> None:
    """Separators, controls and other scripts become hyphens; a slug stays as it is."""
    assert slug(text) == expected
    assert slug(expected) == expected


def test_long_names_are_cut_and_stay_two() -> None:
    """What is cut ends in a hash of the whole text, so that two names with one beginning differ."""
    a, b = slug("x" * 300), slug("x" * 299 + "y")
    assert a != b
    assert len(a) == len(b) == MAX_SLUG
    assert a.startswith("x" * 80)
    assert slug("x" * MAX_SLUG) == "x" * MAX_SLUG
    assert slug("x" * 20, most=20) == "x" * 20
    assert len(slug("x" * 21, most=20)) == 20


def test_file_names_join_their_parts() -> None:
    """Parts are joined by hyphens; the suffix stays, however long the rest is."""
    assert file_name("flux1-dev", "nvfp4", "./b200", suffix=".json") == "flux1-dev-nvfp4-b200.json"
    long = file_name("a" * 300, "b" * 300, "c" * 300, suffix=".json")
    assert len(long) == MAX_BYTES
    assert long.endswith(".json")


@given(st.lists(st.text(st.characters()), min_size=1, max_size=4))
def test_any_text_makes_one_part_of_a_path(parts: list[str]) -> None:
    """Whatever the texts, lone surrogates too, the name lies in its folder and fits."""
    name = file_name(*parts, suffix=".json")
    assert Path("folder", name).parent == Path("folder")
    assert name.isascii()
    assert len(name) <= MAX_BYTES
    assert name[0].isalnum()


@pytest.mark.parametrize("target", ["my.json", "./My GPU.TOML ", "a/b.JSON"])
def test_a_target_that_is_a_file_ends_so(target: str) -> None:
    """In any case; a chip's name does not."""
    assert is_target_file(target)
    assert not is_target_file("b200")
