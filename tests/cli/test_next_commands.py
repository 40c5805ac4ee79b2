"""The commands that come next: they name what was typed, and choose what they say."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sensitivity.cli import next_commands as module
from sensitivity.cli.next_commands import (
    after_verifying,
    alternatives,
    bound_of,
    next_commands,
)
from sensitivity.fidelity.score import Score
from sensitivity.search.front import Constraints
from sensitivity.search.shortlist import Contest
from sensitivity.search.trials import ScoredTrial

BF16_S = 3.0


def scored(index: int, *, seconds: float, lpips: float) -> ScoredTrial:
    """A finished trial of one prompt."""
    score = Score(net="tiny", mean=lpips, per_prompt=(lpips,), noise_floor=None)
    return ScoredTrial(
        index=index,
        number=index + 1,
        choice=(index,),
        label="",
        latency_s=seconds,
        score=score,
        seconds=0.0,
    )


def recipe(*consumers: str, weights: str = "pretrained") -> Any:
    """What commands read of a recipe."""
    return SimpleNamespace(
        search=SimpleNamespace(consumers=consumers), model=SimpleNamespace(weights=weights)
    )


def outcome(seconds: list[float], chosen: int, *, study: str = "tiny-flux") -> Any:
    """What a search found: a front of these seconds, the slower the less LPIPS, then bf16."""
    every = [*sorted(seconds), BF16_S]
    trials = [
        scored(i, seconds=own, lpips=0.0 if own == BF16_S else 0.1 - 0.001 * i)
        for i, own in enumerate(every)
    ]
    return SimpleNamespace(
        prepared=SimpleNamespace(
            evaluator=SimpleNamespace(spec=SimpleNamespace(name=study)),
            candidates=SimpleNamespace(bf16_s=BF16_S, none_quantized=trials[-1].choice),
        ),
        recipe=recipe(),
        front=tuple(trials),
        chosen=trials[chosen],
        winner=None,
    )


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """{parameter: words} that were typed."""
    words: dict[str, list[str]] = {}
    monkeypatch.setattr(
        module, "typed", lambda *names: [w for n in names for w in words.get(n, [])]
    )
    return words


def test_each_bound_names_the_list_that_it_is_said_to(typed: dict[str, list[str]]) -> None:
    """On a dense front: least damage among what is as fast as the bound is that list."""
    found = outcome([1.0 + 0.0007 * i for i in range(40)], chosen=20)
    for trial in found.front[:-1]:
        bound = Constraints(min_speedup=float(bound_of(found, trial)))
        contest = Contest.of(found.front, bound, bf16_s=BF16_S)
        assert contest.first_choice() == trial
    assert typed == {}


def test_other_choices_are_real_ones() -> None:
    """Halfway to the ends of the front, not the next neighbours; bf16 is none of them."""
    found = outcome([1.0, 1.2, 1.49, 1.5, 1.51, 2.0, 2.6], chosen=3)
    assert [trial.latency_s for _, trial in alternatives(found)] == [1.2, 2.0]
    assert alternatives(outcome([1.0], chosen=0)) == []
    assert [what for what, _ in alternatives(outcome([1.0, 2.0], chosen=1))] == [
        "choose a faster one"
    ]


def test_commands_repeat_what_was_typed(typed: dict[str, list[str]]) -> None:
    """Model, database, prompts; the study where there are several; a consumer that takes it."""
    found, path = outcome([1.0, 2.0], chosen=0), Path("my recipes/r.json")
    typed |= {
        "model": ["--model", "mine.toml"],
        "storage": ["--storage", "s.db"],
        "prompts": ["--prompts", "p.txt"],
    }
    found.prepared.evaluator.spec.name = "mine"
    commands = [command for _, command in next_commands(found, path, ["torchao"], study="mine-1")]
    assert commands == [
        "sensitivity report 'my recipes/r.json' --model mine.toml --storage s.db",
        "sensitivity export 'my recipes/r.json' --to torchao",
        "sensitivity select --model mine.toml --storage s.db --study mine-1 --prompts p.txt"
        " --min-speedup 1.5",
    ]


def test_what_is_not_said_is_the_usual(typed: dict[str, list[str]]) -> None:
    """A study of the package is found by its name; for whom it was searched goes first; random
    weights are allowed where they must be.
    """
    found, path = outcome([1.0], chosen=0), Path("r.json")
    takers = ["skip-list", "torchao", "diffusers", "sglang"]
    found.recipe = recipe("sglang")
    commands = next_commands(found, path, takers)
    assert commands == [
        ("see its pictures and every number, in a browser", "sensitivity report r.json"),
        (
            "hand it to sglang (or skip-list, torchao, diffusers)",
            "sensitivity export r.json --to sglang",
        ),
    ]
    assert after_verifying(recipe(weights="random"), path, takers) == [
        (
            "hand it to diffusers (or skip-list, torchao, sglang)",
            "sensitivity export r.json --to diffusers --allow-random-weights",
        )
    ]
    assert after_verifying(recipe(), path, []) == []
    assert typed == {}


def test_a_bound_on_memory_holds_for_other_choices(typed: dict[str, list[str]]) -> None:
    """Only what fits is named, and the bound is repeated."""
    found = outcome([1.0, 1.5, 2.0, 2.5], chosen=1)
    sizes = (10, 20, 30, 25, 40)
    trials = [replace(t, memory_bytes=gb) for t, gb in zip(found.front, sizes, strict=True)]
    found.front, found.chosen = tuple(trials), trials[1]
    found.winner = SimpleNamespace(constraints=Constraints(max_memory_bytes=25))
    assert [trial.index for _, trial in alternatives(found)] == [0, 3]
    typed["max_memory"] = ["--max-memory", "25b"]
    lines = [line for _, line in next_commands(found, Path("r.json"), []) if " select " in line]
    assert len(lines) == 2
    assert all("--max-memory 25b --min-speedup" in line for line in lines)
