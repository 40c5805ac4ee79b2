"""Which file does a recipe go to that no path was named for? `own_path`.

    sensitivity search --model tiny-flux                    tiny-flux-nvfp4-b200.json
    sensitivity select --model tiny-flux --max-lpips 0.02   tiny-flux-nvfp4-b200-lpips-0.02.json

A recipe replaces an earlier one of the same study and the same choice: the same command wrote it,
and found more. It never replaces another choice's recipe. Where the usual name is that of another
one, the choice is added to it (`choice_words`), and then the study's fingerprint.

Folders and characters of file names: `cli.outputs`, `core.file_names`.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sensitivity.core.file_names import file_name
from sensitivity.errors import OutputError, RecipeError

if TYPE_CHECKING:
    from sensitivity.recipes.recipe import Recipe


def choice_words(recipe: "Recipe") -> tuple[str, ...]:
    """The choice that a recipe is, as parts of a file name: ("lpips-0.02", "speedup-1.3"), or
    ("knee",) where there was no bound.
    """
    choice = recipe.choice
    bounds = (
        {}
        if choice is None
        else {
            "lpips": choice.max_lpips,
            "typical": choice.max_typical,
            "flips": choice.max_flips,
            "speedup": choice.min_speedup,
            "seconds": choice.max_seconds,
            **choice.max_judge,
            **choice.min_judge,
        }
    )
    words = [f"{name}-{bound:g}" for name, bound in bounds.items() if bound is not None]
    if choice is not None and choice.max_memory_bytes is not None:
        words.append(f"memory-{choice.max_memory_bytes / 1e9:g}GB")
    return tuple(words) or ("knee",)


def own_path(usual: Path, recipe: "Recipe") -> Path:
    """The first of the recipe's possible paths that holds nothing, or this choice of this study.

    Args:
        usual: the first of them; the others lie beside it.
        recipe: what will be written.

    Raises:
        OutputError: every path holds something else.
    """
    words = choice_words(recipe)
    names = [usual.name, file_name(usual.stem, *words, suffix=".json")]
    if usual.stem.endswith("-".join(words)):
        names.pop()
    names.append(file_name(recipe.search.study, *words, suffix=".json"))
    for name in names:
        path = usual.with_name(name)
        if not path.exists() or _holds(path, recipe):
            return path
    raise OutputError(
        f"{path} holds something other than this choice of the study {recipe.search.study};"
        " expected a path that is free: name one in `out`"
    )


def _holds(path: Path, recipe: "Recipe") -> bool:
    """Whether the file is a recipe of the same study and choice."""
    from sensitivity.recipes.recipe import load_recipe

    try:
        return _identity(load_recipe(path)) == _identity(recipe)
    except RecipeError:
        return False


def _identity(recipe: "Recipe") -> tuple[Any, ...]:
    choice = recipe.choice
    return recipe.search.study, choice and choice.bounds
