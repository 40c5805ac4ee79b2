"""Landscapes whose truth is known, and how arms play on them."""

import math
from collections.abc import Generator
from dataclasses import replace
from typing import Any

import numpy as np
import playing
import pytest
from ceiling import items_of
from landscape_kinds import KINDS, Landscape, fitted, make
from landscapes import Judge, over_all, summarise
from scipy.stats import spearmanr
from search_arms import ARMS, CHOSEN, can_play
from table_files import Table

from sensitivity.search.calibration.choosing import DEFAULT, FALLBACK
from sensitivity.search.candidates import Choice, baselines
from sensitivity.search.damage import LIMITS


@pytest.fixture(scope="module")
def plain() -> Landscape:
    """A landscape whose damages add up."""
    return make("additive", 0)


def _some(landscape: Landscape, count: int) -> list[Choice]:
    rng, groups = np.random.default_rng(0), len(landscape.world.candidates.groups)
    return [tuple(map(int, rng.random(groups) < rng.uniform(0.1, 0.9))) for _ in range(count)]


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_kind_answers_and_knows_the_truth(kind: str) -> None:
    """Nothing quantized does nothing; heard twice, a list is heard the same; damage is above 0."""
    landscape = make(kind, 1)
    candidates = landscape.world.candidates
    everything = candidates.all_quantized()
    assert landscape.truth([candidates.none_quantized])[0].tolist() == [0.0, 0.0]
    heard = landscape.hear(everything)
    assert heard == make(kind, 1).hear(everything)
    assert len(heard.per_prompt) == len(heard.latent) == landscape.search
    typical, mean = landscape.truth([everything])[0]
    assert 0 < typical < mean < 1


def test_what_is_heard_agrees_with_the_truth() -> None:
    """With many prompts, typical values that are heard rank lists as their truth does."""
    landscape = make("200 prompts", 0)
    lists = _some(landscape, 60)
    heard = [landscape.hear(choice).typical for choice in lists]
    assert spearmanr(heard, landscape.truth(lists)[:, 0]).statistic > 0.97


def test_kinds_do_what_they_say(plain: Landscape) -> None:
    """Misleading sensitivities, pairs that interact, a prompt that flips, values of exactly 0."""
    truth = np.log(
        [plain.truth([_alone(plain, g)])[0, 0] for g, _ in items_of(plain.world.candidates)]
    )
    for kind, low, high in (("additive", 0.5, 1.0), ("prior misleads", -1.0, -0.3)):
        errors = make(kind, 0).world.errors["gradient"]
        assert low < spearmanr(truth, list(errors.values())).statistic < high
    lists = _some(plain, 20)
    assert not np.allclose(make("interactions", 0).truth(lists), plain.truth(lists), rtol=0.05)
    flips = make("one prompt always flips", 0)
    assert min(flips.hear(choice).per_prompt[0] for choice in lists) > 0.15
    zeros = make("LPIPS of exactly 0", 0)
    heard = [max(zeros.hear(_alone(zeros, group)).per_prompt) for group in range(54)]
    assert 9 < heard.count(0.0) < 40
    assert max(heard) > 0.0003


def _alone(landscape: Landscape, group: int) -> Choice:
    return tuple(int(g == group) for g in range(len(landscape.world.candidates.groups)))


