"""Proposals are functions of seed, index and history, never repeat, answer the knapsack exactly, and find the front of an additive world."""

import ctypes
import dataclasses
import itertools

import numpy as np
import optuna
import pytest

from sensitivity.candidates import Candidates, Choice, Group
from sensitivity.search.front import hypervolume
from sensitivity.search.sampler import KnapsackProposer, Observation, Proposer, SamplerName, make_proposer
from sensitivity.spec import FormatName


def world(groups: int, options: int = 1, *, seed: int, holes: bool = False) -> tuple[Candidates, dict[tuple[int, int], float]]:
    """Candidates with random gains (some below 0; with `holes` some options missing) and the true damage of each (group, option)."""
    rng = np.random.default_rng(seed)
    made, damage = [], {}
    for g in range(groups):
        gains = (0.0, *(rng.lognormal(0, 1, options) - 0.2))
        taken = [True, *(not holes or rng.random() < 0.7 for _ in range(options))]
        members = ((), *((f"blocks.{g}.x",) if ok else () for ok in taken[1:]))
        made.append(
            Group(
                name=f"x[{g}]", fqns=(f"blocks.{g}.x",), members=members, gains_s=tuple(g * ok for g, ok in zip(gains, taken, strict=True))
            )
        )
        damage |= {(g, o): float(rng.lognormal(-4, 1.2)) for o in range(1, options + 1) if members[o]}
    formats = (FormatName.BF16, FormatName.MXFP8, FormatName.NVFP4)[: options + 1]
    candidates = Candidates(
        formats=formats, groups=tuple(made), fixed={}, refused={}, fqns=tuple(f"blocks.{g}.x" for g in range(groups)),
        rule_of_thumb=tuple(int(g % 2 == 0) * bool(made[g].members[1]) for g in range(groups)), bf16_s=100.0,
    )  # fmt: skip
    return candidates, damage


def damage_of(choice: Choice, damage: dict[tuple[int, int], float]) -> float:
    """What adds up over groups: the square of LPIPS."""
    return sum(damage[g, o] for g, o in enumerate(choice) if o)


def lpips_of(choice: Choice, damage: dict[tuple[int, int], float]) -> float:
    return damage_of(choice, damage) ** 0.5


def errors_of(damage: dict[tuple[int, int], float]) -> dict[tuple[int, int], float]:
    """A perfect calibration: each group's own LPIPS."""
    return {item: value**0.5 for item, value in damage.items()}


@pytest.fixture
def trial() -> optuna.Trial:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(directions=["minimize", "minimize"]).ask()


def play(proposer: KnapsackProposer, damage: dict[tuple[int, int], float], trial: optuna.Trial, trials: int) -> list[Observation]:
    """A search in an additive world: the bounds first, then proposals."""
    history = [
        Observation(choice=c, lpips=lpips_of(c, damage)) for c in (proposer.candidates.none_quantized, proposer.candidates.all_quantized())
    ]
    for index in range(trials):
        choice = proposer.propose(trial, history, {obs.choice for obs in history}, index)
        history.append(Observation(choice=choice, lpips=lpips_of(choice, damage)))
    return history


@pytest.mark.parametrize("calibrated", [True, False])
def test_a_proposal_is_a_function_of_seed_index_and_history(trial: optuna.Trial, calibrated: bool) -> None:
    """Another proposer of the same seed gives the same choice; without calibration, seed and index each change some choice."""
    candidates, damage = world(12, 2, seed=0)
    errors = errors_of(damage) if calibrated else None
    history = play(KnapsackProposer(candidates, seed=3, errors=errors), damage, trial, 6)

    def choices(seed: int, kept: list[Observation]) -> list[Choice]:
        proposer = KnapsackProposer(candidates, seed=seed, errors=errors)
        return [proposer.propose(trial, kept, {obs.choice for obs in kept}, index) for index in range(8)]

    found = choices(3, history)
    assert found == choices(3, history)
    assert len(set(found)) > 1
    if not calibrated:
        assert found != choices(4, history)
        assert found != choices(3, history[:4])


