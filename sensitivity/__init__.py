"""Find, by measurement, which Linear layers of a diffusion transformer to quantize and which to leave in bf16.

    import sensitivity

    outcome = sensitivity.find_recipe(sensitivity.resolve_spec("tiny-flux"), sensitivity.SearchRequest(budget=50))
    outcome.recipe.save("recipe.json")

    report = sensitivity.load_recipe("recipe.json").apply(pipeline)        # emulate=True where the hardware lacks the format

Importing this package loads no torch: what needs it is imported when it is first used.
"""

import importlib
import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sensitivity.audit import AuditRequest, audit_list, read_source
    from sensitivity.diff import compare_recipes
    from sensitivity.errors import SensitivityError, UserError
    from sensitivity.exporters import get_exporter
    from sensitivity.nearest import nearest_recipe
    from sensitivity.profiler import profile_module
    from sensitivity.recipe import ApplyReport, Recipe, load_recipe
    from sensitivity.shape_table import ShapeTable
    from sensitivity.spec import FormatName, StudySpec, resolve_spec
    from sensitivity.workflow import SearchOutcome, SearchRequest, find_recipe

_HOMES = {
    "ApplyReport": "recipe",
    "AuditRequest": "audit",
    "FormatName": "spec",
    "Recipe": "recipe",
    "SearchOutcome": "workflow",
    "SearchRequest": "workflow",
    "SensitivityError": "errors",
    "ShapeTable": "shape_table",
    "StudySpec": "spec",
    "UserError": "errors",
    "audit_list": "audit",
    "compare_recipes": "diff",
    "find_recipe": "workflow",
    "get_exporter": "exporters",
    "load_recipe": "recipe",
    "nearest_recipe": "nearest",
    "profile_module": "profiler",
    "read_source": "audit",
    "resolve_spec": "spec",
}

__all__ = [
    "ApplyReport",
    "AuditRequest",
    "FormatName",
    "Recipe",
    "SearchOutcome",
    "SearchRequest",
    "SensitivityError",
    "ShapeTable",
    "StudySpec",
    "UserError",
    "audit_list",
    "compare_recipes",
    "find_recipe",
    "get_exporter",
    "load_recipe",
    "nearest_recipe",
    "profile_module",
    "read_source",
    "resolve_spec",
]

# torch 2.15 logs a notice about how torchao 0.18 registers its enums, each time torchao is imported
logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)


def __getattr__(name: str) -> Any:
    """Import a public name from its module when it is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module 'sensitivity' has no attribute {name!r}; public names are {', '.join(__all__)}")
    value = getattr(importlib.import_module(f"sensitivity.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