def test_baselines_are_not_trials_of_the_budget(
    plain: Landscape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three trials are three proposals; an arm in `INSIDE` pays for the baselines too."""
    candidates = plain.world.candidates
    by_hand = [choice for _, choice in baselines(candidates)]

    def arm(_world: Any, _seed: int) -> Generator[Choice, Any, None]:
        yield from _sent([*by_hand, *(_alone(plain, g) for g in range(5))])

    monkeypatch.setitem(playing.ARMS, "stub", arm)
    played = playing.play("stub", plain.world, seed=0, trials=3, hear=plain.hear)
    assert played is not None
    assert len(played.choices) == len(by_hand) + 3
    assert played.after(2) == len(by_hand) + 2
    monkeypatch.setattr(playing, "INSIDE", {"stub"})
    inside = playing.play("stub", plain.world, seed=0, trials=3, hear=plain.hear)
    assert inside is not None
    assert inside.choices == by_hand[:3]
    assert playing.play("stub", plain.world, seed=0, trials=3, hear=plain.hear, deadline=0) is None


def _sent(choices: list[Choice]) -> Generator[Choice, Any, None]:
    for choice in choices:  # noqa: UP028 - a list takes no send
        yield choice


def test_the_ceilings_own_lists_reach_the_ceiling(
    plain: Landscape, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its best 10 lists have the hypervolume 1, and no damage above its own."""
    monkeypatch.setattr("landscapes.LISTS", 300)
    monkeypatch.setattr("landscapes.SAVINGS", 20)
    judge = Judge(plain)
    row = judge.judge(list(judge.front.choices), 50)
    assert row["typical, of all"] == pytest.approx(1.0)
    assert row["typical at 1.2"] == pytest.approx(0.0)
    assert judge.judge([], 10)["typical"] == 0.0


def test_summary_has_intervals_over_seeds() -> None:
    """One row an arm, and the mean over landscapes as a landscape of its own."""
    rows = [
        {"landscape": kind, "seed": seed, "arm": "ours", "trials": 10, "rule": "score"}
        | {"typical": value + seed, "mean": 0.5, "seconds": 1.0}
        for kind, value in (("a", 0.0), ("b", 2.0))
        for seed in (0, 1)
    ]
    summary = summarise([*rows, *over_all(rows)])
    assert {row["landscape"]: row["typical"] for row in summary} == {"a": 0.5, "b": 2.5, "all": 1.5}
    assert summary[0]["typical ci95"][0] < 0.5 < summary[0]["typical ci95"][1]


def test_a_fitted_landscape_is_like_the_one_its_table_came_from(plain: Landscape) -> None:
    """From 300 lists of a landscape: the truth of other lists, chance and flips."""
    quiet = replace(plain, search=74)
    lists = [*_some(plain, 300), *(_alone(plain, g) for g in range(54))]
    heard = [quiet.hear(choice) for choice in lists]
    values = np.array([h.per_prompt for h in heard])
    table = Table(
        model="drawn",
        world=plain.world,
        choices=np.array(lists),
        kinds=("random",) * len(lists),
        search=values[:, :10],
        fresh=values[:, 10:],
        latent=np.array([h.latent for h in heard]),
        floor=1e-5,
        machine={},
    )
    found = fitted(table, 0)
    others = _some(plain, 400)[300:]
    truth, fit = plain.truth(others)[:, 0], found.truth(others)[:, 0]
    assert np.abs(np.log(fit / truth)).mean() < 0.15
    assert found.chance == pytest.approx(0.35, abs=0.1)
    assert 0.003 < found.flips.mean() < 0.06


def test_ours_begins_with_the_estimator_that_a_search_chooses(plain: Landscape) -> None:
    """The first one that a world has; an arm whose estimator is missing is not played."""
    assert (str(DEFAULT), str(FALLBACK)) == CHOSEN
    without = {name: errors for name, errors in plain.world.errors.items() if name != "rollout"}
    world = replace(plain.world, errors=without)
    assert ARMS["ours"].estimator_in(plain.world) == "rollout"
    assert ARMS["ours"].estimator_in(world) == "gradient"
    assert can_play("ours", world)
    assert not can_play("ours, output calibration", replace(world, errors={}))
    assert can_play("tpe", replace(world, errors={}))


def test_the_ablation_without_a_link_believes_in_none(plain: Landscape) -> None:
    """Whatever the trials say, damages add up without end."""
    way = ARMS["ours, no link"]
    heard = [(choice, plain.hear(choice)) for choice in _some(plain, 12)]
    proposer = way.proposer(plain.world, 0)
    assert proposer.believe([way.observed(*one) for one in heard]).hypothesis.limit == math.inf
    assert len(LIMITS) > 1