@pytest.mark.parametrize(("groups", "seed", "calibrated"), [(30, 0, True), (30, 0, False), (12, 1, True), (8, 0, False)])
def test_sixty_proposals_do_not_repeat(trial: optuna.Trial, groups: int, seed: int, calibrated: bool) -> None:
    """Every proposal of sixty is new and fits the candidates, also where eight groups leave few."""
    candidates, damage = world(groups, seed=seed)
    history = play(KnapsackProposer(candidates, seed=seed, errors=errors_of(damage) if calibrated else None), damage, trial, 60)
    choices = [obs.choice for obs in history]
    assert len(set(choices)) == len(choices) == 62
    assert all(candidates.canonical(choice) == choice for choice in choices)


def test_a_small_world_is_seen_whole(trial: optuna.Trial) -> None:
    """Proposals go on until each choice without a loss has been seen, and then repeat one at once."""
    candidates, damage = world(5, seed=0)
    winning = [group.gains_s[1] > 0 for group in candidates.groups]
    history = play(KnapsackProposer(candidates, seed=0, errors=errors_of(damage)), damage, trial, 2 ** sum(winning) + 3)
    proposed = {obs.choice for obs in history}
    assert {c for c in itertools.product((0, 1), repeat=5) if all(w or not o for w, o in zip(winning, c, strict=True))} <= proposed


def test_what_was_seen_is_avoided_without_being_history(trial: optuna.Trial) -> None:
    """A choice that failed, and so has no score, is not proposed again; where all were seen one of them comes back."""
    candidates, damage = world(2, seed=0)
    proposer = KnapsackProposer(candidates, seed=0, errors=errors_of(damage))
    every = set(itertools.product((0, 1), repeat=2))
    first = proposer.propose(trial, [], set(), 5)
    assert proposer.propose(trial, [], {first}, 5) != first
    assert proposer.propose(trial, [], every, 5) in every


@pytest.mark.parametrize("seed", range(12))
def test_solve_is_brute_force(seed: int) -> None:
    """Of all choices that save enough, the one of least damage; two formats, missing options and losses included."""
    candidates, _ = world(6, 2, seed=seed, holes=True)
    proposer = KnapsackProposer(candidates, seed=0, errors=None)
    rng = np.random.default_rng(seed)
    damage = rng.lognormal(0, 1, len(proposer.items))
    lookup = dict(zip(proposer.items, damage, strict=True))
    every = [c for c in itertools.product(range(3), repeat=6) if candidates.canonical(c) == c]
    gains = {c: sum(g.gains_s[o] for g, o in zip(candidates.groups, c, strict=True)) for c in every}
    for share in (0.1, 0.4, 0.7, 0.95, 0.999):
        wanted = share * max(gains.values())
        best = min(damage_of(c, lookup) for c in every if gains[c] >= wanted)
        found = proposer.solve(damage, wanted)
        assert found in every
        assert gains[found] >= wanted * (1 - 1e-6)
        assert damage_of(found, lookup) == pytest.approx(best, rel=2e-4)


@pytest.mark.parametrize("unit", [1e-9, 1e6])
def test_solve_does_not_depend_on_units(unit: float) -> None:
    """Gains of nanoseconds or of weeks give the choices that gains of seconds give."""
    candidates, damage = world(12, 2, seed=3)
    groups = tuple(dataclasses.replace(g, gains_s=tuple(unit * gain for gain in g.gains_s)) for g in candidates.groups)
    seconds = KnapsackProposer(candidates, seed=0, errors=errors_of(damage))
    others = KnapsackProposer(dataclasses.replace(candidates, groups=groups), seed=0, errors=errors_of(damage))
    most = sum(max(g.gains_s) for g in candidates.groups)
    for share in (0.2, 0.5, 0.8):
        assert others.solve(seconds.weights, share * most * unit) == seconds.solve(seconds.weights, share * most)


