"""Proposals are functions of seed, index and history, never repeat, go where hypervolume is
expected, and find the front of an additive world.
"""

import ctypes
import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from sensitivity.search.candidates import Candidates, Choice
from sensitivity.search.front import hypervolume
from sensitivity.search.proposers import KnapsackProposer, Observation
from sensitivity.search.proposers.knapsack_proposer import promised_area

from support.additive_world import Damage, world

POWER = 1.5  # of errors, that adds up in these worlds


def lpips_of(choice: Choice, damage: Damage) -> float:
    """The true score: damages add up."""
    return float(sum(damage[g, o] for g, o in enumerate(choice) if o))


def errors_of(damage: Damage) -> Damage:
    """A calibration that ranks perfectly."""
    return {item: value ** (1 / POWER) for item, value in damage.items()}


def saving_of(choice: Choice, candidates: Candidates) -> float:
    """Seconds."""
    return candidates.bf16_s - candidates.latency_s(choice)


def bounds_of(candidates: Candidates) -> list[Choice]:
    """What a search scores first."""
    return list(
        dict.fromkeys(
            (candidates.none_quantized, candidates.all_quantized(), candidates.rule_of_thumb)
        )
    )


def play(
    proposer: KnapsackProposer, damage: Damage, trials: int, history: Sequence[Observation] = ()
) -> list[Observation]:
    """A search in an additive world: the bounds first, then so many proposals; or those after a
    history.
    """
    played = list(history) or [
        Observation(choice=c, typical=lpips_of(c, damage)) for c in bounds_of(proposer.candidates)
    ]
    for _ in range(trials):
        choice = proposer.next_choice(played, {obs.choice for obs in played}, len(played))
        played.append(Observation(choice=choice, typical=lpips_of(choice, damage)))
    return played


def sweep(candidates: Candidates, errors: Damage, trials: int) -> list[Choice]:
    """The choices of these errors alone for evenly spaced savings, and the bounds; trials change
    nothing.
    """
    proposer = KnapsackProposer(candidates, seed=0, errors=errors)
    damage = np.zeros(proposer.gains.shape)
    for item, error in errors.items():
        damage[item] = error**POWER
    savings = proposer.knapsack.most_gain * np.arange(1, trials + 1) / trials
    return [
        *bounds_of(candidates),
        *(tuple(proposer.knapsack.solve(damage, saving).tolist()) for saving in savings),
    ]


def volumes(candidates: Candidates, damage: Damage, *searches: Sequence[Choice]) -> list[float]:
    """Hypervolume of each search by true scores, relative to a fine sweep of the true damages."""
    reference = (candidates.bf16_s, lpips_of(candidates.all_quantized(), damage))
    found = [
        hypervolume(
            [(candidates.latency_s(choice), lpips_of(choice, damage)) for choice in choices],
            reference=reference,
        )
        for choices in (*searches, sweep(candidates, errors_of(damage), 60))
    ]
    return [part / found[-1] for part in found[:-1]]


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_search_is_a_function_of_seed_and_scores(calibrated: bool) -> None:
    """Another proposer of the same seed makes the same proposals; another seed, and other scores,
    make others.
    """
    candidates, damage = world(9, 2, seed=0)
    errors = errors_of(damage) if calibrated else None

    def search(seed: int, scale: float = 1.0) -> list[Choice]:
        scores = {item: value * scale ** (item[0] % 3) for item, value in damage.items()}
        return [
            obs.choice
            for obs in play(KnapsackProposer(candidates, seed=seed, errors=errors), scores, 8)
        ]

    found = search(3)
    assert found == search(3)
    assert found != search(4)
    assert found != search(3, 4.0)


def test_proposals_of_one_history_differ_by_index() -> None:
    """The same trials at different indices, as for parallel workers, give different savings."""
    candidates, damage = world(24, 2, seed=0)
    history = play(KnapsackProposer(candidates, seed=3, errors=errors_of(damage)), damage, 8)
    proposer = KnapsackProposer(candidates, seed=3, errors=errors_of(damage))
    assert (
        len(
            {
                proposer.next_choice(history, {obs.choice for obs in history}, index)
                for index in range(8)
            }
        )
        > 1
    )


