"""Which of a study's files are on this machine?

`local_copies`: the Hub's cache is looked at, without a network and without loading anything.

    local_copies(load_spec(Path("studies/flux1-dev.toml")))        # "configs only": shapes and prices work, a search would download the weights

Convention: the revision that counts is the study's, or what "main" meant when it was last
downloaded. It does not check what weight files hold beyond their headers.
"""

import json
from enum import StrEnum
from pathlib import Path

from sensitivity.errors import PipelineError
from sensitivity.models.weight_files import find_weights
from sensitivity.spec.loading import studies_folder
from sensitivity.spec.study_spec import StudySpec


class Copies(StrEnum):
    """What is here, in words.

    Configs may ship with the package or be cached; "partly": some weights are missing, or cut
    short.
    """

    SHIPPED = "ships with the package"
    FOLDER = "in its folder"
    WEIGHTS = "weights cached"
    PARTLY = "weights partly cached"
    CONFIGS = "configs only"
    NONE = "not cached"


def local_copies(spec: StudySpec) -> Copies:
    """What of the study's model is on this machine."""
    model = spec.model
    if model.path is not None:
        return Copies.SHIPPED if model.path.is_relative_to(studies_folder()) else Copies.FOLDER
    folder = _snapshot(str(model.hub), model.revision)
    if folder is None:
        return Copies.NONE if model.config is None else Copies.CONFIGS
    try:
        find_weights(folder, _parts(folder), variant=None)
    except PipelineError:
        return Copies.PARTLY if any(folder.glob("*/*.safetensors")) else Copies.CONFIGS
    return Copies.WEIGHTS


def _snapshot(hub: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(hub, "model_index.json", revision=revision)
    return Path(index).parent if isinstance(index, str) else None


def _parts(folder: Path) -> dict[str, str]:
    """{component with weights: its class}. Raises PipelineError where the index cannot be read."""
    try:
        index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
        entries = {
            name: entry[1]
            for name, entry in index.items()
            if isinstance(entry, list) and len(entry) == 2 and isinstance(entry[1], str)
        }
    except (OSError, ValueError, AttributeError) as error:
        raise PipelineError(
            f"{folder / 'model_index.json'} could not be read ({error}); allowed is JSON: download"
            " it again"
        ) from None
    unlike = ("Scheduler", "Tokenizer", "TokenizerFast", "Processor", "FeatureExtractor")
    return {
        name: kind
        for name, kind in entries.items()
        if not kind.endswith(unlike) and name != "safety_checker"
    }
