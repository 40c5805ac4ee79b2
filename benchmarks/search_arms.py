"""The ways to find skip-lists that `search_quality.py` and `landscapes.py` compare.

Each is a generator: it yields a choice, is sent what was heard of it, and yields the next.

    arm = ARMS["ours"](world, seed=0)
    choice = next(arm); choice = arm.send(Heard(per_prompt=(0.031, 0.012))); ...

Those in `PARALLEL` may be sent None instead, where nothing is heard yet and another list is wanted;
what is heard later is of the lists in their order.

A generator that ends has nothing more to propose. All begin with what people do by hand
(`search.candidates.baselines`), except those that are one list or one sweep themselves.
"""

import itertools
import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import optuna

from sensitivity.fidelity.typical import log_damages, typical
from sensitivity.search import damage as damage_model
from sensitivity.search.candidates import Candidates, Choice, baselines
from sensitivity.search.damage import Belief
from sensitivity.search.estimate import estimate_all
from sensitivity.search.proposers import KnapsackProposer, Observation, SamplerName, stock_sampler
from sensitivity.search.proposers.knapsack_proposer import as_choice

optuna.logging.set_verbosity(optuna.logging.ERROR)
CHOSEN = ("rollout", "gradient")
"""Estimators that a search begins with, the second where the first does not work."""
Errors = Mapping[tuple[int, int], float]


@dataclass(frozen=True, slots=True)
class Heard:
    """What an arm is told of one choice.

    Attributes:
        per_prompt: LPIPS of each search prompt.
        latent: relative error of the final latents of each search prompt; () where unknown.
        floor: LPIPS of bf16 from itself.
    """

    per_prompt: tuple[float, ...]
    latent: tuple[float, ...] = ()
    floor: float = 0.0

    @property
    def mean(self) -> float:
        """Arithmetic mean over the prompts."""
        return float(np.mean(self.per_prompt))

    @property
    def typical(self) -> float:
        """Geometric mean over the prompts (`fidelity.typical`)."""
        return typical(self.per_prompt, self.floor)

    @property
    def latent_typical(self) -> float | None:
        """Geometric mean of the errors of the latents; None where they are not known, or 0."""
        if not self.latent or min(self.latent) <= 0:
            return None
        return float(np.exp(np.log(self.latent).mean()))


Arm = Generator[Choice, Heard | None, None]


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


def _proposed(
    world: World, proposer: KnapsackProposer, observed: Callable[[Choice, Heard], Observation]
) -> Arm:
    """A search with a proposer, as `search.loop` runs it."""
    history, pending = list[Observation](), list[Choice]()
    start = _start(world.candidates)
    for count in itertools.count():
        seen = {*(obs.choice for obs in history), *pending}
        choice = (
            start[count]
            if count < len(start)
            else proposer.next_choice(history, seen, count - len(start), pending)
        )
        if choice in seen:
            return
        pending.append(choice)
        heard = yield choice
        if heard is not None:
            history.append(observed(pending[0], heard))
            del pending[0]


