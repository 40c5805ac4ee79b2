"""Find, by measurement, which Linear layers of a diffusion transformer to quantize.

    import sensitivity

    request = sensitivity.SearchRequest(budget=50)
    outcome = sensitivity.find_recipe("tiny-flux", request, progress=True)
    outcome.recipe.save("recipe.json")
    sensitivity.plot_front(outcome)

    recipe = sensitivity.load_recipe("recipe.json")
    report = recipe.apply(pipeline)              # emulate=True where the hardware lacks the format
    with sensitivity.precision_by_step(pipeline, recipe):        # where it has a step policy
        pipeline(prompt)

These names are the promised interface. The rooms behind them, in the order of their imports:
`errors`, `core`, `spec`, `formats`, `models`, `shapes`, `latency`, `fidelity`, `recipes`,
`consumers`, `search`, `workflows`, `cli`. Importing this package loads no torch: what needs it is
imported when it is first used.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sensitivity.cli.render.following import find_recipe
    from sensitivity.cli.render.page.library import (
        plot_front,
        plot_layers,
        plot_pictures,
        report,
    )
    from sensitivity.consumers.exporters import get_exporter
    from sensitivity.core.format_name import FormatName
    from sensitivity.errors import SensitivityError, UserError
    from sensitivity.recipes.applying import ApplyReport
    from sensitivity.recipes.diff import compare_recipes
    from sensitivity.recipes.recipe import Recipe, load_recipe
    from sensitivity.recipes.step_switching import precision_by_step, step_callback
    from sensitivity.shapes.recorder import profile_module
    from sensitivity.shapes.table import ShapeTable
    from sensitivity.spec.loading import resolve_spec
    from sensitivity.spec.study_spec import StudySpec
    from sensitivity.workflows.audit import AuditRequest, audit_list, read_source
    from sensitivity.workflows.conclude import SearchOutcome
    from sensitivity.workflows.nearest import nearest_recipe
    from sensitivity.workflows.own_study import make_study, profile_model
    from sensitivity.workflows.requests import SearchRequest, SelectRequest
    from sensitivity.workflows.select import select_recipe

_HOMES = {
    "ApplyReport": "recipes.applying",
    "AuditRequest": "workflows.audit",
    "FormatName": "core.format_name",
    "Recipe": "recipes.recipe",
    "SearchOutcome": "workflows.conclude",
    "SearchRequest": "workflows.requests",
    "SelectRequest": "workflows.requests",
    "SensitivityError": "errors",
    "ShapeTable": "shapes.table",
    "StudySpec": "spec.study_spec",
    "UserError": "errors",
    "audit_list": "workflows.audit",
    "compare_recipes": "recipes.diff",
    "find_recipe": "cli.render.following",
    "get_exporter": "consumers.exporters",
    "load_recipe": "recipes.recipe",
    "make_study": "workflows.own_study",
    "nearest_recipe": "workflows.nearest",
    "plot_front": "cli.render.page.library",
    "plot_layers": "cli.render.page.library",
    "plot_pictures": "cli.render.page.library",
    "precision_by_step": "recipes.step_switching",
    "profile_model": "workflows.own_study",
    "profile_module": "shapes.recorder",
    "read_source": "workflows.audit",
    "report": "cli.render.page.library",
    "resolve_spec": "spec.loading",
    "select_recipe": "workflows.select",
    "step_callback": "recipes.step_switching",
}

__all__ = [
    "ApplyReport",
    "AuditRequest",
    "FormatName",
    "Recipe",
    "SearchOutcome",
    "SearchRequest",
    "SelectRequest",
    "SensitivityError",
    "ShapeTable",
    "StudySpec",
    "UserError",
    "audit_list",
    "compare_recipes",
    "find_recipe",
    "get_exporter",
    "load_recipe",
    "make_study",
    "nearest_recipe",
    "plot_front",
    "plot_layers",
    "plot_pictures",
    "precision_by_step",
    "profile_model",
    "profile_module",
    "read_source",
    "report",
    "resolve_spec",
    "select_recipe",
    "step_callback",
]

# torch 2.15 logs a notice about how torchao 0.18 registers its enums, whenever torchao is imported
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used."""
    if name not in _HOMES:
        raise AttributeError(
            f"module 'sensitivity' has no attribute {name!r}; public names are {', '.join(__all__)}"
        )
    value = getattr(importlib.import_module(f"sensitivity.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
