"""How does one get the same result? Settings and versions.

    reproduction_of(recipe, kept).search["seed"]       # "0"

What a command line makes of the settings is `cli.render.page.commands`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from sensitivity.core.words import printable
from sensitivity.recipes.recipe import Recipe
from sensitivity.search.finished import KeptStudy
from sensitivity.search.settings import SearchSettings
from sensitivity.workflows.report.records import Reproduction


def reproduction_of(recipe: Recipe | None, kept: KeptStudy | None) -> Reproduction:
    """How to get the same result, as far as it is known.

    Args:
        recipe: has the settings of its pictures and its environment.
        kept: has the settings of the search.
    """
    environment = {} if recipe is None else recipe.environment
    return Reproduction(
        search=_of_search(recipe, kept),
        pictures={} if recipe is None else _of_pictures(recipe),
        environment={str(key): printable(str(value)) for key, value in environment.items()},
    )


def _of_search(recipe: Recipe | None, kept: KeptStudy | None) -> dict[str, str]:
    """{field of a search: value}."""
    if kept is not None and kept.settings is not None:
        own = kept.settings
        return {
            "study": kept.name,
            "formats": ",".join(own.formats),
            "target": own.target,
            "latency": own.latency,
            "runtime": own.runtime,
            "budget": str(own.budget),
            "sampler": own.sampler.value,
            "seed": str(own.seed),
            "granularity": own.granularity,
            "calibrated": str(own.calibrated).lower(),
            "arithmetic": own.arithmetic.value,
            "emulate": str(bool(own.emulate)).lower(),
            **({"objective": own.objective} if own.objective else {}),
            **_consumers(own.consumers),
            **_steps(own),
        }
    if recipe is None:
        return {}
    own_search = recipe.search
    formats = sorted({name.value for name in recipe.layers.values() if name.is_quantized})
    found = {
        "study": own_search.study,
        "formats": ",".join(formats),
        "target": recipe.latency.target,
        "budget": str(own_search.budget),
        "sampler": own_search.sampler,
        **_consumers(own_search.consumers),
    }
    return found | ({} if own_search.seed is None else {"seed": str(own_search.seed)})


def _consumers(names: Sequence[str]) -> dict[str, str]:
    """The tools that it kept to, where there are any."""
    return {"consumers": ",".join(names)} if names else {}


def _steps(own: SearchSettings) -> dict[str, str]:
    """Which step policies were searched, where any were."""
    counts = {"first_steps": own.first_steps, "last_steps": own.last_steps}
    found = {name: ",".join(map(str, each)) for name, each in counts.items() if each is not None}
    return {} if own.edge_steps is None else {"edge_steps": own.edge_steps.value, **found}


def _of_pictures(recipe: Recipe) -> dict[str, str]:
    """How the pictures were drawn."""
    found: dict[str, str] = {"model": recipe.model.id}
    if recipe.model.revision:
        found["revision"] = recipe.model.revision
    fidelity: Any = recipe.fidelity
    if fidelity is None:
        return found
    pictures = getattr(fidelity, "pictures", None)
    if isinstance(pictures, Mapping):
        for key, value in (pictures.get("settings") or {}).items():
            found[str(key)] = str(value)
        for key in ("batch_size", "arithmetic"):
            if key in pictures:
                found[f"pictures: {key}"] = str(pictures[key])
    found["unseen prompts"] = str(len(fidelity.lpips.prompts))
    return found
