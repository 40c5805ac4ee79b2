"""Choices keep to the number of graphs that torch compiles, at little more damage than without the
limit.
"""

import itertools

import numpy as np
import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.search.block_patterns import BlockPatterns
from sensitivity.search.candidates import Candidates, Group
from sensitivity.search.proposers import KnapsackProposer, Observation


def layers(blocks: int, roles: int, *, seed: int = 0) -> Candidates:
    """One group for each Linear: `blocks` blocks of `roles` roles, and one Linear outside. The last
    block lacks the last role.
    """
    rng = np.random.default_rng(seed)
    fqns = [
        f"blocks.{b}.r{r}"
        for b in range(blocks)
        for r in range(roles)
        if (b, r) != (blocks - 1, roles - 1)
    ] + ["out"]
    groups = tuple(
        Group(
            name=f"blocks.{fqn.split('.')[2]}[{fqn.split('.')[1]}]" if "." in fqn else fqn,
            fqns=(fqn,),
            members=((), (fqn,)),
            gains_s=(0.0, float(rng.lognormal(0, 0.5))),
        )
        for fqn in fqns
    )
    return Candidates(
        formats=(FormatName.BF16, FormatName.NVFP4),
        groups=groups,
        fixed={},
        refused={},
        fqns=tuple(fqns),
        rule_of_thumb=(1,) * len(groups),
        bf16_s=1e3,
    )


def test_patterns_are_counted_by_stack() -> None:
    """Three blocks of two roles, the last without the second role: (1, 1), (1, 0), (1, -) are two
    patterns, since a role that is not there counts as bf16.
    """
    candidates = layers(3, 2)
    patterns = BlockPatterns(candidates, limit=2)
    assert patterns.count((1, 1, 1, 0, 1, 1)) == {"blocks": 2}
    assert patterns.count((1, 1, 0, 1, 0, 0)) == {"blocks": 3}
    assert patterns.fits((1, 1, 1, 0, 1, 1))
    assert not patterns.fits((1, 1, 0, 1, 0, 0))


@pytest.mark.parametrize("share", [0.2, 0.5, 0.8])
@pytest.mark.parametrize("limit", [1, 3, 8])
def test_reduce_keeps_to_the_limit_and_saves_enough(share: float, limit: int) -> None:
    """For any damages and gains the choice is within the limit and saves what was wanted."""
    candidates = layers(24, 5, seed=1)
    rng = np.random.default_rng(2)
    gains = np.array([group.gains_s for group in candidates.groups])
    damage = np.array([[0.0, rng.lognormal(0, 1)] for _ in candidates.groups])
    patterns, wanted = BlockPatterns(candidates, limit=limit), share * gains.sum()
    choice = tuple(
        int(o) for o in patterns.reduce(damage, gains, np.ones(gains.shape, dtype=bool), wanted)
    )
    assert patterns.fits(choice)
    if limit > 1 or share < 0.8:
        assert gains[np.arange(len(gains)), choice].sum() >= wanted * (1 - 1e-9)


def test_reduce_is_near_the_best_of_all() -> None:
    """6 blocks of 2 roles with 2 patterns allowed: at most half more than the least damage that any
    allowed choice has.
    """
    candidates = layers(6, 2, seed=3)
    rng = np.random.default_rng(4)
    gains = np.array([group.gains_s for group in candidates.groups])
    damage = np.array([[0.0, rng.lognormal(0, 1)] for _ in candidates.groups])
    patterns, wanted, rows = (
        BlockPatterns(candidates, limit=2),
        0.5 * gains.sum(),
        np.arange(len(gains)),
    )
    best = min(
        damage[rows, choice].sum()
        for choice in itertools.product((0, 1), repeat=len(gains))
        if gains[rows, choice].sum() >= wanted and patterns.fits(choice)
    )
    found = patterns.reduce(damage, gains, np.ones(gains.shape, dtype=bool), wanted)
    assert damage[rows, found].sum() <= 1.5 * best


def test_a_search_by_layers_proposes_nothing_that_torch_would_not_compile() -> None:
    """20 blocks, limit 4: every proposal keeps to it, and none is repeated."""
    candidates = layers(20, 3, seed=5)
    proposer = KnapsackProposer(candidates, seed=0, errors=None, limit=4)
    history: list[Observation] = [Observation(choice=candidates.all_quantized(), typical=0.1)]
    for index in range(12):
        choice = proposer.next_choice(history, {obs.choice for obs in history}, index)
        assert proposer.patterns.fits(choice)
        assert choice not in {obs.choice for obs in history}
        history.append(Observation(choice=choice, typical=0.01 * sum(choice) ** 0.5))
