"""The ways to find skip-lists that `search_quality.py` compares.

Each is a generator: it yields a choice, is sent its LPIPS, and yields the next.

    arm = ARMS["ours"](world, seed=0)
    choice = next(arm); choice = arm.send(0.031); ...

A generator that ends has nothing more to propose. All begin with what people do by hand
(`study.baselines`), except those that are one list or one sweep themselves.
"""

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import optuna

from sensitivity.search.candidates import Candidates, Choice, baselines
from sensitivity.search.damage import Belief
from sensitivity.search.proposers import KnapsackProposer, Observation, SamplerName, stock_sampler
from sensitivity.search.proposers.knapsack_proposer import as_choice

optuna.logging.set_verbosity(optuna.logging.ERROR)
Arm = Generator[Choice, float, None]
Errors = Mapping[tuple[int, int], float]


@dataclass(frozen=True)
class World:
    """What an arm may know: groups and gains, layer sensitivities by estimator, bytes of each
    (group, option), and the published list's choice.
    """

    candidates: Candidates
    errors: Mapping[str, Errors]
    bytes_saved: Mapping[tuple[int, int], float]
    published: Choice | None
    loaded: Any = field(default=None, compare=False)


def _start(candidates: Candidates) -> list[Choice]:
    return [choice for _, choice in baselines(candidates)]


def _proposed(world: World, proposer: KnapsackProposer) -> Arm:
    """A search with a proposer, as `search.study` runs it."""
    history: list[Observation] = []
    start = _start(world.candidates)
    while True:
        seen = {obs.choice for obs in history}
        choice = (
            start[len(history)]
            if len(history) < len(start)
            else proposer.next_choice(history, seen, len(history) - len(start))
        )
        if choice in seen:
            return
        history.append(Observation(choice=choice, lpips=(yield choice)))


def ours(
    world: World,
    seed: int,
    *,
    estimator: str | None = "gradient",
    kind: type[KnapsackProposer] = KnapsackProposer,
) -> Arm:
    """The shipped search."""
    return _proposed(
        world,
        kind(
            world.candidates,
            seed=seed,
            errors=None if estimator is None else dict(world.errors[estimator]),
        ),
    )


class UniformSavings(KnapsackProposer):
    """Ablation: savings come from a low-discrepancy sequence instead of from what they
    promise.
    """

    def weighed_savings(
        self,
        belief: Belief,  # noqa: ARG002 - the contract
        damage: Any,  # noqa: ARG002
        history: Any,
        rng: np.random.Generator,
    ) -> Any:
        number, value, base = len(history) + 1 + 97 * self.seed, 0.0, 0.5
        while number:
            value, number, base = value + base * (number & 1), number >> 1, base / 2
        jitter = rng.normal(0, 0.02, 4) * np.arange(4)
        return self.knapsack.most_gain * np.clip(value + jitter, 0.01, 1.0)


class NoLearning(KnapsackProposer):
    """Ablation: the calibrated errors are believed to the end (only their scale is fitted)."""

    def believe(self, history: Any) -> Belief:
        return super().believe(history[:0])


class Thompson(KnapsackProposer):
    """Ablation: every proposal samples the posterior."""

    def believe(self, history: Any) -> Belief:
        belief = super().believe(history)
        sample = belief.sample(np.random.default_rng([self.seed, len(history)]))
        return replace(belief, mean=sample)


def sweep(
    world: World,
    seed: int,  # noqa: ARG001 - the contract of an arm
    *,
    estimator: str = "output",
    power: float = 0.5,
) -> Arm:
    """Knapsacks of even savings, damage = calibrated error ** power, coarse to fine; nothing is
    learnt. No baselines first.
    """
    proposer = KnapsackProposer(world.candidates, seed=0, errors=dict(world.errors[estimator]))
    damage = proposer.damage_table(
        np.array([world.errors[estimator][item] for item in proposer.items]) ** power
    )
    seen: set[Choice] = set()
    yield world.candidates.none_quantized
    for parts in (8, 16, 32, 64, 128, 256, 512):
        for part in range(parts, 0, -1):
            choice = as_choice(
                proposer.knapsack.solve(
                    damage, proposer.knapsack.most_gain * part / parts * (1 - 1e-9)
                )
            )
            if choice not in seen:
                seen.add(choice)
                yield choice


