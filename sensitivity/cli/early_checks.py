"""Which mistakes of a command line can be found before anything heavy is loaded?

A target that no device has, a sampler that is not there, a database that is missing, a recipe of
another model: each is said in a fraction of a second, by small files alone. What cannot be told so
cheaply passes, and the library says it later.

    check_target("b20")                             # UserError: did you mean 'b200'?
"""

import difflib
import json
import tomllib
from collections.abc import Collection
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sensitivity.core.file_names import is_target_file, slug
from sensitivity.core.storage_url import Storage
from sensitivity.errors import RecipeMismatchError, StoreError, UserError

if TYPE_CHECKING:
    from sensitivity.recipes.recipe import Recipe
    from sensitivity.spec.study_spec import StudySpec

SAMPLERS = ("knapsack", "tpe", "nsga2", "nsga3", "gp", "random")
"""What proposes skip-lists; a test compares it with the library's own list."""
_OTHER_NAMES = ("5090", "rtx-5090", "rtx_5090", "geforce-rtx-5090")
_GENERIC_CLASS = "Transformer2DModel"  # older diffusers wrote it for transformers of any class


@cache
def device_names() -> tuple[str, ...]:
    """The devices that come with the package."""
    path = Path(__file__).parents[1] / "latency" / "devices.toml"
    return tuple(tomllib.loads(path.read_text(encoding="utf-8")))


def check_target(name: str, field: str = "target") -> None:
    """Raise UserError unless a device has this name, or it is the path of a device's file.

    Args:
        name: of the device.
        field: that it was given in.
    """
    text = name.strip().lower()
    if is_target_file(text) or text in device_names() or text in _OTHER_NAMES:
        return
    closest = difflib.get_close_matches(text, device_names(), n=1, cutoff=0.4)
    hint = f"Did you mean {closest[0]!r}?" if closest else "Choose one of these."
    raise UserError(
        f"No device is called {name!r} (`{field}`); expected one of {', '.join(device_names())}, or"
        f" a path to a device TOML or to the JSON of `sensitivity device measure`. {hint}"
    )


def check_sampler(name: str) -> None:
    """Raise UserError unless the name is that of a sampler, or has the form module:Class."""
    if name not in SAMPLERS and ":" not in name:
        raise UserError(
            f"`sampler` is {name!r}; expected one of {', '.join(SAMPLERS)}, or an Optuna sampler as"
            " module:Class, such as my_package.samplers:MySampler"
        )


def check_consumer(name: str, known: Collection[str]) -> None:
    """Raise UserError unless the name is that of an exporter."""
    if name not in known:
        closest = difflib.get_close_matches(name.lower().replace("_", "-"), known, n=1, cutoff=0.4)
        hint = f"did you mean {closest[0]!r}?" if closest else "choose one of these"
        raise UserError(f"`consumers` is {name!r}; expected one of {', '.join(known)}: {hint}")


def check_database(storage: Storage | None, spec: "StudySpec") -> None:
    """Raise StoreError where the database of a search is missing. A server is not asked.

    By default it is where `search` puts it.
    """
    database = database_of(storage, spec)
    if isinstance(database, Path) and not database.exists():
        raise StoreError(
            f"{database} is not there; expected the database of a search: run `sensitivity search`"
            f" for {spec.name}, or name its database in `storage`"
        )


def database_of(storage: Storage | None, spec: "StudySpec") -> Storage:
    """The database of a study: what was named, else where `search` puts it."""
    return storage or Path("sensitivity-runs") / f"{slug(spec.name, most=200)}.db"


def check_fits(recipe: "Recipe", spec: "StudySpec") -> None:
    """Raise RecipeMismatchError where the model's config files name another denoiser than the
    recipe is for. A model whose config files are not on this machine passes.
    """
    folder = spec.model.config or spec.model.path
    try:
        text = (folder / "model_index.json").read_text(encoding="utf-8") if folder else "{}"
        index = json.loads(text)
        entry = index.get(recipe.model.component)
    except (OSError, ValueError, AttributeError):
        return
    if not index or (isinstance(entry, list) and _GENERIC_CLASS in entry):
        return
    kind = entry[1] if isinstance(entry, list) and len(entry) == 2 else "none"
    if kind != recipe.model.component_class:
        raise RecipeMismatchError(
            f"the recipe is for {recipe.model.id}, whose {recipe.model.component} is a"
            f" {recipe.model.component_class}, and that of {spec.name} is {kind}; expected the"
            " recipe's own model: name it in `model`"
        )