def test_pending_choices_count_as_tried_and_are_no_evidence() -> None:
    """A pending choice is not given again and its saving promises less, but what is believed of the
    groups is what the history alone says.
    """
    candidates, damage = world(12, seed=0)
    proposer = KnapsackProposer(candidates, seed=0, errors=errors_of(damage))
    history = play(proposer, damage, 4)
    seen = {obs.choice for obs in history}
    first = proposer.propose(history, seen, 4)
    assert first.state == {}
    assert first.choice == proposer.next_choice(history, seen, 4)
    second = proposer.propose(history, seen | {first.choice}, 4, [first])
    assert second.choice not in seen | {first.choice}
    belief, rng = proposer.believe(history), np.random.default_rng
    saving = saving_of(first.choice, candidates)

    def rank(pending: list[Choice]) -> int:
        wishes = proposer.weighed_savings(belief, belief.damages, history, rng(0), pending)
        return int(np.abs(np.array([wanted for wanted, _ in wishes]) - saving).argmin())

    assert rank([first.choice]) > rank([])


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_search_that_goes_on_is_the_search_that_never_stopped(calibrated: bool) -> None:
    """From every prefix of a history a new proposer goes on as the uninterrupted one did, also
    across refits of the belief.
    """
    candidates, damage = world(9, 2, seed=4)
    errors = errors_of(damage) if calibrated else None
    whole = play(KnapsackProposer(candidates, seed=5, errors=errors), damage, 17)
    for done in range(3, len(whole), 2):
        assert (
            play(KnapsackProposer(candidates, seed=5, errors=errors), damage, 1, whole[:done])[-1]
            == whole[done]
        )
    assert play(KnapsackProposer(candidates, seed=5, errors=errors), damage, 12, whole[:8]) == whole


@pytest.mark.parametrize(("groups", "seed", "calibrated"), [(30, 0, True), (10, 1, False)])
def test_proposals_do_not_repeat(groups: int, seed: int, calibrated: bool) -> None:
    """Every proposal of 24 is new, whether calibrated or not."""
    candidates, damage = world(groups, seed=seed)
    history = play(
        KnapsackProposer(candidates, seed=seed, errors=errors_of(damage) if calibrated else None),
        damage,
        24,
    )
    assert len({obs.choice for obs in history}) == len(history) == 27


@pytest.mark.parametrize("seed", [2, 3])
def test_holes_and_losses_stay_bf16(seed: int) -> None:
    """A group never gets a format that it does not take, nor one that costs it time; whether
    calibrated or not.
    """
    candidates, damage = world(10, 2, seed=seed, holes=True)
    assert any(min(group.gains_s) < 0 for group in candidates.groups)
    for errors in (errors_of(damage), None):
        for obs in play(KnapsackProposer(candidates, seed=seed, errors=errors), damage, 8)[3:]:
            assert candidates.canonical(obs.choice) == obs.choice
            assert all(
                group.gains_s[o] > 0
                for group, o in zip(candidates.groups, obs.choice, strict=True)
                if o
            )


@pytest.mark.parametrize("options", [1, 2])
def test_a_small_world_is_tried_completely(options: int) -> None:
    """Each choice without a loss of time is tried before any is tried twice."""
    candidates, damage = world(5 - options, options, seed=0, holes=True)
    takes = [
        [o for o, gain in enumerate(group.gains_s) if not o or gain > 0]
        for group in candidates.groups
    ]
    every = set(itertools.product(*takes))
    bounds = set(bounds_of(candidates))
    history = play(
        KnapsackProposer(candidates, seed=0, errors=errors_of(damage)),
        damage,
        len(every - bounds) + 2,
    )
    choices = [obs.choice for obs in history]
    assert every <= set(choices[:-2])
    assert len(set(choices[:-2])) == len(choices) - 2
    assert set(choices[-2:]) <= every | bounds


def test_what_was_seen_is_avoided_without_being_history() -> None:
    """A choice that failed, and so has no score, is not proposed again; where all were seen one of
    them comes back.
    """
    candidates, damage = world(2, seed=0)
    proposer = KnapsackProposer(candidates, seed=0, errors=errors_of(damage))
    every = set(itertools.product((0, 1), repeat=2))
    first = proposer.next_choice([], set(), 5)
    assert proposer.next_choice([], {first}, 5) != first
    assert proposer.next_choice([], every, 5) in every


@pytest.mark.parametrize("unit", [1e-6, 1e4])
def test_units_do_not_matter(unit: float) -> None:
    """Microseconds or hours, and another scale of LPIPS, give the proposals that seconds give."""
    candidates, damage = world(12, 2, seed=3)
    groups = tuple(
        dataclasses.replace(g, gains_s=tuple(unit * gain for gain in g.gains_s))
        for g in candidates.groups
    )
    other = dataclasses.replace(candidates, groups=groups, bf16_s=unit * candidates.bf16_s)
    history = play(KnapsackProposer(candidates, seed=0, errors=errors_of(damage)), damage, 10)
    scaled = {item: value * unit for item, value in damage.items()}
    again = play(KnapsackProposer(other, seed=0, errors=errors_of(damage)), scaled, 10)
    assert [obs.choice for obs in again] == [obs.choice for obs in history]


