"""Peak memory of choices: exact sums that agree with the estimate of a whole run."""

import random
import re
from dataclasses import replace
from functools import cache

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import EdgeMode, StepPolicy
from sensitivity.errors import ConstraintError, UserError
from sensitivity.formats.registry import get_format
from sensitivity.latency import PredictedLatency, get_device
from sensitivity.latency.memory import estimate_memory
from sensitivity.search.candidates import Candidates
from sensitivity.search.grouping import make_candidates
from sensitivity.search.memory_bound import check_memory_fits, choice_memory
from sensitivity.shapes.table import ShapeTable

from support.shape_runs import shape_run
from support.tiny_flux_recipes import SPEC

FORMATS = (FormatName.NVFP4, FormatName.MXFP8)
POLICIES = (
    StepPolicy(),
    StepPolicy(first_steps=1, mode=EdgeMode.BF16),
    StepPolicy(last_steps=1, mode=EdgeMode.A16),
)


@cache
def priced() -> tuple[ShapeTable, Candidates]:
    """The Linears of tiny-flux, and what a search with three step policies chooses from."""
    table = shape_run("tiny-flux").table
    found = make_candidates(
        table,
        SPEC.model_copy(update={"pricing": SPEC.pricing.model_copy(update={"stands_for": 1})}),
        formats=FORMATS,
        latency=PredictedLatency(get_device("b200")),
        policies=POLICIES,
        steps=4,
    )
    return table, replace(found, memory=choice_memory(table, found))


def test_the_peak_of_a_choice_is_that_of_its_run() -> None:
    """For random choices and every policy the sum over groups is what the estimate of the whole run
    says; with nothing quantized it is bf16's, whatever the policy.
    """
    table, candidates = priced()
    rng = random.Random(0)
    places = range(len(POLICIES))
    choices = [
        candidates.with_policy([rng.randint(0, 2) for _ in candidates.groups], place)
        for place in places
    ]
    for choice in (*choices, candidates.none_quantized, candidates.all_quantized()):
        estimate = estimate_memory(
            table,
            candidates.decode(choice),
            lambda name, k, n: get_format(name).weight_bytes(k=k, n=n),
        )
        assert candidates.memory_bytes(choice) == estimate.quantized_peak_bytes
    assert len({candidates.memory_bytes(choice) for choice in choices}) == len(choices)


def test_the_least_peak_is_that_of_no_smaller_choice() -> None:
    """Every group in its smallest format; where bf16 copies stay beside, nothing quantized is
    smaller still.
    """
    _, candidates = priced()
    memory = candidates.memory
    assert memory is not None
    smallest = tuple(max(range(3), key=saved.__getitem__) for saved in memory.saved_bytes)
    assert memory.least_bytes() == memory.peak_bytes(smallest) < memory.bf16_peak_bytes
    assert memory.least_bytes(keeps_copies=True) == memory.bf16_peak_bytes
    assert memory.peak_bytes(smallest, keeps_copies=True) > memory.bf16_peak_bytes


def test_a_bound_that_nothing_keeps_to_is_refused_with_numbers() -> None:
    """The bound may be as small as the least peak; a byte less is refused. Where every policy keeps
    bf16 weights, the least peak is bf16's, and that is said.
    """
    _, candidates = priced()
    assert candidates.memory is not None
    least = candidates.memory.least_bytes()
    check_memory_fits(candidates, least, model="toy")
    with pytest.raises(ConstraintError, match=r"of toy fits: the least peak .* bf16 alone takes"):
        check_memory_fits(candidates, least - 1, model="toy")
    edges = replace(candidates, policies=POLICIES[1:2])
    with pytest.raises(ConstraintError, match=r"stay beside .*`edge_steps` a16, which needs"):
        check_memory_fits(edges, candidates.memory.bf16_peak_bytes - 1, model="toy")


def test_a_run_that_was_not_counted_has_no_memory() -> None:
    """Nothing is guessed, and a bound on it is refused with what to do."""
    table, candidates = priced()
    uncounted = replace(table, run=None)
    assert choice_memory(uncounted, candidates) is None
    unknown = replace(candidates, memory=None)
    assert unknown.memory_bytes(unknown.none_quantized) is None
    for found in (unknown, None):
        with pytest.raises(UserError, match=re.escape("leave it out, and time the winner's run")):
            check_memory_fits(found, 10**9, model="toy")