def test_solving_prints_nothing(trial: optuna.Trial, capfd: pytest.CaptureFixture[str]) -> None:
    """Stdout may be somebody's JSON: the solver's own lines do not reach it, and what is printed around it does."""
    candidates, damage = world(6, seed=0)
    print("before")
    play(KnapsackProposer(candidates, seed=0, errors=errors_of(damage)), damage, trial, 30)
    ctypes.CDLL(None).fflush(None)
    print("after")
    assert capfd.readouterr().out == "before\nafter\n"


def test_solve_gives_the_most_where_none_saves_enough() -> None:
    """A saving that no choice has is answered by the largest there is; groups that only lose stay bf16."""
    candidates, _ = world(6, 2, seed=1)
    proposer = KnapsackProposer(candidates, seed=0, errors=None)
    found = proposer.solve(np.ones(len(proposer.items)), 1e9)
    assert candidates.latency_s(found) == min(candidates.latency_s(c) for c in itertools.product(range(3), repeat=6))
    assert all(group.gains_s[o] > 0 for group, o in zip(candidates.groups, found, strict=True) if o)


def test_first_proposals_answer_the_baselines(trial: optuna.Trial) -> None:
    """With the true damages known, the first proposals save what each baseline saves, at no more damage."""
    candidates, damage = world(24, seed=11)
    assert any(min(group.gains_s) < 0 for group in candidates.groups)
    proposer = KnapsackProposer(candidates, seed=0, errors=errors_of(damage))
    baselines = sorted((candidates.rule_of_thumb, candidates.all_quantized()), key=candidates.latency_s, reverse=True)
    for index, baseline in enumerate(baselines):
        choice = proposer.propose(trial, [], set(), index)
        assert candidates.latency_s(choice) <= candidates.latency_s(baseline) + 1e-6
        assert damage_of(choice, damage) <= damage_of(baseline, damage)


def test_savings_asked_for_run_through_the_front() -> None:
    """Twenty indices ask for savings in each quarter of the possible range, never for more than there is."""
    candidates, damage = world(10, seed=2)
    proposer = KnapsackProposer(candidates, seed=0, errors=errors_of(damage))
    most = sum(max(0.0, *group.gains_s) for group in candidates.groups)
    asked = [proposer.wanted_gain(i, attempt, np.random.default_rng(i)) / most for i in range(2, 22) for attempt in (0, 3)]
    assert all(0 < share <= 1 for share in asked)
    assert np.histogram(asked[::2], bins=4, range=(0, 1))[0].min() >= 3


def test_posterior_moves_to_an_additive_truth() -> None:
    """From equal shares, random trials of an additive world teach the true damage of each group, and its uncertainty shrinks."""
    candidates, damage = world(10, seed=5)
    proposer = KnapsackProposer(candidates, seed=0, errors=None)
    truth = np.array([damage[item] for item in proposer.items])
    rng = np.random.default_rng(0)
    trials = [candidates.all_quantized()] + [tuple(int(bit) for bit in rng.integers(0, 2, 10)) for _ in range(80)]
    history = [Observation(choice=c, lpips=lpips_of(c, damage)) for c in trials]
    misses, spreads = [], []
    for count in (1, 10, 81):
        mean, root = proposer.posterior(history[:count])
        misses.append(float(np.abs(mean - truth).mean() / truth.mean()))
        spreads.append(float(np.sqrt(np.diag(root @ root.T)).mean()))
    assert misses[0] > misses[1] > misses[2]
    assert misses[2] < 0.15
    assert spreads[0] > spreads[1] > spreads[2]
    mean, root = proposer.posterior(history)
    assert (np.abs(mean - truth) < 4 * np.sqrt(np.diag(root @ root.T))).all()


