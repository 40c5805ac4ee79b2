"""The numbers of a recipe, computed again from its values of single prompts by other arithmetic:
plain Python on the JSON, by the formulas of the records' docstrings.
"""

import io
import json
import math
import re
import statistics
from typing import Any

import pytest
from rich.console import Console
from scipy.stats import t as student

from sensitivity.cli.render.front import front_table
from sensitivity.cli.render.verdict import verdict_screen
from sensitivity.fidelity.summary import SummaryRules
from sensitivity.fidelity.words import interval_words
from sensitivity.recipes.recipe import Recipe
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.report.verdict import verdict_of
from sensitivity.workflows.verify import summary_rules


@pytest.fixture(scope="module")
def data(whole: SearchOutcome) -> Any:
    """The recipe's JSON."""
    assert whole.recipe is not None
    return json.loads(whole.recipe.to_json())


def middle(logs: list[float]) -> tuple[float, float]:
    """The mean of logarithms, and half the width of its 95 % interval."""
    half = student.ppf(0.975, len(logs) - 1) * statistics.stdev(logs) / math.sqrt(len(logs))
    return statistics.fmean(logs), half


def recomputed(values: list[float], floor: float | None, curve: Any, threshold: float) -> Any:
    """What a recipe says of these values."""
    if not any(values):
        return {"mean": 0.0, "typical": 0.0, "expected_mean": 0.0, "ci95": [0, 0], "flips": []}
    e = max(floor or 0.0, 1e-6)
    mean, half = middle([math.log(x + e) for x in values])
    typical = math.exp(mean) - e
    log_ratio = curve["log_ratio"] + curve["slope"] * math.log(typical / curve["at"])
    expected = typical * math.exp(max(log_ratio, 0.0))
    factor = math.exp(math.sqrt(half**2 + (2 * curve["error"]) ** 2))
    average = sum(values) / len(values)
    return {
        "mean": average,
        "typical": typical,
        "typical_ci95": [math.exp(mean - half) - e, math.exp(mean + half) - e],
        "expected_mean": expected,
        "ci95": [min(expected / factor, average), max(expected * factor, average)],
        "flips": [i for i, x in enumerate(values) if x >= threshold],
    }


def test_lpips_follows_from_its_prompts(data: Any) -> None:
    """On the held-out and on the search prompts: average, typical, expected mean, intervals,
    flips.
    """
    for name in ("lpips", "lpips_search"):
        said = data["fidelity"][name]
        expected = recomputed(
            said["per_prompt"], said["noise_floor"], said["curve"], said["flips"]["threshold"]
        )
        flips = expected.pop("flips")
        assert said["flips"]["prompts"] == flips
        assert said["flips"]["count"] == len(flips)
        assert {key: said[key] for key in expected} == {
            key: pytest.approx(value, rel=1e-9) for key, value in expected.items()
        }


def test_every_verified_list_follows_from_its_prompts(data: Any) -> None:
    """The same of what the winner is compared with, and the winner's own row is what
    `fidelity.lpips` says.
    """
    lpips, rows = data["fidelity"]["lpips"], data["verified"]["compared"]
    assert len(rows) >= 3
    for row in rows:
        floor = lpips["noise_floor"] if any(row["per_prompt"]) else None
        expected = recomputed(row["per_prompt"], floor, lpips["curve"], lpips["flips"]["threshold"])
        assert row["flips"] == expected.pop("flips")
        assert row["lpips_held_out"] == pytest.approx(expected.pop("mean"))
        assert {key: row[key] for key in expected} == {
            key: pytest.approx(value, rel=1e-9) for key, value in expected.items()
        }
    own = next(row for row in rows if row["per_prompt"] == lpips["per_prompt"])
    for key in ("typical", "typical_ci95", "expected_mean", "ci95"):
        assert own[key] == lpips[key]


def test_the_winner_beside_others_follows_from_their_prompts(
    whole: SearchOutcome, data: Any
) -> None:
    """Ratios to the rule of thumb and to everything quantized, with intervals, prompt by prompt."""
    lpips, against = data["fidelity"]["lpips"], data["fidelity"]["against"]
    rows = {row["name"]: row["per_prompt"] for row in data["verified"]["compared"]}
    assert whole.chosen is not None
    baselines = {"all nvfp4", "rule of thumb"} - {whole.chosen.name}
    assert {row["name"] for row in against} == baselines
    e = max(lpips["noise_floor"], 1e-6)
    for row in against:
        pairs = zip(lpips["per_prompt"], rows[row["name"]], strict=True)
        mean, half = middle([math.log((x + e) / (y + e)) for x, y in pairs])
        assert row["ratio"] == pytest.approx(math.exp(mean), rel=1e-9)
        assert row["ci95"] == pytest.approx(
            [math.exp(mean - half), math.exp(mean + half)], rel=1e-9
        )


def test_a_number_has_one_value_everywhere(whole: SearchOutcome, data: Any) -> None:
    """Recipe, table, verdict and `verify` state the same numbers of the winner, to the digit; the
    front's estimates are those of the table.
    """
    assert whole.recipe is not None
    assert whole.chosen is not None
    lpips, console = data["fidelity"]["lpips"], Console(width=300, file=io.StringIO())
    console.print(front_table(whole))
    table = console.file.getvalue()  # type: ignore[attr-defined]
    row = next(line for line in table.splitlines() if re.match(r" *[*+]*>", line))
    typical = interval_words(lpips["typical"], lpips["typical_ci95"])
    mean = interval_words(lpips["expected_mean"], lpips["ci95"])
    flips = f"{lpips['flips']['count']}/{len(lpips['per_prompt'])}"
    assert [*typical.split(), *mean.split(), flips] == row.split()[-7:]
    console.print(verdict_screen(verdict_of(whole.recipe), []))
    verdict = console.file.getvalue()  # type: ignore[attr-defined]
    assert f"typical LPIPS {typical}, mean {mean}" in verdict
    held_out = whole.held_out[whole.chosen.index]
    assert summary_rules(whole.recipe).summarize(held_out) == whole.rules.summarize(held_out)
    estimates = {member["name"]: (member["typical"], member["lpips"]) for member in data["front"]}
    assert estimates == {
        t.name: (t.typical, whole.rules.damage_curve.mean(t.typical)) for t in whole.front
    }
    assert {t.name: t.mean for t in whole.front} == {
        name: mean for name, (_, mean) in estimates.items()
    }


def test_a_recipe_of_an_earlier_version_is_summarized_without_a_study(data: Any) -> None:
    """Its file has no curve and no rule for flips: those before anything is seen take their place,
    and it says its mean alone.
    """
    later = ("typical", "typical_ci95", "expected_mean", "curve", "flips")
    lpips = {key: value for key, value in data["fidelity"]["lpips"].items() if key not in later}
    earlier = Recipe.from_mapping(
        data | {"schema_version": "1.2", "fidelity": {"lpips": lpips}, "front": []}
    )
    assert earlier.fidelity is not None
    assert summary_rules(earlier) == SummaryRules.of([], another_seed=None)
    assert earlier.fidelity.lpips.stated_mean == lpips["mean"]
    assert earlier.fidelity.lpips.words == (
        f"mean LPIPS {interval_words(lpips['mean'], tuple(lpips['ci95']))}"
    )
