"""The documents and the program hold each other: every command and option has help, and the README
shows only what works.
"""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from sensitivity.cli.app import app
from sensitivity.spec.loading import list_studies, load_spec, studies_folder

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GROUP: Any = typer.main.get_command(app)
COMMANDS: dict[str, Any] = GROUP.commands


def blocks(language: str) -> list[str]:
    """The fenced blocks of the README in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


def shown_commands() -> list[list[str]]:
    """The arguments of each `sensitivity ...` that a bash block of the README runs."""
    lines = [line for block in blocks("bash") for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines]
    return [line[line.index("sensitivity") + 1 :] for line in words if "sensitivity" in line]


def tree_files() -> Iterator[str]:
    """Every path that the README's file tree names, from the repository's root."""
    tree = next(block for block in blocks("text") if "pyproject.toml" in block)
    folder = ""
    for line in tree.splitlines():
        if not line.startswith(" "):
            names = line.split("  ") if line.startswith("pyproject") else [line.split()[0]]
            folder = names[0] if names[0].endswith("/") else ""
            yield from (name.strip() for name in names if name.strip())
            continue
        name, _, about = line.strip().partition(" ")
        yield folder + name
        if name.endswith("/"):
            yield from (
                folder + name + file
                for file in re.findall(r"\b_?[a-z_]+\.(?:py|json|toml)\b", about)
            )


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_and_option_has_help(name: str) -> None:
    """Each command says what it does in a sentence, and so does each of its options and arguments."""
    command = COMMANDS[name]
    assert command.help
    assert command.help.strip().endswith(".")
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_takes_json(name: str) -> None:
    """Each command can write its result as JSON."""
    assert any("--json" in parameter.opts for parameter in COMMANDS[name].params)


@pytest.mark.parametrize("name", list(COMMANDS))
def test_every_command_is_shown_in_the_readme(name: str) -> None:
    """The README runs each command at least once."""
    assert name in {arguments[0] for arguments in shown_commands()}


@pytest.mark.parametrize("arguments", shown_commands(), ids=" ".join)
def test_every_command_in_the_readme_parses(arguments: list[str]) -> None:
    """The program accepts the command and options that the README shows; nothing is run."""
    command = COMMANDS[arguments[0]]
    context = command.make_context(arguments[0], list(arguments[1:]))
    assert context.params
    with pytest.raises(Exception, match="No such option"):
        command.make_context(arguments[0], [*arguments[1:], "--no-such-option"])


def test_the_readme_shows_the_two_commands_of_the_first_minute() -> None:
    """The search and the tests are the README's first two commands."""
    lines = blocks("bash")[0].splitlines()
    assert lines[:2] == ["uv run sensitivity search --model tiny-flux --budget 50", "uv run pytest"]


@pytest.mark.parametrize("code", blocks("python"), ids=range(len(blocks("python"))))
def test_library_examples_in_the_readme_are_real(code: str) -> None:
    """Each python block compiles, and each name that it takes from the package exists."""
    import sensitivity

    compile(code, "README.md", "exec")
    names = re.findall(r"\bsensitivity\.([A-Za-z_]+)", code)
    assert names
    assert set(names) <= set(sensitivity.__all__)


@pytest.mark.parametrize(
    "path", sorted(studies_folder().rglob("*.toml")), ids=lambda path: path.stem
)
def test_every_study_loads(path: Path) -> None:
    """Each TOML under studies/, at any depth, is a study, and the files that it names exist."""
    spec = load_spec(path)
    assert spec.name == path.stem
    assert spec.title
    for file in (spec.model.path, spec.fidelity.weights):
        assert file is None or file.exists()


def test_studies_are_found_by_name() -> None:
    """There are studies, and every TOML under studies/ is one that `--model` takes by its name."""
    files = sorted(studies_folder().rglob("*.toml"))
    assert files
    assert sorted(list_studies().values()) == files


def test_every_file_of_the_readmes_tree_exists() -> None:
    """The README ends with a file tree that names nothing that is not there."""
    named = list(tree_files())
    assert len(named) > 30
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_every_module_is_in_the_readmes_tree() -> None:
    """Every module of the package has its clause in the README's file tree."""
    named = set(tree_files())
    modules = [path for path in (ROOT / "sensitivity").rglob("*.py") if path.name != "__init__.py"]
    assert modules
    missing = [
        path.relative_to(ROOT).as_posix()
        for path in modules
        if path.relative_to(ROOT).as_posix() not in named
    ]
    assert [name for name in missing if name != "sensitivity/exporters/_base.py"] == []
