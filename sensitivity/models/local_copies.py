"""How much of a study's model is on this machine?

`local_copies` looks into the Hub's local cache. It needs no network and loads nothing.

    local_copies(load_spec(Path("studies/flux1-dev.toml")))     # Copies.CONFIGS

With "configs only", shapes and prices work, and a search would download the weights.

Convention: the revision that counts is the study's, or else what "main" was at the last download.
Of weight files only names and headers are checked.
"""

from enum import StrEnum
from pathlib import Path

from sensitivity.errors import PipelineError
from sensitivity.models.config_files import INDEX_FILE
from sensitivity.models.model_index import ModelIndex
from sensitivity.models.weight_files import find_weights
from sensitivity.spec.shipped import studies_folder
from sensitivity.spec.study_spec import StudySpec


class Copies(StrEnum):
    """What is on this machine, in words for people.

    CONFIGS: the config files, which come with the package or are cached. PARTLY: some weights are
    missing or cut short.
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
    folder = _cached_snapshot(str(model.hub), model.revision)
    if folder is None:
        return Copies.NONE if model.config is None else Copies.CONFIGS
    try:
        find_weights(folder, ModelIndex.read(folder).modules, variant=None)
    except PipelineError:
        return Copies.PARTLY if any(folder.glob("*/*.safetensors")) else Copies.CONFIGS
    return Copies.WEIGHTS


def _cached_snapshot(hub: str, revision: str | None) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    index = try_to_load_from_cache(hub, INDEX_FILE, revision=revision)
    return Path(index).parent if isinstance(index, str) else None
