"""Does a recipe hold? What `verify` says: a verdict, and the numbers now beside the recipe's.

console.print(verified_screen(recipe, found, bounds))
"""

from collections.abc import Iterator

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.text import Text

from sensitivity.cli.flags import name_flags
from sensitivity.cli.render.judges import judge_lines
from sensitivity.cli.render.tables import FittedTable, number, words
from sensitivity.cli.render.winner import beside_lpips_words, flip_lines
from sensitivity.core.kernels import Kernels, in_words
from sensitivity.core.words import printable
from sensitivity.fidelity.words import bounds_words, lpips_words
from sensitivity.recipes.fidelity_records import Lpips
from sensitivity.recipes.recipe import Recipe
from sensitivity.search.front import Constraints
from sensitivity.workflows.verify import Verification


def verified_screen(recipe: Recipe, found: Verification, bounds: Constraints) -> Lines:
    """The verdict, the numbers, and what breaks a bound.

    Args:
        recipe: the recipe.
        found: its score now.
        bounds: what the caller asked for.
    """
    said = None if recipe.fidelity is None else recipe.fidelity.lpips
    broken = list(broken_lines(found, bounds))
    name, holds = printable(recipe.name), said is None or is_inside(said, found)
    parts: list[RenderableType] = [
        *(Text(f"{name}: {line}", style="bold red") for line in broken),
        Text(f"{name} {_verdict(recipe, said, found)}", style=_style(holds, is_first=not broken)),
    ]
    if bounds.words and not broken:
        parts.append(Text(f"it keeps to {' and '.join(bounds.words)}"))
    parts += ["", _numbers(recipe, found, said)]
    lines = [
        *flip_lines(found.said, () if said is None else said.prompts),
        *judge_lines(found.score),
    ]
    if beside := beside_lpips_words(found.score).removeprefix(", "):
        lines.append(beside)
    if said is None and recipe.caveat:
        lines.append(recipe.caveat)
    return Lines(*parts, *(Text(line) for line in lines))


def is_inside(said: Lpips, found: Verification) -> bool:
    """Whether the score lies in the recipe's interval: of the typical LPIPS, in older recipes of
    the mean.
    """
    if said.typical_ci95 is None:
        return said.ci95[0] <= found.score.mean <= said.ci95[1]
    return said.typical_ci95[0] <= found.said.typical <= said.typical_ci95[1]


def broken_lines(found: Verification, bounds: Constraints) -> Iterator[str]:
    """A line for each bound that the score breaks."""
    for field, value in found.broken.items():
        shown = f"{value:g}" if field == "max_flips" else lpips_words(value)
        bound = f"{getattr(bounds, field):g}"
        yield name_flags(f"it breaks `{field}`: found {shown}, expected at most {bound}")
    for judge in found.displeased:
        yield f"it breaks the bound of the judge {judge}"


def _style(holds: bool, *, is_first: bool) -> str:
    """Green only where nothing is wrong."""
    if not holds:
        return "bold red"
    return "bold green" if is_first else ""


def _verdict(recipe: Recipe, said: Lpips | None, found: Verification) -> str:
    """Whether the pictures are what the recipe says, as the end of a sentence."""
    if said is None:
        why = f" ({recipe.caveat})" if recipe.caveat else ""
        return f"states no LPIPS to compare with{why}"
    if tuple(said.per_prompt) == found.score.per_prompt:
        return "holds: every prompt has the LPIPS that the recipe states"
    if is_inside(said, found):
        return "holds: its pictures are inside the interval that it states"
    return "does NOT hold: its pictures are OUTSIDE the interval that it states"


def _numbers(recipe: Recipe, found: Verification, said: Lpips | None) -> FittedTable:
    """A row for the pictures now, and one for what the recipe says."""
    table = FittedTable(
        words("", least=16),
        number("typical LPIPS"),
        number("[95 %]", drop=2, called="intervals of typical"),
        number("mean"),
        number("[95 %]", drop=1, called="intervals of mean"),
        number("flips"),
        words("drawn", drop=3, least=16),
        title=f"on {found.said.prompts} unseen prompts",
    )
    now = found.said
    table.add_row(
        "now",
        lpips_words(now.typical),
        bounds_words(now.typical_ci95),
        lpips_words(now.mean),
        bounds_words(now.mean_ci95),
        f"{len(now.flips)}/{now.prompts}",
        in_words(found.execution.kernels),
    )
    if said is not None and recipe.fidelity is not None:
        table.add_row(
            "the recipe says",
            "" if said.typical is None else lpips_words(said.typical),
            bounds_words(said.typical_ci95),
            lpips_words(said.stated_mean),
            bounds_words(said.ci95),
            "" if said.flips is None else f"{said.flips.count}/{len(said.per_prompt)}",
            in_words(Kernels(recipe.fidelity.kernels)),
        )
    return table
