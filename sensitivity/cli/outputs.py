"""Writing results: JSON, texts and recipes, each whole or not at all.

What may be written where was decided when the command began (`file_checks`).
"""

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensitivity.cli.file_checks import (
    check_not_database,
    check_output,
    check_writable,
    keep_database_apart,
    real_path,
)
from sensitivity.core.file_names import file_name
from sensitivity.core.json_files import write_whole
from sensitivity.core.storage_url import Storage
from sensitivity.errors import OutputError

if TYPE_CHECKING:
    from sensitivity.recipes.recipe import Recipe


def write_json(data: dict[str, Any], path: str | None) -> None:
    """Write a result to a path, or to stdout for "-"; None writes nothing.

    Characters that are not printable are escaped, so that the text is safe on a terminal.
    """
    if path is None:
        return
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    text = re.sub(r"[^\n]", _escaped, text) if not text.replace("\n", "").isprintable() else text
    if path == "-":
        sys.stdout.write(text)
    else:
        write_file(Path(path), text.encode())


def write_file(path: Path, data: bytes) -> Path:
    """Write a file, whole or not at all, and the folder that it lies in; the real path.

    Raises:
        OutputError: it cannot be written.
    """
    make_folder(path)
    return write_whole(path, data)


def save_recipe(recipe: "Recipe", path: Path) -> None:
    """Write a recipe, and the folder that it lies in.

    Raises:
        OutputError: it cannot be written.
    """
    make_folder(path)
    recipe.save(path)


def make_folder(path: Path) -> None:
    """Make the folder that a file will lie in.

    Raises:
        OutputError: it cannot be made.
    """
    folder = real_path(path).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"the folder {folder} cannot be made ({error.strerror}); expected a folder that"
            " can be written: name another path"
        ) from None


def default_recipe(beside: Path, *names: str) -> Path:
    """Where a recipe goes by default: beside the study's database, which git does not look at
    (`search.store.kept_beside`).
    """
    return beside.parent / file_name(*names, suffix=".json")


def check_recipe(path: Path, storage: Storage) -> None:
    """Raise OutputError where a recipe's path or a study's database cannot be written, or both are
    one file. A server is not asked.
    """
    if isinstance(storage, Path):
        check_writable(storage, "--storage")
    check_output(path, "--out")
    keep_database_apart(storage, "--storage")
    check_not_database({"--out": path}, storage, "--storage")


def _escaped(found: re.Match[str]) -> str:
    character = found[0]
    return character if character.isprintable() else json.dumps(character)[1:-1]
