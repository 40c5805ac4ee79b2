"""Where are a study's config files, and what does one of them hold?

`config_folder` finds the folder, and `read_config` reads one JSON file of it.

    folder = config_folder(resolve_spec("flux1-dev"))
    read_config(folder / "transformer" / "config.json")["num_layers"]       # 19

The folder is `model.config` or `model.path` of the study. For a Hub id it is the snapshot in the
Hub's local cache, and its JSON files are downloaded first if the Hub answers. Weights are never
downloaded here (`pipeline_source` does that).
"""

import json
from pathlib import Path
from typing import Any

from sensitivity.core.words import first_line
from sensitivity.errors import PipelineError
from sensitivity.models.hub import hub_answers, quiet
from sensitivity.spec.study_spec import StudySpec

INDEX_FILE = "model_index.json"


def config_folder(spec: StudySpec) -> Path:
    """The folder with the study's config files.

    Raises:
        PipelineError: it has no `model_index.json`, or a Hub id's files cannot be had.
    """
    model = spec.model
    folder = model.config or model.path or download_configs(spec)
    if not (folder / INDEX_FILE).is_file():
        raise PipelineError(
            f"{folder} has no {INDEX_FILE}; expected a diffusers pipeline folder, with or without"
            " weights: name the folder that holds it"
        )
    return folder


def read_config(path: Path) -> dict[str, Any]:
    """The JSON object in a config file.

    Raises:
        PipelineError: the file cannot be read, or holds no JSON object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise PipelineError(
            f"{path} could not be loaded ({first_line(error, most=300)}); expected the JSON that"
            " `save_pretrained` writes: write it again"
        ) from None
    if not isinstance(data, dict):
        raise PipelineError(
            f"{path} holds a {type(data).__name__}; expected the JSON object that `save_pretrained`"
            " writes: write it again"
        )
    return data


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
                    allow_patterns=["*.json"],
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
