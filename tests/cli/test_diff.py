"""`sensitivity diff`: what is shown of two recipes, and what the command refuses."""

import io
import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sensitivity.cli.app import app
from sensitivity.cli.render.diff import diff_report
from sensitivity.errors import OutputError
from sensitivity.recipes.diff import compare_recipes
from sensitivity.recipes.differences import RecipeDiff
from sensitivity.recipes.recipe import Recipe

from support.tiny_flux_recipes import (
    LPIPS,
    changed,
    first_recipe,
    second_recipe,
    tiny_pricer,
    verified,
)


@pytest.fixture
def first() -> Recipe:
    """Every Linear of a block in nvfp4."""
    return first_recipe()


@pytest.fixture
def second() -> Recipe:
    """The first with some Linears in mxfp8 and some in bf16."""
    return second_recipe()


def shown(found: RecipeDiff) -> str:
    """The report as text, 300 columns wide."""
    console = Console(width=300, file=io.StringIO())
    console.print(diff_report(found))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_what_differs_is_shown(first: Recipe, second: Recipe) -> None:
    """Changes with their blocks, or words for none; the seconds that B saves."""
    text = shown(compare_recipes(first, second, pricer=tiny_pricer()))
    assert "Linears differ; predicted for b200" in text
    assert "transformer_blocks.ff.net.2" in text
    same = shown(compare_recipes(first, first, pricer=tiny_pricer()))
    assert "identical: A and B give every Linear the same format" in same
    assert "B saves +0.00 ms" in same


def test_without_a_price_the_files_seconds_are_shown(first: Recipe, second: Recipe) -> None:
    """The reason is shown, with what the files say."""
    text = shown(compare_recipes(first, second, unpriced="the study is unknown"))
    assert "not priced: the study is unknown" in text
    assert f"A says {first.latency.quantized_s:.4g} s" in text


def test_lpips_is_shown_as_far_as_it_can_be_compared(first: Recipe, second: Recipe) -> None:
    """A ratio with its interval, the reason that there is none, or the caveat."""
    half = verified(second, {"per_prompt": [0.05, 0.15], "mean": 0.1, "ci95": [0.05, 0.25]})
    text = shown(compare_recipes(verified(first, {}), half))
    assert "B: mean LPIPS 0.1000 [0.0500, 0.2500] (tiny, 2 pictures)" in text
    assert "B's typical LPIPS is 0.50 [0.50, 0.50] of A's, prompt by prompt" in text
    other = shown(compare_recipes(verified(first, {}), verified(first, {"net": "alex"})))
    assert "these LPIPS do not compare: nets tiny and alex" in other
    unverified = shown(compare_recipes(verified(first, {}), second))
    assert "B: UNVERIFIED: for a test" in unverified


def test_the_place_on_the_front_is_shown(first: Recipe) -> None:
    """By seconds, the fastest first."""
    front = [{"name": "t1", "lpips": 0.1, "latency": first.latency.model_dump()}]
    text = shown(compare_recipes(changed(first, {}, front=front), first))
    assert "A is number 1 of the 1 skip-lists on the front of its search" in text


def test_texts_of_a_file_do_not_steer_the_terminal(first: Recipe, second: Recipe) -> None:
    """Escape sequences and marks of direction in a model's id, a net or a target are shown as
    spaces.
    """
    evil = "x\x1b]0;title\x07\x1b[2J\u202e\x9b5m"
    data = verified(first, LPIPS | {"net": evil}).model_dump(mode="json")
    data["model"] |= {"id": evil, "revision": evil}
    data["latency"]["target"] = evil
    text = shown(
        compare_recipes(Recipe.from_mapping(data), verified(second, LPIPS), unpriced="for a test")
    )
    assert "x ]0;title" in text
    assert [char for char in text if not char.isprintable() and char != "\n"] == []


def test_the_command_does_not_write_over_a_recipe(
    first: Recipe, second: Recipe, tmp_path: Path
) -> None:
    """JSON over one of the two is refused; the same recipe twice is none of that."""
    a, b = first.save(tmp_path / "a.json"), second.save(tmp_path / "b.json")
    before = a.read_bytes(), b.read_bytes()
    for path, name in ((a, "A"), (b, "B")):
        result = CliRunner().invoke(app, ["diff", str(a), str(b), "--json", str(path)])
        assert isinstance(result.exception, OutputError)
        assert f"is the file of {name}, which is read" in str(result.exception)
    assert (a.read_bytes(), b.read_bytes()) == before
    assert CliRunner().invoke(app, ["diff", str(a), str(a)]).exit_code == 0


def test_the_command(first: Recipe, second: Recipe, tmp_path: Path) -> None:
    """Exit code 0 for recipes that differ, JSON with groups, seconds and totals that agree; a study
    that is unknown is not guessed.
    """
    a, b = first.save(tmp_path / "a.json"), second.save(tmp_path / "b.json")
    result = CliRunner().invoke(app, ["diff", str(a), str(b), "--json", "-"])
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert sum(c["saved_s"] for c in data["changes"]) == pytest.approx(
        data["latency"]["a_s"] - data["latency"]["b_s"]
    )
    assert data["a"]["notice"] == "for a test"
    strange = changed(first, {}, search=first.search.model_dump() | {"study": "mine"}).save(
        tmp_path / "c.json"
    )
    result = CliRunner().invoke(app, ["diff", str(strange), str(b)])
    assert result.exit_code == 0
    assert "not priced: the recipe 'first' is of the study 'mine'" in " ".join(
        result.stdout.split()
    )