def test_prior_explains_what_was_seen_of_all_quantized() -> None:
    """Before any trial damages are shares of the squared errors; one trial of everything scales them to its squared LPIPS."""
    candidates, damage = world(6, seed=5)
    errors = {item: 7 * value for item, value in errors_of(damage).items()}
    proposer = KnapsackProposer(candidates, seed=0, errors=errors)
    shares = np.array([damage[item] for item in proposer.items]) / sum(damage.values())
    np.testing.assert_allclose(proposer.posterior([])[0], shares)
    seen = [Observation(choice=candidates.all_quantized(), lpips=0.25), Observation(choice=candidates.none_quantized, lpips=0.0)]
    np.testing.assert_allclose(proposer.posterior(seen)[0], 0.25**2 * shares, rtol=1e-6)


@pytest.mark.parametrize("calibrated", [True, False])
def test_an_additive_world_is_searched_far_better_than_at_random(trial: optuna.Trial, calibrated: bool) -> None:
    """With rough calibration (a factor of 2) or none, forty proposals leave less than half of random's gap to the best front."""
    candidates, damage = world(24, seed=11)
    rng = np.random.default_rng(1)
    errors = {item: value * float(rng.lognormal(0, 0.7)) for item, value in errors_of(damage).items()} if calibrated else None
    history = play(KnapsackProposer(candidates, seed=0, errors=errors), damage, trial, 40)
    random = history[:2] + [
        Observation(choice=c, lpips=lpips_of(c, damage)) for c in (tuple(int(bit) for bit in rng.integers(0, 2, 24)) for _ in range(40))
    ]
    perfect = KnapsackProposer(candidates, seed=0, errors=errors_of(damage))
    weights = np.array([damage[item] for item in perfect.items])
    most = sum(max(0.0, *group.gains_s) for group in candidates.groups)
    best = history[:2] + [
        Observation(choice=c, lpips=lpips_of(c, damage)) for c in (perfect.solve(weights, most * i / 200) for i in range(200))
    ]

    def volume(trials: list[Observation]) -> float:
        reference = (candidates.bf16_s, lpips_of(candidates.all_quantized(), damage))
        return hypervolume([(candidates.latency_s(obs.choice), obs.lpips) for obs in trials], reference=reference)

    assert volume(random) < volume(history) <= volume(best)
    assert volume(best) - volume(history) < 0.5 * (volume(best) - volume(random))


def test_a_world_without_gain_proposes_what_is_left(trial: optuna.Trial) -> None:
    """Where every format is slower nothing raises: some choice of the right length comes back."""
    candidates, damage = world(3, seed=0)
    losing = dataclasses.replace(candidates, groups=tuple(dataclasses.replace(g, gains_s=(0.0, -1.0)) for g in candidates.groups))
    assert KnapsackProposer(losing, seed=0, errors=errors_of(damage)).propose(trial, [], set(), 0) == (0, 0, 0)


@pytest.mark.parametrize("name", [SamplerName.TPE, SamplerName.NSGA2, SamplerName.RANDOM])
def test_optunas_samplers_propose_the_same_from_the_same_history(name: SamplerName) -> None:
    """A study that is played again from nothing gives the same choices; another seed gives others."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    candidates, damage = world(10, 2, seed=0)

    def choices(seed: int) -> list[Choice]:
        study = optuna.create_study(directions=["minimize", "minimize"])
        found = []
        for index in range(14):
            proposer: Proposer = make_proposer(name, candidates, seed=seed, errors=None)  # a new one each time, as after an interruption
            proposer.prepare(study, index)
            trial = study.ask()
            choice = proposer.propose(trial, [], set(), index)
            study.tell(trial, [candidates.latency_s(choice), damage_of(choice, damage)])
            found.append(choice)
        return found

    first = choices(0)
    assert first == choices(0)
    assert first != choices(1)
    assert all(len(c) == 10 and set(c) <= {0, 1, 2} for c in first)


def test_names_give_their_proposers() -> None:
    """The default name is the knapsack; errors reach it."""
    candidates, damage = world(3, seed=0)
    proposer = make_proposer(SamplerName.KNAPSACK, candidates, seed=0, errors=errors_of(damage))
    assert isinstance(proposer, KnapsackProposer)
    assert proposer.calibrated
