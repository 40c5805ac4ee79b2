"""How does an arm of `search_arms.py` go, trial by trial, on anything that answers it?

    played = play("ours", world, seed=0, trials=50, hear=landscape.hear)
    for rule, front in fronts_at(played, 20, world).items(): ...

What people do by hand (`search.candidates.baselines`) is scored before a search and counts in its
front, but not as a trial of the budget. Arms in `INSIDE` pay for it, as earlier versions did.

A front is taken in two ways: by the scores of the search prompts, which is what a user of an
arm's sampler sees, and by what the arm, or the shipped search, believes of the same lists after all
of them.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from measures import front_of
from search_arms import ARMS, Heard, World, estimated

from sensitivity.search.candidates import Choice, baselines

COUNTS = (10, 20, 50)
LONG_COUNTS = (100, 200, 300, 500, 700, 1000)
INSIDE = {"ours, baselines in the budget"}
"""Arms whose budget pays for what people do by hand."""
Hear = Callable[[Choice], Heard]


@dataclass
class Played:
    """What an arm has tried.

    Attributes:
        choices, heard: the lists in order, and what was heard of each.
        ends: (trials,) how many of the lists are there after each trial of the budget.
        ask_s: seconds of each proposal.
    """

    choices: list[Choice] = field(default_factory=list)
    heard: list[Heard] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    ask_s: list[float] = field(default_factory=list)

    def after(self, trials: int) -> int:
        """How many lists are there after so many trials; all where fewer were made."""
        return self.ends[trials - 1] if 0 < trials <= len(self.ends) else len(self.choices)


def play(
    name: str,
    world: World,
    *,
    seed: int,
    trials: int,
    hear: Hear,
    deadline: float = float("inf"),
    workers: int = 1,
    after: Callable[[Played], None] = lambda _played: None,
) -> Played | None:
    """Play an arm for so many trials; it may end earlier. None if time is up (`time.monotonic`).

    With several workers each list is proposed while the results of `workers - 1` others are still
    to come; results come in the order in which lists were begun. `after` is called with what is
    there whenever no result is still to come.
    """
    arm, played = ARMS[name](world, seed), Played()
    free = set() if name in INSIDE else {choice for _, choice in baselines(world.candidates)}

    def start(choice: Choice) -> None:
        played.choices.append(choice)
        if choice not in free:
            played.ends.append(len(played.choices))

    def hear_next() -> Heard:
        played.heard.append(hear(played.choices[len(played.heard)]))
        return played.heard[-1]

    try:
        start(next(arm))
        while len(played.heard) < len(played.choices):
            if time.monotonic() > deadline:
                return None
            is_last = len(played.ends) == trials
            is_full = len(played.choices) - len(played.heard) == workers
            heard = hear_next() if is_last or is_full else None
            if len(played.heard) == len(played.choices):
                after(played)
            if not is_last:
                begun = time.perf_counter()
                start(arm.send(heard))
                played.ask_s.append(time.perf_counter() - begun)
    except StopIteration:
        while len(played.heard) < len(played.choices):
            hear_next()
    return played


def marks_of(played: Played) -> list[int]:
    """The budgets at which a front is taken; an arm that is one list has it at every budget."""
    longer = [count for count in LONG_COUNTS if count <= len(played.ends)]
    return [*(c for c in COUNTS if c <= len(played.ends) or len(played.ends) < COUNTS[-1]), *longer]


def fronts_at(played: Played, trials: int, world: World, arm: str = "ours") -> dict[str, list[int]]:
    """Indices of the front after so many trials, by scores and by the arm's estimates."""
    upto = played.after(trials)
    choices, heard = played.choices[:upto], played.heard[:upto]
    seconds = [world.candidates.latency_s(choice) for choice in choices]
    believed = {
        "score": [h.typical for h in heard],
        "estimate": estimated(world, choices, heard, arm),
    }
    return {
        rule: front_of(list(zip(seconds, values, strict=True))).tolist()
        for rule, values in believed.items()
    }