def greedy(world: World, seed: int) -> Arm:  # noqa: ARG001
    """Quantize the last format group by group, least error a second saved first; 50 stops on the
    way.
    """
    option, errors = len(world.candidates.formats) - 1, world.errors["output"]
    gains = [group.gains_s[option] for group in world.candidates.groups]
    order = sorted(
        (g for g, gain in enumerate(gains) if gain > 0 and (g, option) in errors),
        key=lambda g: errors[g, option] / gains[g],
    )
    stops = [round(len(order) * i / 49) for i in _spread(49)]
    yield world.candidates.none_quantized
    for stop in dict.fromkeys(stops):
        chosen = set(order[:stop])
        yield tuple(option if g in chosen else 0 for g in range(len(gains)))


def _spread(n: int) -> list[int]:
    """0 to n in an order that halves the gaps."""
    order, step = [n], n
    while step > 1:
        step = (step + 1) // 2
        order += [i for i in range(0, n, step) if i not in order]
        if step == 1:
            break
    return order


def bits_lp(world: World, seed: int) -> Arm:  # noqa: ARG001
    """What ModelOpt's AutoQuantize optimises, in our code: gradient-weighted squared errors against
    bytes of weights, not against seconds.
    """
    candidates = world.candidates
    proposer = KnapsackProposer(candidates, seed=0, errors=dict(world.errors["gradient"]))
    damage = proposer.damage_table(
        np.array([world.errors["gradient"][item] for item in proposer.items]) ** 2
    )
    saved = np.zeros(proposer.gains.shape)
    for (group, option), value in world.bytes_saved.items():
        saved[group, option] = value
    knapsack = type(proposer.knapsack)(saved, proposer.knapsack.useful | (saved > 0))
    yield candidates.none_quantized
    for i in _spread(49):
        yield as_choice(knapsack.solve(damage, knapsack.most_gain * i / 49 * (1 - 1e-9)))


def fixed(choices: Callable[[World], list[Choice]]) -> Callable[[World, int], Arm]:
    """An arm that is one list, and bf16."""

    def arm(world: World, seed: int) -> Arm:  # noqa: ARG001
        listed = (world.candidates.none_quantized, *choices(world))
        for choice in listed:  # noqa: UP028 - a tuple takes no send
            yield choice

    return arm


def stock(name: str) -> Callable[[World, int], Arm]:
    """One of Optuna's samplers: a category a group, the same first trials as ours, repeats not
    counted.
    """

    def arm(world: World, seed: int) -> Arm:
        study = optuna.create_study(
            directions=["minimize"] * 2, sampler=stock_sampler(SamplerName(name), seed=seed)
        )
        candidates, seen = world.candidates, dict[Choice, float]()
        for choice in _start(candidates):
            study.enqueue_trial(
                {
                    group.name: option
                    for group, option in zip(candidates.groups, choice, strict=True)
                }
            )
        repeats = 0
        while repeats < 500:
            trial = study.ask()
            raw = [
                trial.suggest_categorical(group.name, list(range(len(candidates.formats))))
                for group in candidates.groups
            ]
            choice = candidates.canonical(raw)
            repeats = repeats + 1 if choice in seen else 0
            if choice not in seen:
                seen[choice] = yield choice
            study.tell(trial, [candidates.latency_s(choice), seen[choice]])

    return arm


ARMS: dict[str, Callable[[World, int], Arm]] = {
    "ours": ours,
    "ours, output calibration": lambda world, seed: ours(world, seed, estimator="output"),
    "ours, no calibration": lambda world, seed: ours(world, seed, estimator=None),
    "ours, uniform savings": lambda world, seed: ours(world, seed, kind=UniformSavings),
    "ours, nothing learnt": lambda world, seed: ours(world, seed, kind=NoLearning),
    "ours, Thompson": lambda world, seed: ours(world, seed, kind=Thompson),
    "sweep, root of errors": sweep,
    "sweep, errors ** 1.5": lambda world, seed: sweep(world, seed, power=1.5),
    "greedy": greedy,
    "bits LP": bits_lp,
    "rule of thumb": fixed(
        lambda world: [world.candidates.canonical(world.candidates.rule_of_thumb)]
    ),
    "published list": fixed(lambda world: [] if world.published is None else [world.published]),
    "tpe": stock("tpe"),
    "nsga2": stock("nsga2"),
    "gp": stock("gp"),
    "random": stock("random"),
}
SEEDLESS = {
    "sweep, root of errors",
    "sweep, errors ** 1.5",
    "greedy",
    "bits LP",
    "rule of thumb",
    "published list",
}
