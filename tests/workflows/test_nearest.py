"""The nearest recipe that a consumer can express, and its prices."""

from sensitivity.workflows.nearest import pricer_for

from support.tiny_flux_recipes import SPEC, changed, first_recipe


def test_prices_are_those_of_the_recipes_batch() -> None:
    """A recipe for another batch is priced at that batch."""
    first = first_recipe()
    four = changed(first, {}, latency=first.latency.model_dump() | {"batch_size": 4})
    assert pricer_for(four, SPEC).table.batch_size == 4
