"""A recipe that nobody named a path for replaces no other choice's recipe."""

from pathlib import Path
from typing import Any

import pytest

from sensitivity.cli.recipe_paths import choice_words, own_path
from sensitivity.errors import OutputError
from sensitivity.recipes.recipe import Recipe

from support.two_blocks import two_block_recipe


def recipe(study: str = "toy-nvfp4-b200-0123abcd", **bounds: float) -> Recipe:
    """A recipe of a choice of a study."""
    choice: dict[str, Any] = {"rule": "knee", "first": "trial 1", "shortlist": ["trial 1"]}
    plain = two_block_recipe()
    search = plain.search.model_dump() | {"study": study}
    return two_block_recipe(choice=choice | bounds, search=search)


def test_the_choice_is_part_of_the_name() -> None:
    """Bounds in words, or the knee."""
    assert choice_words(recipe()) == ("knee",)
    assert choice_words(recipe(min_speedup=1.3, max_lpips=0.02)) == ("lpips-0.02", "speedup-1.3")
    assert choice_words(recipe(max_seconds=1e-5)) == ("seconds-1e-05",)
    assert choice_words(recipe(max_memory_bytes=22 * 2**30)) == ("memory-23.6223GB",)
    assert recipe(max_memory_bytes=22).choice.bounds != recipe().choice.bounds  # type: ignore[union-attr]


def test_another_choice_or_study_gets_a_path_of_its_own(tmp_path: Path) -> None:
    """The usual path while it is free or holds this choice of this study; then one with the choice;
    then one with the study's fingerprint; what is there stays.
    """
    usual, knee, bound = tmp_path / "toy.json", recipe(), recipe(max_lpips=0.02)
    other = recipe("toy-nvfp4-b200-ffffffff", max_lpips=0.02)
    for made, expected in (
        (knee, "toy.json"),
        (bound, "toy-lpips-0.02.json"),
        (other, "toy-nvfp4-b200-ffffffff-lpips-0.02.json"),
    ):
        path = own_path(usual, made)
        assert path == tmp_path / expected
        made.save(path)
        assert own_path(usual, made) == path
    assert own_path(tmp_path / "toy-lpips-0.02.json", bound).name == "toy-lpips-0.02.json"


def test_a_file_that_is_no_recipe_is_never_taken(tmp_path: Path) -> None:
    """Where every path is somebody else's, the user is asked for one."""
    for name in ("toy.json", "toy-knee.json", "toy-nvfp4-b200-0123abcd-knee.json"):
        assert own_path(tmp_path / "toy.json", recipe()).name == name
        (tmp_path / name).write_text("{}")
    with pytest.raises(OutputError, match="name one in `out`"):
        own_path(tmp_path / "toy.json", recipe())
