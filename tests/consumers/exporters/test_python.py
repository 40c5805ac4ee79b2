"""Exported Python is proved without running it."""

from typing import Any

import pytest

from sensitivity.consumers.exporters.diffusers import DiffusersExporter
from sensitivity.consumers.exporters.torchao import TorchaoExporter
from sensitivity.errors import RecipeError

from support.recipes import FLUX_FQNS, flux_recipe


@pytest.mark.parametrize(
    "exporter",
    [
        TorchaoExporter(form="filter-fn"),
        DiffusersExporter(),
        DiffusersExporter(form="modules-to-not-convert"),
    ],
    ids=repr,
)
def test_exported_python_is_proved_without_running_it(exporter: Any) -> None:
    """Changed names are found by layer, changed code is refused, and neither is run."""
    recipe = flux_recipe("mxfp8")
    text = exporter.export(recipe)
    assert exporter.assign(text.replace("norm1", "norm9"), recipe, FLUX_FQNS) != recipe.layers
    with pytest.raises(RecipeError, match="other code behind them"):
        exporter.assign(text + "\nraise SystemExit(3)\n", recipe, FLUX_FQNS)
    with pytest.raises(RecipeError, match="found Python without"):
        exporter.assign(text.replace("CONFIGS = ", "OTHERS = "), recipe, FLUX_FQNS)