@dataclass(frozen=True, kw_only=True)
class Ours:
    """The shipped search, or one that differs from it in one thing.

    Attributes:
        estimator: whose layer sensitivities it begins with; "" are those of the first of `CHOSEN`
            that a world has, None is none.
        kind: its proposer.
        latents: whether it hears the errors of the latents.
        statistic: of the prompts, "typical" or "mean".
    """

    estimator: str | None = ""
    kind: type[KnapsackProposer] = KnapsackProposer
    latents: bool = True
    statistic: str = "typical"

    def __call__(self, world: World, seed: int) -> Arm:
        return _proposed(world, self.proposer(world, seed), self.observed)

    def estimator_in(self, world: World) -> str | None:
        """Its estimator in a world."""
        if self.estimator != "":
            return self.estimator
        return next((name for name in CHOSEN if name in world.errors), None)

    def proposer(self, world: World, seed: int) -> KnapsackProposer:
        """Its proposer in a world."""
        name = self.estimator_in(world)
        errors = None if name is None else dict(world.errors[name])
        return self.kind(world.candidates, seed=seed, errors=errors)

    def observed(self, choice: Choice, heard: Heard) -> Observation:
        """What it notes of a list."""
        return Observation(
            choice=choice,
            typical=heard.typical if self.statistic == "typical" else heard.mean,
            latent=heard.latent_typical if self.latents else None,
        )

    def believed(self, world: World, choices: list[Choice], heard: list[Heard]) -> list[float]:
        """What it ranks each list by, after all of them."""
        proposer = self.proposer(world, 0)
        history = [self.observed(c, h) for c, h in zip(choices, heard, strict=True)]
        logs = [log_damages(h.per_prompt, h.floor).tolist() for h in heard]
        return list(map(float, estimate_all(proposer, history, logs)))


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
        pending: Any = (),
    ) -> Any:
        number, value, base = len(history) + len(pending) + 1 + 97 * self.seed, 0.0, 0.5
        while number:
            value, number, base = value + base * (number & 1), number >> 1, base / 2
        jitter = rng.normal(0, 0.02, 4) * np.arange(4)
        savings = self.knapsack.most_gain * np.clip(value + jitter, 0.01, 1.0)
        return [(wanted, 0) for wanted in savings]


class NoLearning(KnapsackProposer):
    """Ablation: the calibrated errors are believed to the end (only their scale is fitted)."""

    def believe(self, history: Any) -> Belief:
        return super().believe(history[:0])


class NoLink(KnapsackProposer):
    """Ablation: damages add up without end."""

    def believe(self, history: Any) -> Belief:
        with patch.object(damage_model, "LIMITS", (math.inf,)):
            return super().believe(history)


class Thompson(KnapsackProposer):
    """Ablation: every proposal samples the posterior."""

    def believe(self, history: Any) -> Belief:
        belief = super().believe(history)
        sample = belief.sample(np.random.default_rng([self.seed, len(history)]))
        return replace(belief, damages=sample)


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
                seen[choice] = (yield choice).typical
            study.tell(trial, [candidates.latency_s(choice), seen[choice]])

    return arm


SHIPPED = Ours()


def estimated(
    world: World, choices: list[Choice], heard: list[Heard], arm: str = "ours"
) -> list[float]:
    """What an arm of ours believes of each list after all of them; for others the shipped search.

    That is what lists are ranked by.
    """
    way = ARMS[arm]
    return (way if isinstance(way, Ours) else SHIPPED).believed(world, choices, heard)


ARMS: dict[str, Callable[[World, int], Arm]] = {
    "ours": SHIPPED,
    "ours, gradient calibration": Ours(estimator="gradient"),
    "ours, output calibration": Ours(estimator="output"),
    "ours, no calibration": Ours(estimator=None),
    "ours, arithmetic mean": Ours(statistic="mean"),
    "ours, no latents": Ours(latents=False),
    "ours, no link": Ours(kind=NoLink),
    "ours, baselines in the budget": Ours(),
    "ours, uniform savings": Ours(kind=UniformSavings),
    "ours, nothing learnt": Ours(kind=NoLearning),
    "ours, Thompson": Ours(kind=Thompson),
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


NEEDS = {
    "greedy": "output",
    "sweep, root of errors": "output",
    "sweep, errors ** 1.5": "output",
    "bits LP": "gradient",
}
"""Arms that are not ours, and whose layer sensitivities they go by."""


def can_play(arm: str, world: World) -> bool:
    """Whether the world has the layer sensitivities that an arm begins with."""
    way = ARMS[arm]
    if isinstance(way, Ours):
        wanted = CHOSEN if way.estimator == "" else (way.estimator,)
    else:
        wanted = (NEEDS.get(arm),)
    return None in wanted or bool(set(wanted) & set(world.errors))


PARALLEL = {name for name, way in ARMS.items() if isinstance(way, Ours)}
"""Arms that propose while others are being scored."""
SEEDLESS = {
    "sweep, root of errors",
    "sweep, errors ** 1.5",
    "greedy",
    "bits LP",
    "rule of thumb",
    "published list",
}
