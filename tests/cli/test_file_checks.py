"""No output replaces what a command reads or keeps, nor a file that is not the program's."""

import json
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import typer

from sensitivity.cli import app
from sensitivity.cli.file_checks import (
    JSON_KEYS,
    OUTPUTS,
    check_output,
    checking_files,
    is_ours,
    keep_apart,
    keep_database_apart,
)
from sensitivity.cli.flags import flags_of
from sensitivity.cli.outputs import check_recipe, default_recipe, write_file
from sensitivity.errors import OutputError, UserError

FLAGS = {
    "out": "--out",
    "json_path": "--json",
    "model": "--model",
    "prompts": "--prompts",
    "storage": "--storage",
    "compare": "--compare",
    "target": "--target",
}


def check(force: bool = False, **values: Any) -> None:
    """Check a command that has these options."""
    with checking_files(values, FLAGS, force=force):
        pass


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test is in a folder of its own, with a few files of the user's."""
    monkeypatch.chdir(tmp_path)
    Path("mine.toml").write_text("name = 'mine'\n", encoding="utf-8")
    Path("p.txt").write_text("a\nb\n", encoding="utf-8")


@pytest.mark.parametrize("name", ["p.txt", "./p.txt", "sub/../p.txt", "soft", "hard"])
@pytest.mark.parametrize("force", [False, True])
def test_an_output_is_held_against_inputs_by_the_file_itself(name: str, force: bool) -> None:
    """Whatever path leads to a file that is read, it is not written, --force or not."""
    Path("sub").mkdir()
    os.symlink("p.txt", "soft")
    os.link("p.txt", "hard")
    with pytest.raises(OutputError, match=r"--out .* is the file of --prompts, which is read"):
        check(force, out=Path(name), prompts=Path("p.txt"))
    assert Path("p.txt").read_text(encoding="utf-8") == "a\nb\n"


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"model": "mine.toml", "json_path": "mine.toml"}, "is the file of --model"),
        ({"target": "mine.toml", "out": Path("mine.toml")}, "is the file of --target"),
        ({"compare": [Path("q"), Path("p.txt")], "out": Path("p.txt")}, "is the file of --compare"),
        ({"out": Path("new.json"), "json_path": "new.json"}, "is the file of --json"),
        ({"storage": Path("s.db"), "out": Path("s.db")}, "holds the study's trials"),
        ({"storage": Path("s.db"), "json_path": "s.db-journal"}, "holds the study's trials"),
        ({"out": Path("mine.toml")}, "did not write"),
        ({"out": Path("new/../mine.toml")}, "did not write"),
        ({"out": Path("loop")}, "link to itself"),
        ({"out": Path()}, "is a folder"),
        ({"json_path": os.devnull}, "is not a regular file"),
        ({"out": Path("p.txt/x.json")}, "cannot be written"),
        ({"out": Path("x" * 300)}, "name too long|cannot be written"),
    ],
)
def test_outputs_that_would_do_harm_are_refused(values: dict[str, Any], words: str) -> None:
    """Each is an error that names the option, and every file stays as it was."""
    before = {path: path.read_bytes() for path in Path().iterdir()}
    os.symlink("loop", "loop")
    with pytest.raises(OutputError, match=f"(?i){words}"):
        check(**values)
    Path("loop").unlink()
    assert {path: path.read_bytes() for path in Path().iterdir()} == before


def test_a_database_is_never_replaced() -> None:
    """--force replaces a file of the user's, and no SQLite database, whoever made it."""
    sqlite3.connect("other.db").execute("create table t (x)").connection.close()
    with pytest.raises(OutputError, match="is a database"):
        check(True, out=Path("other.db"))
    check(True, out=Path("mine.toml"))


def test_a_file_in_a_models_folder_is_never_replaced() -> None:
    """A result may lie beside the weights, and no other file there is replaced."""
    Path("model").mkdir()
    Path("model/config.json").write_text("{}", encoding="utf-8")
    check(model="model", out=Path("model/recipe.json"))
    Path("model/recipe.json").write_text('{"models": []}', encoding="utf-8")
    check(model="model", out=Path("model/recipe.json"))  # the same command again
    with pytest.raises(OutputError, match="a file in the folder of --model"):
        check(True, model="model", out=Path("model/config.json"))


@pytest.mark.parametrize("option", ["storage", "out", "json_path", "prompts"])
def test_urls_are_no_paths_and_passwords_stay_hidden(option: str) -> None:
    """A URL makes no folder that is named after its parts."""
    url = "postgresql+psycopg://user:hunter2@host/studies"
    value: Any = url if option == "json_path" else Path(url)
    with pytest.raises(UserError, match=rf"{FLAGS[option]}: .*postgresql\+psycopg://") as caught:
        check(**{option: value})
    assert "hunter2" not in str(caught.value)
    assert sorted(map(str, Path().iterdir())) == ["mine.toml", "p.txt"]


