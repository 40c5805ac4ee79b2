"""Which pictures are there to look at? `gallery_of`, from the folder that the search kept.

    gallery, why = gallery_of(recipe, pictures_folder(database, study))
    gallery.scenes[0].pictures["bf16"].file      # of the recipe's worst prompt

A picture that is missing is left out, and `why` says in words what is not there.
"""

from collections.abc import Iterable
from pathlib import Path

from sensitivity.recipes.recipe import Recipe
from sensitivity.search.store import assignment_key
from sensitivity.workflows.picture_files import (
    BF16,
    FLOOR,
    KeptList,
    PictureIndex,
    file_of,
    read_index,
)
from sensitivity.workflows.report.picture_records import Gallery, Picture, Scene
from sensitivity.workflows.report.verdict import flips_over

NONE_KEPT = (
    "No pictures were kept. A search keeps them while it verifies lists on unseen prompts; scores"
    " that were known from an earlier version, or a search that keeps none, leave none to show."
)


def gallery_of(recipe: Recipe | None, folder: Path) -> tuple[Gallery, str]:
    """The pictures in a folder, and what is missing, in words ("" if nothing).

    Args:
        recipe: its worst prompt comes first; None takes the prompts in order.
        folder: of kept pictures.
    """
    index = read_index(folder)
    if index is None or not index.lists:
        return Gallery(), NONE_KEPT
    key = "" if recipe is None else assignment_key(recipe.assignment)
    names = _names(index)
    lists = sorted(index.lists, key=lambda own: own != key)
    scenes = [
        scene
        for prompt in _order(index, key)
        if (scene := _scene(index, folder, prompt, lists, names, recipe)) is not None
    ]
    gallery = Gallery(
        folder=str(folder),
        scenes=tuple(scenes),
        chosen=names[key] if any(names.get(key, "") in scene.pictures for scene in scenes) else "",
        frames=index.frames,
        floor=_floor(index, folder),
    )
    if not scenes:
        return gallery, "The files of the pictures are no longer there: search again to keep them."
    if key and not gallery.chosen:
        return gallery, (
            "The recipe's own pictures were not kept (its score was known before); the pictures are"
            " those of other lists."
        )
    return gallery, ""


def _names(index: PictureIndex) -> dict[str, str]:
    """{key: a name of its own} of each list."""
    names: dict[str, str] = {}
    for key, kept in index.lists.items():
        name = kept.name or f"list {key[:8]}"
        names[key] = name if name not in names.values() else f"{name} ({key[:8]})"
    return names


def _order(index: PictureIndex, key: str) -> Iterable[int]:
    """Prompts, the worst of the recipe's list (else of the first one) first."""
    kept = index.lists.get(key) or next(iter(index.lists.values()))
    return sorted(range(len(index.prompts)), key=lambda p: (-_at(kept, p), p))


def _scene(
    index: PictureIndex,
    folder: Path,
    prompt: int,
    lists: list[str],
    names: dict[str, str],
    recipe: Recipe | None,
) -> Scene | None:
    """One prompt; None where bf16's picture or all others are missing."""
    if not (folder / file_of(prompt, BF16)).is_file():
        return None
    pictures = {BF16: _picture(folder, prompt, BF16, None)}
    for key in lists:
        if (folder / file_of(prompt, key)).is_file():
            pictures[names[key]] = _picture(folder, prompt, key, index.lists[key])
    if len(pictures) == 1:
        return None
    seen = {name: picture.lpips or 0.0 for name, picture in pictures.items() if name != BF16}
    return Scene(
        prompt=index.prompts[prompt],
        seed=index.seeds[prompt],
        pictures=pictures,
        flipped=flips_over(recipe, seen),
    )


def _picture(folder: Path, prompt: int, key: str, kept: KeptList | None) -> Picture:
    def there(suffix: str) -> str:
        name = file_of(prompt, key, suffix)
        return name if (folder / name).is_file() else ""

    return Picture(
        file=file_of(prompt, key),
        lpips=None if kept is None else _at(kept, prompt),
        per_frame=() if kept is None else kept.per_frame.get(prompt, ()),
        sound=there(".wav"),
        spectrogram=there(".sound.webp"),
    )


def _at(kept: KeptList, prompt: int) -> float:
    return kept.lpips[prompt] if prompt < len(kept.lpips) else 0.0


def _floor(index: PictureIndex, folder: Path) -> Scene | None:
    files = [f"{name}.webp" for name in FLOOR]
    if index.floor is None or not all((folder / name).is_file() for name in files):
        return None
    return Scene(
        prompt=index.floor.prompt,
        seed=index.floor.seed,
        pictures={
            "in a batch": Picture(file=files[0]),
            "alone": Picture(file=files[1], lpips=index.floor.lpips),
        },
    )
