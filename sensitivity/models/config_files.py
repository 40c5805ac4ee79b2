"""Where are a study's config files, and what does one of them hold?

`config_folder` finds the folder, and `read_config` reads one JSON file of it.

    folder = config_folder(resolve_spec("flux1-dev"))
    read_config(folder / "transformer" / "config.json")["num_layers"]       # 19

The folder is `model.config` or `model.path` of the study. For a Hub id it is the snapshot in the
Hub's local cache, and its JSON files are downloaded first if the Hub answers. Weights are never
downloaded here (`pipeline_source` does that).

`check_component_files` looks at what a library is about to read by itself: files that never end,
and configs of models that no machine could build, are refused before.

Conventions. Only regular files are read, up to `core.outside_files.CONFIG`. Unlike our own files,
configs may have NaN, duplicate keys and integers of any size, since transformers writes some.
"""

import codecs
import json
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sensitivity.core.json_files import MAX_DEPTH
from sensitivity.core.outside_files import CONFIG, read_bytes, reason
from sensitivity.core.words import first_line, printable
from sensitivity.errors import PipelineError
from sensitivity.models.hub import hub_answers, quiet
from sensitivity.spec.not_a_pipeline import describe_folder
from sensitivity.spec.study_spec import StudySpec

INDEX_FILE, README = "model_index.json", "README.md"
COUNTS = re.compile(r"(?:^|_)(?:n_layer|layers|blocks|depths?|experts|layers_per_block)$")
"""Keys of configs that count layers, blocks or experts."""
MAX_COUNT = 512
"""The most layers, blocks or experts; the largest models of 2026 have some hundred."""
ELSEWHERE = re.compile(r"(?:attn|experts)_implementation$")
"""Keys of configs whose value may name code in a repository of the Hub (owner/name)."""
OTHER_WEIGHTS = "transformers_weights"
"""The key by which transformers loads another file than the usual one."""
TIMESTEPS, MAX_TIMESTEPS = "num_train_timesteps", 10**6
"""The key of schedulers' configs that sizes their tables, and the most of it; 1,000 is usual."""


def config_folder(spec: StudySpec) -> Path:
    """The folder with the study's config files.

    Raises:
        PipelineError: it has no `model_index.json`, or a Hub id's files cannot be had.
    """
    model = spec.model
    folder = model.config or model.path or download_configs(spec)
    if not (folder / INDEX_FILE).is_file():
        found, step = "", "name the folder that holds it"
        if folder.is_dir():
            what, step = describe_folder(folder)
            found = "" if INDEX_FILE in what else f", not {what}"
        raise PipelineError(
            f"{folder} has no {INDEX_FILE}; expected a diffusers pipeline folder, with or without"
            f" weights{found}: {step}"
        )
    return folder


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in a config file.

    Raises:
        PipelineError: the file cannot be read, is too large or nested too deep, holds no JSON
            object, or counts more layers than any model has.
    """
    try:
        data = json.loads(read_bytes(path, CONFIG).removeprefix(codecs.BOM_UTF8))
        _check_values(data)
    except RecursionError:
        raise _unread(path, f"found nesting deeper than {MAX_DEPTH} levels") from None
    except (OSError, ValueError) as error:
        raise _unread(path, reason(error).partition("; expected")[0][:300]) from None
    if not isinstance(data, dict):
        raise PipelineError(
            f"{path} holds a {type(data).__name__}; expected the JSON object that `save_pretrained`"
            " writes: write it again"
        )
    return data


def check_component_files(folder: Path) -> None:
    """Raise PipelineError unless a library may read a component's folder by itself.

    All in it are regular files and folders, and its configs are as `read_config` reads them.
    """
    for path in _all_in(folder):
        if path.suffix == ".json" and "config" in path.name:
            read_config(path)


def _all_in(folder: Path) -> Iterator[Path]:
    """The files in a folder and its subfolders. Raises PipelineError for pipes and devices."""
    for place, _, names in os.walk(folder):
        for name in sorted(names):
            path = Path(place, name)
            if path.exists() and not stat.S_ISREG(path.stat().st_mode):
                raise PipelineError(
                    f"{printable(str(path))} is a pipe or device; expected regular files alone,"
                    " since reading a pipe may never end: remove it"
                )
            yield path


def _check_values(data: object) -> None:
    """Raise ValueError for values that no model's config has."""
    pending: list[tuple[str, object, int]] = [("", data, 1)]
    while pending:
        key, value, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise RecursionError
        if isinstance(value, dict):
            pending.extend((str(name), child, depth + 1) for name, child in value.items())
        elif isinstance(value, list):
            pending.extend((key, child, depth + 1) for child in value)
        elif isinstance(value, str) and ELSEWHERE.search(key) and "/" in value:
            raise ValueError(f"{key[:80]} is {value[:80]!r}, code that is never run")
        elif isinstance(value, str) and key == OTHER_WEIGHTS:
            raise ValueError(f"{key} is {value[:80]!r}, and weights have their usual names alone")
        elif isinstance(value, int):
            if COUNTS.search(key) and (value < 0 or (value is True and key.startswith("num_"))):
                raise ValueError(f"{key[:80]} is {value}, and a number of them is 0 or more")
            most = MAX_TIMESTEPS if key == TIMESTEPS else MAX_COUNT if COUNTS.search(key) else value
            if value > most:
                raise ValueError(f"{key[:80]} is {value:.6g}, and no model has more than {most}")


def _unread(path: Path, why: str) -> PipelineError:
    return PipelineError(
        f"{printable(str(path))} could not be loaded ({printable(why)}); expected the JSON that"
        " `save_pretrained` writes: write it again"
    )


def download_configs(spec: StudySpec) -> Path:
    """The snapshot of a Hub id in the local cache. JSON files that it lacks are downloaded.

    Raises:
        PipelineError: they cannot be had.
    """
    from huggingface_hub import snapshot_download

    offline = not hub_answers()
    try:
        with quiet():
            return Path(
                snapshot_download(
                    str(spec.model.hub),
                    revision=spec.model.revision,
                    allow_patterns=["*.json", README],
                    local_files_only=offline,
                )
            )
    except Exception as error:  # the Hub's client raises many kinds of errors
        reason = (
            "the Hub does not answer, and the cache does not hold all of them"
            if offline
            else f"{type(error).__name__}: {first_line(error, most=300)}"
        )
        raise PipelineError(
            f"the config files of {spec.model.hub} could not be loaded from the Hugging Face Hub or"
            f" its local cache ({reason}); expected a public diffusers pipeline that is reachable"
            " or already downloaded: check the id and the network, log in for gated models (`hf"
            " auth login`), or name a folder made by `pipeline.save_pretrained` (it may lack"
            " weights)"
        ) from error
