"""Recipes without pictures: what they say, which formats they refuse, and whose they are."""

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError, UnknownModelError
from sensitivity.recipes.recipe import Recipe
from sensitivity.recipes.unverified import complete_formats, refusals, study_of

from support.shape_runs import shape_run
from support.tiny_flux_recipes import changed


def test_a_priced_recipe_is_unverified_and_predicted(first: Recipe) -> None:
    """Its notice stands in its caveat, its numbers are predictions, and no device is named."""
    assert first.caveat == "UNVERIFIED: for a test"
    assert (first.latency.source, first.memory.source) == ("predicted", "predicted")
    assert first.memory.quantized_bytes < first.memory.bf16_bytes
    assert (first.search.trials, first.search.sampler) == (0, "none")
    assert "torch" in first.environment
    assert "device" not in first.environment


def test_every_linear_has_a_format() -> None:
    """Linears that are not named stay bf16, and all of the run are there."""
    table = shape_run("tiny-flux").table
    formats = complete_formats({"proj_out": FormatName.BF16}, table)
    assert list(formats) == [*(x.fqn for x in table.linears), *table.uncalled]
    assert set(formats.values()) == {FormatName.BF16}


def test_a_shape_that_a_format_refuses_is_named() -> None:
    """x_embedder has K = 16, and mxfp8 takes multiples of 32."""
    table = shape_run("tiny-flux").table
    formats = dict.fromkeys((x.fqn for x in table.linears), FormatName.BF16)
    assert refusals(formats, table) == {}
    assert set(refusals(formats | {"x_embedder": FormatName.MXFP8}, table)) == {"x_embedder"}
    with pytest.raises(FormatError, match=r"found x_embedder in mxfp8: .*leave it in bf16"):
        complete_formats({"x_embedder": FormatName.MXFP8}, table)


@pytest.mark.parametrize(
    "study",
    [
        "tiny-flux",
        "tiny-flux-nvfp4-b200-0123abcd",
        "tiny-flux-nvfp4+mxfp8-rtx-5090-0123abcd",
    ],
)
def test_the_study_of_a_recipe_is_found_by_name(first: Recipe, study: str) -> None:
    """Its own name, or that of a search of it."""
    search = first.search.model_dump() | {"study": study}
    assert study_of(changed(first, {}, search=search)).name == "tiny-flux"


@pytest.mark.parametrize(
    "study",
    [
        "../../studies/tiny-flux.toml",
        "tiny-flux-larger",
        "tiny-flux-larger-nvfp4-b200-0123abcd",
        "flux1-dev",
        "org/name",
        "",
    ],
)
def test_other_studies_of_a_recipe_are_refused(first: Recipe, study: str) -> None:
    """A path, a longer name, and a study of another model are none of the package's."""
    search = first.search.model_dump() | {"study": study}
    with pytest.raises(
        UnknownModelError, match="expected a study that comes with the package: set `model` to"
    ):
        study_of(changed(first, {}, search=search))