def test_a_name_is_no_file() -> None:
    """A study or GPU that is named like an output is not read from that file."""
    check(model="tiny", target="b200", out=Path("tiny"), json_path="b200")


def test_only_json_goes_to_stdout_by_a_hyphen() -> None:
    """Other outputs would become a file of that name, unchecked."""
    check(json_path="-")
    with pytest.raises(UserError, match="--out is -; expected the path of a file"):
        check(out=Path("-"))


def test_a_folder_that_does_not_exist_is_not_passed_through() -> None:
    """What is checked is what is written: `new/../file` is `file`, and `new` is not made."""
    write_file(Path("new/../made.json"), b"{}")
    assert sorted(map(str, Path().iterdir())) == ["made.json", "mine.toml", "p.txt"]


def test_a_database_has_a_name_in_utf_8() -> None:
    """SQLite takes no other name; the message does not call the database damaged."""
    with pytest.raises(UserError, match="--storage: found a name that is not UTF-8"):
        check(storage=Path("s\udcff.db"))


def test_checks_make_nothing() -> None:
    """A folder that is missing is made when the file is written, not when it is checked."""
    check(out=Path("a/b/c.json"), storage=Path("d/e.db"))
    assert sorted(map(str, Path().iterdir())) == ["mine.toml", "p.txt"]


def test_what_a_study_names_is_held_against_outputs_too() -> None:
    """Files that are known only once the study is read, and its default database."""
    with checking_files({"out": Path("p.txt"), "json_path": "s.db"}, FLAGS, force=True):
        with pytest.raises(OutputError, match=r"--out p.txt is the file of --model"):
            keep_apart([("--model", None), ("--model", Path("p.txt"))])
        with pytest.raises(OutputError, match=r"--json s.db is the file of --storage"):
            keep_database_apart(Path("s.db"), "--storage")
    keep_apart([("--model", Path("p.txt"))])  # no command is running


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        (json.dumps({"schema_version": "1.0", "layers": {}, "block_patterns": {}}), True),
        (json.dumps({"models": []}), True),
        (json.dumps({"models": [], "version": 2}), False),
        ("# Linears that stay in bf16.\n# mine: 1 bf16, 2 nvfp4 of 3 Linears\nproj\n", True),
        ("# my own list\nproj\n", False),
        ('{"_class_name": "FluxPipeline"}', False),
        ('{\n "transformer": {\n  "method": "fp8"\n }\n}\n', True),  # exported
        ('{\n  "transformer": {\n    "method": "fp8"\n  }\n}\n', False),  # somebody else's
        ('{\n "nbformat": 4,\n "layers": {}\n}\n', False),  # a notebook
        ("[1, 2]", False),
        ("[" * 100_000, False),
        ("\0\x01", False),
        ("", True),
    ],
)
def test_own_files_are_known_by_what_they_hold(text: str, ours: bool) -> None:
    """Results and texts of this program may be replaced, those of others not."""
    path = Path("file.json")
    path.write_bytes(text.encode())
    assert is_ours(path) is ours
    if ours:
        check_output(path, "--out")


def test_every_commands_json_is_known_as_ours() -> None:
    """The keys by which a result is known are among those that the reference gives its command."""
    import tomllib

    meanings = Path(__file__).parents[2] / "docs" / "meanings.toml"
    commands: Mapping[str, Any] = tomllib.loads(meanings.read_text(encoding="utf-8"))["json"]
    for name, keys in commands.items():
        tops = {key.partition(".")[0].removesuffix("[]") for key in keys}
        assert tops in ({"models"}, {"targets"}) or any(known <= tops for known in JSON_KEYS), name


def test_every_command_can_be_forced_and_every_output_is_known() -> None:
    """Each command has --force, and each option that names a file to write is in OUTPUTS."""
    group: Any = typer.main.get_command(app)
    options = [one for command in group.commands.values() for one in command.params]
    assert {one.name for one in options if one.name in OUTPUTS} == set(OUTPUTS)
    for one in options:
        text = (getattr(one, "help", "") or "").lower()
        if text.startswith("write") or "file to write" in text:
            assert one.name in OUTPUTS, one.name
    assert all("force" in flags_of(command.params) for command in group.commands.values())


def test_a_recipes_default_path_is_not_the_database() -> None:
    """A database that is named like the recipe is refused before it is made."""
    path = Path("runs/tiny-nvfp4-b200.json")
    assert default_recipe(path, "tiny", "nvfp4", "b200") == path
    with pytest.raises(OutputError, match="holds the study's trials"):
        check_recipe(path, path)


def test_a_pipe_is_not_ours() -> None:
    """Nothing is read from what is no regular file, which might never end."""
    os.mkfifo("pipe")
    assert not is_ours(Path("pipe"))
