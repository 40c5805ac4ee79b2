"""Writing results: JSON, and the checks that an output can be written and overwrites no input."""

import json
import os
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sensitivity.core.json_files import write_whole
from sensitivity.errors import OutputError

RUNS = Path("sensitivity-runs")
"""The folder of a user's own studies and recipes, in the current folder."""


def write_json(data: dict[str, Any], path: str | None) -> None:
    """Write a result to a path, or to stdout for "-"; None writes nothing."""
    if path is None:
        return
    text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    if path == "-":
        sys.stdout.write(text)
    else:
        write_whole(path, text.encode())


def check_writable(path: Path | str | None, flag: str) -> None:
    """Raise OutputError now rather than after minutes of work. Makes the folder if need be."""
    if path is None or path == "-":
        return
    path = Path(path)
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(
            f"{flag} {path}: the folder {folder} cannot be made ({error.strerror}); name a path in"
            " a folder that can be written"
        ) from None
    if path.exists() and not path.is_file():
        reason = "is a folder" if path.is_dir() else "is not a regular file"
        raise OutputError(f"{flag} {path} {reason}; name a file in a folder that can be written")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise OutputError(
            f"{flag} {path} lies in {folder}, which cannot be written ({error.strerror}); name a"
            " file in a folder that can be written"
        ) from None


def check_apart(
    outputs: Mapping[str, Path | str | None], inputs: Mapping[str, Path | None] | None = None
) -> None:
    """Raise OutputError where a result would replace another, or what the command reads.

    Both are {flag: path}; "-" is stdout.
    """
    seen = {
        os.path.realpath(path): flag for flag, path in (inputs or {}).items() if path is not None
    }
    for flag, path in outputs.items():
        if path is None or path == "-":
            continue
        other = seen.setdefault(os.path.realpath(path), flag)
        if other != flag:
            raise OutputError(
                f"{flag} {path} is the file of {other}; expected a file for each: name another"
            )


def default_recipe(storage: Path | None, name: str) -> Path:
    """Where a recipe goes by default: beside the study's database, which git does not look at."""
    folder = RUNS if storage is None else storage.parent
    return folder / f"{name}.json"


def check_results(
    recipe: Path | None, storage: Path | None, json_path: str | None, study: Path | None = None
) -> None:
    """Raise OutputError where a result could not be written, or would replace another."""
    check_writable(storage, "--storage")
    check_writable(recipe, "--out")
    check_writable(json_path, "--json")
    check_apart({"--storage": storage, "--out": recipe, "--json": json_path, "--save-study": study})
