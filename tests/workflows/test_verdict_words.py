"""What a verdict says: sentences from numbers, with no claim where an interval has both answers."""

from typing import Any

import pytest

from sensitivity.workflows.report.verdict import verdict_of
from sensitivity.workflows.report.verdict_words import anchors, headline, percent, trade_words

from support.tiny_flux_recipes import first_recipe, verified

VALUES = [0.1, 0.3]


@pytest.mark.parametrize(
    ("ratio", "speed", "said"),
    [
        (0.49, 0.92, "half the damage of X for 8 % of its speed"),
        (0.34, 1.03, "a third of the damage of X, and 3 % faster"),
        (0.42, 1.0, "42 % of the damage of X at the same speed"),
        (2.0, 1.12, "twice the damage of X, but 12 % faster"),
        (1.4, 0.95, "1.4 times the damage of X, and 5 % slower"),
    ],
)
def test_a_trade_is_said_in_words(ratio: float, speed: float, said: str) -> None:
    """Less damage costs speed or comes with it; more damage brings speed or does not."""
    assert trade_words(ratio, (ratio / 1.1, ratio * 1.1), speed, of="X") == said


@pytest.mark.parametrize("unclear", [{"interval": (0.8, 1.1)}, {"interval": None, "near": True}])
def test_no_difference_is_claimed_that_is_not_there(unclear: Any) -> None:
    """Where the interval contains 1, or a runtime's roundings do as much."""
    assert trade_words(0.93, speed=1.03, of="X", **unclear) == (
        "no clear difference in damage from X, 3 % faster"
    )


def test_a_small_share_keeps_a_digit() -> None:
    """It never prints as 0 %."""
    assert [percent(x) for x in (0.5, 0.0123, 0.004)] == ["50 %", "1 %", "0.4 %"]


def rows(name: str, speedup: float, values: list[float]) -> dict[str, Any]:
    """A list that was verified beside the recipe."""
    return {
        "name": name,
        "speedup": speedup,
        "lpips_search": 0.03,
        "lpips_held_out": sum(values) / len(values),
        "per_prompt": values,
    }


def recipe_beside(*compared: dict[str, Any], **fields: Any) -> Any:
    """A recipe that was verified beside these lists, with half the damage of each."""
    against = [{"name": row["name"], "ratio": 0.5, "ci95": [0.4, 0.6]} for row in compared]
    recipe = verified(first_recipe(), {}, verified={"compared": list(compared)}, **fields)
    data = recipe.model_dump(mode="json")
    data["fidelity"]["against"] = against
    return type(recipe).from_mapping(data)


def test_the_rule_of_thumb_goes_first() -> None:
    """The headline compares with it, else with the first list."""
    own = first_recipe().latency.speedup
    lists = rows("all nvfp4", own, [0.4, 0.5]), rows("rule of thumb", own / 0.92, [0.4, 0.5])
    verdict = verdict_of(recipe_beside(*lists))
    assert headline(verdict) == (
        f"{own:.3f}x as fast as bf16, with half the damage of the rule of thumb for 8 % of its"
        " speed"
    )
    assert headline(verdict_of(recipe_beside(lists[0]))).endswith(
        "half the damage of all nvfp4 at the same speed"
    )


def test_a_baseline_that_wins_is_called_so() -> None:
    """No trial has its number, and its values are the recipe's; it is not compared with itself."""
    own = first_recipe().latency.speedup
    verdict = verdict_of(recipe_beside(rows("rule of thumb", own, VALUES)))
    assert verdict.baseline == "rule of thumb"
    assert verdict.against == ()
    assert headline(verdict).endswith("bf16: the rule of thumb itself, since no trial does better")


def test_speeds_are_compared_from_one_source() -> None:
    """End to end with a list that was timed beside it, as sums of shapes with one that was not."""
    base = first_recipe().latency.model_dump(mode="json")
    shapes = {"bf16_s": 3.0, "quantized_s": 2.0, "speedup": 1.5, "source": "measured"}
    latency = base | {
        "bf16_s": 3.0,
        "quantized_s": 2.4,
        "speedup": 1.25,
        "source": "measured",
        "shapes": shapes,
        "speedup_interval90": [1.2, 1.3],
    }
    timing = {
        "name": "rule of thumb",
        "seconds": [2.5],
        "bf16_seconds": [3.0],
        "source": "measured",
        "covers": "the whole pipeline call",
        "speedup": 1.2,
        "speedup_interval90": [1.1, 1.3],
    }
    lists = rows("rule of thumb", 1.6, [0.4, 0.5]), rows("all nvfp4", 1.6, [0.4, 0.5])
    thumb, every = verdict_of(recipe_beside(*lists, latency=latency, timings=[timing])).against
    assert (thumb.speedup, thumb.is_timed) == (1.2, True)
    assert thumb.speed_ratio == pytest.approx(1.25 / 1.2)
    assert (every.speedup, every.is_timed) == (1.6, False)
    assert every.speed_ratio == pytest.approx(1.5 / 1.6)


@pytest.mark.parametrize("net", ["tiny", "alex"])
def test_lpips_has_anchors(net: str) -> None:
    """Another seed and bf16 itself, as far as they were measured; what is said of alex is said of
    alex alone.
    """
    flips = {"count": 1, "prompts": [1], "threshold": 0.17, "another_seed": 0.43}
    lpips = {"net": net, "noise_floor": 3.8e-05, "flips": flips}
    found = anchors(verdict_of(verified(first_recipe(), lpips)))
    assert found[0] == (0.43, "another seed")
    assert found[-1] == (3.8e-05, "bf16 computed again")
    assert len(found) == (3 if net == "alex" else 2)
