"""Names of samplers: which are known, which are taken by their path, and what is refused."""

import optuna
import pytest

from sensitivity.errors import UserError
from sensitivity.search.proposers import SamplerName, stock_sampler
from sensitivity.workflows.requests import SearchRequest


def test_unknown_samplers_say_what_there_is() -> None:
    """No such name, module or class, and a class that is no sampler, are errors of the user."""
    with pytest.raises(UserError, match="expected one of knapsack, tpe"):
        SamplerName("simplex")
    for name in ("no_such_module:X", "optuna.samplers:NoSuchSampler", "optuna.samplers:BruteForce"):
        with pytest.raises(UserError, match="cannot be made"):
            stock_sampler(SamplerName(name), seed=0)
    with pytest.raises(UserError, match="is a Generator; expected a subclass"):
        stock_sampler(SamplerName("numpy.random:default_rng"), seed=0)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("tpee", "expected one of knapsack"),
        ("no_such_module:Sampler", "cannot be made"),
        ("optuna.samplers:NoSuchSampler", "cannot be made"),
        ("json:JSONDecoder", "takes seed="),
    ],
)
def test_a_sampler_that_cannot_be_made_is_refused_before_anything_is_loaded(
    name: str, reason: str
) -> None:
    """A misspelt name, another package's missing class, a class that is no sampler: the user's
    mistake, refused when the request is made.
    """
    with pytest.raises(UserError, match=reason):
        SearchRequest(sampler=SamplerName(name))


def test_a_sampler_of_another_package_is_taken_by_its_path() -> None:
    """`module:Class` is a name that a request takes, and it makes that sampler."""
    SearchRequest(sampler=SamplerName("optuna.samplers:RandomSampler"))
    assert isinstance(
        stock_sampler(SamplerName("optuna.samplers:RandomSampler"), seed=1),
        optuna.samplers.RandomSampler,
    )
