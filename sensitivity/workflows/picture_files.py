"""Where do the pictures of a search lie, and what do they show? The index of a folder of pictures.

    index = read_index(pictures_folder(database, study))
    folder / file_of(3, "bf16")                  # bf16's picture of prompt 3

A search keeps pictures of the lists that it verified (`workflows.picture_keeper`), a report shows
them (`workflows.report.gallery`). An index that is missing or damaged is None: pictures are a gift,
and never the reason for an error.
"""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sensitivity.core.file_names import slug
from sensitivity.core.json_files import write_whole
from sensitivity.core.outside_files import RECIPE, read_json
from sensitivity.recipes.recipe import Recipe
from sensitivity.search.store import default_storage
from sensitivity.spec.study_spec import StudySpec

INDEX = "pictures.json"
BF16 = "bf16"
FLOOR = ("floor-batch", "floor-alone")
"""bf16's pictures of one search prompt, in a batch and alone."""

KEPT_PROMPTS = 12
"""Prompts of each list whose pictures are kept unless somebody says otherwise."""

log = logging.getLogger(__name__)
Key = Annotated[str, Field(pattern=r"^[0-9a-f]{16,64}$")]


class KeptList(BaseModel):
    """One list whose pictures were drawn.

    Attributes:
        name: what tables call it; "" until the search ends.
        lpips: (P,) of every prompt, from bf16's.
        per_frame: {prompt: LPIPS of the frames that are kept}; {} for pictures.
    """

    model_config = ConfigDict(frozen=True)

    name: str = ""
    lpips: tuple[float, ...]
    per_frame: Mapping[int, tuple[float, ...]] = Field(default_factory=dict)


class Floor(BaseModel):
    """Two pictures that bf16 made of one prompt.

    Attributes:
        prompt, seed: what was drawn.
        lpips: mean distance of bf16 from itself over the search prompts.
    """

    model_config = ConfigDict(frozen=True)

    prompt: str
    seed: int
    lpips: float


class PictureIndex(BaseModel):
    """What lies in a folder of pictures.

    Attributes:
        version: of this form.
        prompts, seeds: (P,) what was drawn, all prompts of the split.
        lists: {assignment key: list}, in the order in which they were drawn.
        frames: how many frames of each clip are in its file; 0 for pictures.
        floor: what the pair `FLOOR` shows; None where there is none.
    """

    model_config = ConfigDict(frozen=True)

    version: int = 1
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    lists: Mapping[Key, KeptList] = Field(default_factory=dict)
    frames: Annotated[int, Field(ge=0, le=1_000)] = 0
    floor: Floor | None = None


def pictures_folder(database: Path, study: str) -> Path:
    """Where the pictures of a study lie: `<database>-pictures/<study>` beside its database."""
    return database.with_name(f"{database.stem}-pictures") / slug(study, most=200)


def pictures_beside(path: Path, recipe: Recipe, spec: StudySpec) -> Path:
    """Where the pictures of a recipe's study lie if its database is in the recipe's folder."""
    return pictures_folder(path.with_name(default_storage(spec).name), recipe.search.study)


def file_of(prompt: int, key: str, suffix: str = ".webp") -> str:
    """The file of a prompt and a list, which is named by its assignment key or `BF16`."""
    return f"{prompt:04d}-{key[:16]}{suffix}"


def read_index(folder: Path) -> PictureIndex | None:
    """The index of a folder; None where there is none that can be read."""
    try:
        return PictureIndex.model_validate(read_json(folder / INDEX, RECIPE))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, ValidationError) as error:
        log.warning("%s cannot be read (%s): its pictures are not shown", folder / INDEX, error)
        return None


def write_index(folder: Path, index: PictureIndex) -> None:
    """Write the index of a folder, whole or not at all."""
    write_whole(folder / INDEX, json.dumps(index.model_dump(mode="json"), indent=1).encode())