def test_solving_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """The solver's own lines do not reach stdout, which may be JSON; others do."""
    candidates, damage = world(6, seed=0)
    print("before")
    play(KnapsackProposer(candidates, seed=0, errors=errors_of(damage)), damage, 12)
    ctypes.CDLL(None).fflush(None)
    print("after")
    assert capfd.readouterr().out == "before\nafter\n"


def test_features_are_the_items_that_a_choice_takes() -> None:
    """One column a (group, option) that there is, in the order of `items`; options that a group
    does not take have none.
    """
    candidates, _ = world(5, 2, seed=1, holes=True)
    proposer = KnapsackProposer(candidates, seed=0, errors=None)
    choices = [candidates.none_quantized, candidates.all_quantized(), candidates.rule_of_thumb]
    assert proposer.items == [
        (g, o) for g, group in enumerate(candidates.groups) for o in (1, 2) if group.members[o]
    ]
    assert proposer.features(choices).tolist() == [
        [float(choice[g] == o) for g, o in proposer.items] for choice in choices
    ]
    assert proposer.features([]).shape == (0, len(proposer.items))


def test_trials_of_few_prompts_are_believed_less() -> None:
    """A doubled score of a trial that was stopped early moves what is believed of its choice less
    than one of all prompts.
    """
    candidates, damage = world(10, seed=2)
    proposer = KnapsackProposer(candidates, seed=0, errors=errors_of(damage))
    history = play(proposer, damage, 6)
    thumb = candidates.rule_of_thumb

    def believed(share: float) -> float:
        seen = [
            (
                dataclasses.replace(obs, typical=2 * obs.typical, share=share)
                if obs.choice == thumb
                else obs
            )
            for obs in history
        ]
        return float(proposer.believe(seen).typical(proposer.features([thumb]))[0])

    assert believed(0.05) < believed(0.3) < believed(1.0)


def tried_points(
    seed: int,
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], float]:
    """Savings, the LPIPS expected of each, those of 7 trials (some past `worst`), and `worst`."""
    rng = np.random.default_rng(seed)
    savings = np.sort(rng.uniform(0.01, 3, 40))
    expected = np.sort(rng.uniform(0, 1, 40))
    return savings, expected, rng.uniform(0, 1.2, 7), 0.9


def exact_area(
    savings: NDArray[np.float64],
    expected: NDArray[np.float64],
    tried: list[tuple[float, float]],
    worst: float,
) -> list[float]:
    """How much hypervolume grows by each point alone; bf16 takes 10 s."""
    points = [(10 - gain, lpips) for gain, lpips in tried]
    before = hypervolume(points, reference=(10.0, worst))
    new = [(10 - gain, lpips) for gain, lpips in zip(savings, expected, strict=True)]
    return [hypervolume([*points, point], reference=(10.0, worst)) - before for point in new]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("trials", [0, 1, 7])
def test_promised_area_is_the_growth_of_hypervolume(seed: int, trials: int) -> None:
    """Where trials lie on the savings weighed it is exact, to rounding; losses of time and scores
    past the worst add nothing.
    """
    savings, expected, lpips, worst = tried_points(seed)
    gains = np.random.default_rng(seed).choice(savings, 7, replace=False)
    gains[-1] = -0.4
    promised = promised_area(savings, expected, gains[:trials], lpips[:trials], worst=worst)
    exact = exact_area(
        savings, expected, list(zip(gains[:trials], lpips[:trials], strict=True)), worst
    )
    np.testing.assert_allclose(promised, exact, atol=1e-12)
    assert promised.max() > 0


@pytest.mark.parametrize("seed", range(4))
def test_promised_area_between_savings_is_off_by_a_step_at_most(seed: int) -> None:
    """A trial between two savings counts up to the smaller one: never too little is promised, and
    too much by a step for each trial at most.
    """
    savings, expected, lpips, worst = tried_points(seed)
    gains = np.random.default_rng(seed).uniform(0, 3, 7)
    promised = promised_area(savings, expected, gains, lpips, worst=worst)
    exact = np.array(exact_area(savings, expected, list(zip(gains, lpips, strict=True)), worst))
    assert (promised >= exact - 1e-12).all()
    assert (promised <= exact + 7 * worst * np.diff(savings, prepend=0.0).max()).all()


