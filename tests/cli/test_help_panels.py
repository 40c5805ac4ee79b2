"""Options stand in panels, commands have examples that parse, and words are completed cheaply."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from sensitivity.cli import app
from sensitivity.cli.early_checks import (
    SAMPLERS,
    check_consumer,
    check_database,
    check_fits,
    check_sampler,
    check_target,
    device_names,
)
from sensitivity.cli.help_panels import EXAMPLES, EXPORT_FORMS, completions, panel_of
from sensitivity.consumers.exporters import EXPORTERS
from sensitivity.errors import RecipeMismatchError, StoreError, UserError
from sensitivity.latency.devices import DEVICES, get_device
from sensitivity.recipes.recipe import load_recipe
from sensitivity.search.proposers import STOCK, SamplerName
from sensitivity.search.store import default_storage
from sensitivity.spec.loading import resolve_spec

COMMANDS: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
RECIPE = Path(__file__).parents[2] / "recipes" / "flux1-dev-nvfp4-b200-unverified.json"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_each_command_has_an_example_that_parses(name: str) -> None:
    """The help ends with it."""
    program, command, *arguments = EXAMPLES[name].split()
    assert (program, command) == ("sensitivity", name)
    assert COMMANDS[name].epilog == f"Example: {EXAMPLES[name]}"
    assert COMMANDS[name].make_context(name, arguments).params


def test_options_stand_in_panels() -> None:
    """Most options of a search have a panel, and one option has the same panel everywhere."""
    panels = [p.rich_help_panel for p in COMMANDS["search"].params]
    assert panels.count(None) <= 1
    assert len(set(panels)) >= 7
    assert panel_of("max_lpips") == "What is chosen"


def test_small_tables_are_those_of_the_library() -> None:
    """What help and completion know without importing it is what the library has."""
    assert {name: tuple(kind.forms) for name, kind in EXPORTERS.items()} == EXPORT_FORMS
    assert device_names() == tuple(DEVICES)
    assert ("knapsack", *STOCK) == SAMPLERS


def test_words_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Studies, Hub ids and TOMLs that are here, targets, samplers, consumers, databases."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sdxl-mine.toml").write_text("")
    (tmp_path / "sensitivity-runs").mkdir()
    (tmp_path / "sensitivity-runs" / "x.db").write_text("no database")
    assert completions("model", "sdxl") == ["sdxl", "sdxl-mine.toml"]
    assert completions("model", "black-forest-labs/FLUX.1") == ["black-forest-labs/FLUX.1-dev"]
    assert completions("target", "b") == ["b200", "b300"]
    assert completions("sampler", "nsga") == ["nsga2", "nsga3"]
    assert completions("to", "s") == ["skip-list", "sglang", "sdnq"]
    assert completions("storage", "") == ["sensitivity-runs/x.db"]
    assert completions("study", "") == []
    assert COMMANDS["search"].params[0].shell_complete is not None


@pytest.mark.parametrize("name", ["b20", "", "rtx 5090", "h100x"])
def test_a_wrong_target_is_said_as_the_library_says_it(name: str) -> None:
    """Early and late messages are the same, and names that exist pass."""
    with pytest.raises(UserError) as early:
        check_target(name)
    with pytest.raises(UserError) as late:
        get_device(name)
    assert str(early.value) == str(late.value)
    for known in (*DEVICES, "RTX-5090", " B200 ", "mine.toml", "t.json"):
        check_target(known)


def test_a_wrong_sampler_is_said_as_the_library_says_it() -> None:
    """Early and late messages are the same."""
    with pytest.raises(UserError) as early:
        check_sampler("tpee")
    with pytest.raises(UserError) as late:
        SamplerName("tpee")
    assert str(early.value) == str(late.value)
    check_sampler("mine:Sampler")


def test_a_wrong_consumer_is_said_with_the_closest_name() -> None:
    """Every exporter's name passes, and is completed."""
    with pytest.raises(UserError, match=r"`consumers` is 'vllm'; .*did you mean 'vllm-omni'"):
        check_consumer("vllm", EXPORT_FORMS)
    for name in EXPORT_FORMS:
        check_consumer(name, EXPORT_FORMS)
    assert completions("consumers", "s") == ["skip-list", "sglang", "sdnq"]


def test_a_missing_database_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it is looked for where a search puts it."""
    monkeypatch.chdir(tmp_path)
    spec = resolve_spec("tiny-flux")
    with pytest.raises(StoreError, match=r"sensitivity-runs/tiny-flux.db is not there"):
        check_database(None, spec)
    default_storage(spec).parent.mkdir()
    default_storage(spec).touch()
    check_database(None, spec)


def test_a_recipe_of_another_denoiser_is_refused() -> None:
    """By the model's own config files; the same denoiser passes, and so does a model whose config
    files are not here.
    """
    recipe = load_recipe(RECIPE)
    with pytest.raises(RecipeMismatchError, match=r"a FluxTransformer2DModel, and that of ltx2 is"):
        check_fits(recipe, resolve_spec("ltx2"))
    check_fits(recipe, resolve_spec("flux1-dev"))
    check_fits(recipe, resolve_spec("some-org/some-model"))


def test_cheap_mistakes_load_nothing_heavy(tmp_path: Path) -> None:
    """A wrong target, a missing database and a recipe of another model end before torch."""
    lines = (
        ["search", "--model", "tiny-flux", "--target", "b20"],
        ["search", "--model", "tiny-flux", "--sampler", "tpee"],
        ["select", "--model", "tiny-flux"],
        ["verify", str(RECIPE), "--model", "ltx2"],
    )
    code = (
        "import sys\nfrom sensitivity.cli import main\n"
        f"for line in {lines!r}:\n"
        "    sys.argv = ['sensitivity', *line]\n"
        "    try: main()\n    except SystemExit as end: print('CODE', end.code)\n"
        "print('LOADED', sorted({'torch', 'diffusers', 'optuna', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert "LOADED []" in done.stdout, done.stderr
    assert done.stdout.count("CODE 2") >= 3, done.stderr
    assert "CODE 0" not in done.stdout
    assert "Traceback" not in done.stderr
