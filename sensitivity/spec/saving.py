"""How is a study written as a TOML that `load_spec` reads back as the same study?

    save_study(spec, Path("my-pipeline.toml"), ["derived from the config files of ./my-pipeline"])

Conventions: paths are absolute, so that the file may be moved. Fields that are empty, or as by
default, are left out.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import tomli_w

from sensitivity.core.file_names import is_target_file
from sensitivity.core.json_files import write_whole
from sensitivity.core.outside_files import STUDY, read_bytes, reason
from sensitivity.core.words import printable
from sensitivity.errors import OutputError
from sensitivity.spec.loading import is_below
from sensitivity.spec.study_spec import NULL, StudySpec


def study_toml(spec: StudySpec, heading: Sequence[str] = ()) -> str:
    """A study as TOML; the lines of `heading` become comments at its top."""
    data = spec.model_dump(mode="json", exclude_none=True)
    for section, key in (("model", "path"), ("model", "config"), ("fidelity", "weights")):
        if key in data[section]:
            data[section][key] = os.path.abspath(data[section][key])
    if is_target_file(data["pricing"]["target"]):
        data["pricing"]["target"] = os.path.abspath(data["pricing"]["target"])
    for section, key in (("model", "components"), ("search", "order"), ("search", "always_skip")):
        if not data[section][key]:
            del data[section][key]
    for key in ("rule_of_thumb", "published"):
        if getattr(spec, key) == StudySpec.model_fields[key].default:
            del data[key]
    if nulls := [name for name, value in spec.settings.items() if value is None]:
        given = {key: x for key, x in data["settings"].items() if x is not None}
        data["settings"] = given | {NULL: nulls}
    lines = (line for text in heading for line in text.split("\n"))
    comments = "".join(f"# {printable(line)}\n" for line in lines)
    return comments + tomli_w.dumps(data)


def save_study(spec: StudySpec, path: Path, heading: Sequence[str] = ()) -> Path:
    """Write a study as TOML, whole or not at all, and return where it is.

    Raises:
        OutputError: the path cannot be written, is a file with another content, or does not lie
            above the file of the target that the study names.
    """
    device, path = Path(spec.pricing.target), Path(os.path.realpath(path))
    if is_target_file(str(device)) and not is_below(path.parent, os.path.abspath(device)):
        raise OutputError(
            f"`save_study`: {path} would name the target's file {device}, which is not below its"
            f" folder; expected a place in {device.parent}: name a file there"
        )
    try:
        text = study_toml(spec, heading).encode()
    except UnicodeEncodeError:
        raise OutputError(
            "`save_study`: the study's paths have one that is not UTF-8, which no TOML can hold;"
            " expected a folder whose name is text: rename it"
        ) from None
    try:
        if path.exists() and read_bytes(path, STUDY) != text:
            raise OutputError(
                f"`save_study`: {path} is a file with another content; expected a new file: name"
                " another, or move that one away"
            )
    except (OSError, ValueError) as error:
        raise OutputError(
            f"`save_study`: {path} cannot be read ({reason(error)}); expected a new file: name"
            " another"
        ) from None
    return write_whole(path, text)