@pytest.mark.parametrize("options", [1, 2])
@pytest.mark.parametrize("calibrated", [True, False])
def test_baselines_savings_are_weighed(options: int, calibrated: bool) -> None:
    """The savings of the rule of thumb, of everything in one format and of the fastest are among
    those weighed; none is more than there is.
    """
    candidates, damage = world(12, options, seed=6)
    proposer = KnapsackProposer(
        candidates, seed=0, errors=errors_of(damage) if calibrated else None
    )
    for history in ([], play(proposer, damage, 5)):
        belief = proposer.believe(history)
        wishes = proposer.weighed_savings(belief, belief.damages, history, np.random.default_rng(0))
        savings = np.array([wanted for wanted, _ in wishes])
        for choice in (
            candidates.rule_of_thumb,
            *(candidates.all_quantized(o) for o in range(1, options + 1)),
        ):
            assert np.abs(savings - saving_of(choice, candidates)).min() < 1e-9
        assert savings.max() == pytest.approx(
            sum(max(group.gains_s) for group in candidates.groups)
        )
        assert savings.min() >= 0
        assert np.histogram(savings, bins=4, range=(0, savings.max()))[0].min() >= 20


def test_the_first_proposal_promises_most() -> None:
    """With the true damages known and nothing tried, no choice of all has a larger hypervolume than
    the first proposal, but for the grid's step.
    """
    candidates, damage = world(9, seed=11)
    proposer = KnapsackProposer(candidates, seed=0, errors=errors_of(damage))
    first = proposer.next_choice([], set(), 0)
    fastest = tuple(int(group.gains_s[1] > 0) for group in candidates.groups)
    reference = (candidates.bf16_s, lpips_of(fastest, damage))

    def area(choice: Choice) -> float:
        return hypervolume(
            [(candidates.latency_s(choice), lpips_of(choice, damage))], reference=reference
        )

    assert area(first) > 0.9 * max(area(choice) for choice in itertools.product((0, 1), repeat=9))


@pytest.mark.parametrize(("options", "calibrated"), [(1, True), (2, False)])
def test_an_additive_world_is_searched_far_better_than_at_random(
    options: int, calibrated: bool
) -> None:
    """With rough calibration (a factor of 2) or none, forty proposals leave less than half of
    random's gap to the best front.
    """
    candidates, damage = world(24, options, seed=11)
    rng = np.random.default_rng(1)
    errors = (
        {item: value * float(rng.lognormal(0, 0.7)) for item, value in errors_of(damage).items()}
        if calibrated
        else None
    )
    found = [
        obs.choice for obs in play(KnapsackProposer(candidates, seed=0, errors=errors), damage, 40)
    ]
    random = [tuple(int(option) for option in rng.integers(0, options + 1, 24)) for _ in range(40)]
    at_random, searched = volumes(candidates, damage, [*bounds_of(candidates), *random], found)
    assert at_random < searched < 1.01
    assert 1 - searched < 0.5 * (1 - at_random)


def test_a_true_calibration_is_followed() -> None:
    """With the true damages known, fifteen proposals come within 5 % of the best front, and sooner
    than without.
    """
    candidates, damage = world(24, seed=11)
    proposers = [
        KnapsackProposer(candidates, seed=0, errors=errors) for errors in (errors_of(damage), None)
    ]
    calibrated, uncalibrated = volumes(
        candidates,
        damage,
        *([obs.choice for obs in play(proposer, damage, 15)] for proposer in proposers),
    )
    assert uncalibrated < calibrated
    assert calibrated > 0.95


@pytest.mark.parametrize(("options", "seed"), [(2, 4)])
def test_a_permuted_calibration_is_recovered_from(options: int, seed: int) -> None:
    """With the errors of other groups, 50 trials leave less than 0.6 of the gap that a sweep of 50
    over those errors leaves.
    """
    candidates, damage = world(24, options, seed=seed)
    errors = errors_of(damage)
    permuted = dict(
        zip(
            errors,
            np.random.default_rng(seed).permutation(list(errors.values())).tolist(),
            strict=True,
        )
    )
    found = [
        obs.choice
        for obs in play(KnapsackProposer(candidates, seed=0, errors=permuted), damage, 47)
    ]
    assert len(found) == 50
    misled, searched = volumes(candidates, damage, sweep(candidates, permuted, 47), found)
    assert misled < 0.85
    assert 1 - searched < 0.6 * (1 - misled)


def test_a_world_without_gain_proposes_what_is_left() -> None:
    """Where every format is slower nothing raises: some choice of the right length comes back."""
    candidates, damage = world(3, seed=0)
    losing = dataclasses.replace(
        candidates,
        groups=tuple(dataclasses.replace(g, gains_s=(0.0, -1.0)) for g in candidates.groups),
    )
    proposer = KnapsackProposer(losing, seed=0, errors=errors_of(damage))
    assert proposer.next_choice([], set(), 0) == (0, 0, 0)
    assert proposer.next_choice(
        [Observation(choice=(1, 1, 1), typical=0.2)], {(0, 0, 0), (1, 1, 1)}, 1
    ) == (0, 0, 0)
