"""README, help texts, studies and code hold each other."""

import re
import shlex
from pathlib import Path

import click
import pytest
import typer

from sensitivity.cli import app
from sensitivity.spec import list_studies, load_spec, studies_folder

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS: dict[str, click.Command] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
SHOWN = [
    line.split("#")[0].strip()
    for block in re.findall(r"```bash\n(.*?)```", README, re.S)
    for line in block.splitlines()
    if "sensitivity " in line
]


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help_and_is_in_the_readme(name: str) -> None:
    """Each command says what it does, each option what it means, and the README shows the command."""
    command = COMMANDS[name]
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name}: {parameter.name} has no help"
    assert f"sensitivity {name}" in README


@pytest.mark.parametrize("line", SHOWN)
def test_every_shown_command_parses(line: str) -> None:
    """What the README shows is accepted by the command line."""
    words = shlex.split(line)
    words = words[words.index("sensitivity") + 1 :]
    COMMANDS[words[0]].make_context(words[0], words[1:])


def test_readme_shows_commands() -> None:
    """The two commands of the first minute are there, and enough others to be worth testing."""
    assert "uv run sensitivity search --model tiny-flux --budget 50" in README
    assert "uv run pytest" in README
    assert len(SHOWN) >= 8


def test_ci_runs_the_readmes_test_command() -> None:
    """CI calls the very command that the README gives."""
    assert "\nuv run pytest\n" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")


def test_every_study_loads() -> None:
    """Every TOML below studies/ is a study, under its own name, and what it points to exists."""
    studies = list_studies()
    assert {path.resolve() for path in (ROOT / "studies").rglob("*.toml")} == {path.resolve() for path in studies.values()}
    assert studies
    for name, path in studies.items():
        spec = load_spec(path)
        assert spec.name == name
        assert spec.model.path is None or (spec.model.path / "model_index.json").is_file()
        assert spec.fidelity.weights is None or spec.fidelity.weights.is_file()


def test_the_file_tree_is_true() -> None:
    """Every file that the README's tree names exists, and every module of the package stands in it."""
    tree = README[README.index("## Files") :]
    for name in re.findall(r"[\w./-]+\.(?:py|toml|md|json)\b", tree):
        assert list(ROOT.glob(f"**/{name}")), f"{name} does not exist"
    for path in (ROOT / "sensitivity").rglob("*.py"):
        if path.name != "__init__.py":
            assert path.name in tree, f"{path.name} is not in the README's tree"


def test_the_shipped_model_is_small_enough() -> None:
    """Each file below 16 MB, all together at most 28 MB, weights as safetensors only."""
    files = [path for path in (studies_folder() / "tiny-flux").rglob("*") if path.is_file()]
    sizes = [path.stat().st_size for path in files]
    assert max(sizes) < 16e6
    assert sum(sizes) <= 28e6
    assert not [path for path in files if path.suffix in (".bin", ".pt", ".pth", ".ckpt", ".pkl")]
