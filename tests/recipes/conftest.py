"""Two recipes of tiny-flux, and their prices."""

import pytest

from sensitivity.latency.pricer import Pricer
from sensitivity.recipes.recipe import Recipe

from support.tiny_flux_recipes import first_recipe, second_recipe, tiny_pricer


@pytest.fixture
def pricer() -> Pricer:
    """Prices of tiny-flux on the study's GPU."""
    return tiny_pricer()


@pytest.fixture
def first() -> Recipe:
    """Every Linear of a block in nvfp4."""
    return first_recipe()


@pytest.fixture
def second() -> Recipe:
    """The first with some Linears in mxfp8 and some in bf16."""
    return second_recipe()
