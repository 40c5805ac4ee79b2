"""`report`: which file it writes, what it prints, and what it never replaces."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import sensitivity
from sensitivity.cli.app import app
from sensitivity.cli.file_checks import is_ours
from sensitivity.errors import OutputError, StoreError
from sensitivity.workflows.report import model_side

from support.shape_runs import shape_run
from support.tiny_flux_recipes import first_recipe, verified


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of tiny-flux in an empty folder; the model is run without weights once."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(model_side, "run_shapes", lambda spec: shape_run(spec.name))
    return verified(first_recipe(), {}).save(tmp_path / "mine.json")


def invoke(*arguments: object) -> Any:
    """The command; a mistake is raised as it is, since `main` makes its exit code."""
    return CliRunner().invoke(app, ["report", *map(str, arguments)])


def test_the_page_lies_beside_the_recipe_and_may_be_written_again(recipe: Path) -> None:
    """Without a path the page has the recipe's name; gaps are said; only its page is replaced."""
    done = invoke(recipe)
    assert done.exit_code == 0, done.output
    page = recipe.with_suffix(".html")
    assert f"page: {page}" in done.output.replace("\n", "")
    assert "not on the page: No pictures were kept" in done.output
    before = page.read_bytes()
    assert is_ours(page)
    assert invoke(recipe).exit_code == 0
    assert page.read_bytes() == before
    page.write_text("<!DOCTYPE html><p>mine</p>")
    refused = invoke(recipe)
    assert isinstance(refused.exception, OutputError)
    assert "did not write" in str(refused.exception)
    assert page.read_text() == "<!DOCTYPE html><p>mine</p>"


def test_a_recipe_is_never_its_own_page(recipe: Path) -> None:
    """The file that is read is not written."""
    before = recipe.read_bytes()
    assert isinstance(invoke(recipe, "--out", recipe).exception, OutputError)
    assert recipe.read_bytes() == before


def test_markdown_and_pictures_write_no_page(recipe: Path) -> None:
    """Stdout holds the table alone, PNG files go into their folder and may be written again."""
    done = invoke(recipe, "--md", "--png", "figures")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("| configuration | average time |")
    assert done.stdout.count("\n|") == 3
    assert not list(recipe.parent.glob("*.html"))
    assert "no front.png: The database of the search is not at hand" in done.stderr
    made = list((recipe.parent / "figures").iterdir())
    assert [path.name for path in made] == ["heatmap.png"]
    assert all(map(is_ours, made))
    assert invoke(recipe, "--png", "figures").exit_code == 0


def test_json_is_the_report_and_the_library_gives_the_same(recipe: Path) -> None:
    """`--json -` leaves stdout to the JSON; `sensitivity.report` returns and writes the same."""
    done = invoke(recipe, "--json", "-", "--out", "a.html")
    data = json.loads(done.stdout)
    report = sensitivity.report(recipe, out="b.html")
    assert data == report.model_dump(mode="json")
    assert Path("a.html").read_bytes() == Path("b.html").read_bytes()
    assert is_ours(Path("a.html"))


def test_a_study_that_was_not_searched_says_what_to_do(recipe: Path) -> None:
    """The message names the database that is missing and the command that makes it."""
    assert recipe.exists()
    error = invoke("tiny-flux").exception
    assert isinstance(error, StoreError)
    assert "sensitivity search" in str(error)
    assert "--storage" in str(error)
