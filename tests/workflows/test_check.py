"""What a run takes is measured where the GPU has the recipe's formats, else predicted. No GPU here:
devices and times are made up. Pictures are checked at the command line (tests/cli/test_check.py).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sensitivity.errors import MeasurementError, PatternError, RecipeMismatchError, UserError
from sensitivity.recipes.recipe import Recipe
from sensitivity.search.front import Constraints
from sensitivity.workflows import check
from sensitivity.workflows.check import check_recipe
from sensitivity.workflows.check_subject import read_subject
from sensitivity.workflows.criteria import Decision
from sensitivity.workflows.end_timing import EndTimes
from sensitivity.workflows.gate import Checked, Drawing, Gate

from support.timed import end_times
from support.tiny_flux_recipes import SPEC, first_recipe, second_recipe
from support.two_blocks import two_block_recipe

GATE = Gate(constraints=Constraints(min_speedup=1.2, max_memory_bytes=24 * 10**9))
CPU = Drawing(device="cpu")
PREDICTED = "predicted for b200, batch 1"


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Any], EndTimes]], Checked]:
    """Checks a recipe on a GPU that has its formats, where the timing is what a test gives."""

    def run(timing: Callable[[Any], EndTimes]) -> Checked:
        loaded = SimpleNamespace(loaded=SimpleNamespace(device="cpu"), run=None)
        monkeypatch.setattr(check, "why_not_timed", lambda *_, **__: None)
        monkeypatch.setattr(check, "_load", lambda _asked: loaded)
        monkeypatch.setattr(check, "time_lists", lambda _loaded, _run, lists, _how: timing(lists))
        return check_recipe(first_recipe(), SPEC, GATE, CPU)

    return run


def test_a_run_is_measured_where_it_can_be(timed: Callable[..., Checked]) -> None:
    """Its speedup has the interval of its rounds, and its peak lacks nothing."""
    found = timed(lambda lists: end_times(lists, {}))
    speed, memory = found.criteria
    assert (speed.value, speed.decision) == (pytest.approx(1.5), Decision.PASSES)
    assert memory.interval == (2e9, 2e9)
    assert {row.why for row in found.criteria} == {
        "measured on NVIDIA H200, the whole pipeline call"
    }
    assert found.drawn is None


def test_a_run_that_fails_is_predicted(timed: Callable[..., Checked]) -> None:
    """The line says why it was not measured."""

    def fail(_lists: Mapping[str, Any]) -> EndTimes:
        raise MeasurementError("bf16 ran out of memory")

    for timing, why in (
        (fail, "bf16 ran out of memory"),
        (lambda lists: end_times(lists, dict.fromkeys(lists, "a kernel refused it")), "a kernel"),
    ):
        row = timed(timing).criteria[0]
        assert row.why.startswith(f"{PREDICTED} (timing failed: {why}")


@pytest.mark.parametrize(
    ("timed_here", "why"),
    [
        (True, f"{PREDICTED} (torch runs on cpu, and times are measured on a GPU)"),
        (False, PREDICTED),
    ],
)
def test_else_it_is_predicted(timed_here: bool, why: str) -> None:
    """For the recipe's target, with the interval of the price model; nothing is drawn."""
    found = check_recipe(first_recipe(), SPEC, GATE, CPU, timed=timed_here)
    speed, memory = found.criteria
    assert speed.why == memory.why == why
    assert speed.value == pytest.approx(first_recipe().latency.speedup)
    assert speed.interval is not None
    assert memory.interval == (memory.value, memory.value + 6e9)
    data = found.to_json()
    assert data["gate"] == {"min_speedup": 1.2, "max_memory_bytes": 24 * 10**9}
    assert (data["weights_sha256"], data["per_prompt"], data["net"]) == (None, None, None)


def test_the_worst_criterion_decides() -> None:
    """A failure before what is open, and that before what passes."""
    checked = check_recipe(first_recipe(), SPEC, GATE, CPU)
    rows = {row.decision: row for row in checked.criteria}
    passes = rows[Decision.PASSES]
    open_, fails = (
        type(passes)(field="", asked="", decision=one, value=0.0)
        for one in (Decision.UNDECIDED, Decision.FAILS)
    )

    def of(*criteria: Any) -> Decision:
        return Checked(recipe=first_recipe(), model="", gate=GATE, criteria=criteria).decision

    assert of(passes, open_, fails) is Decision.FAILS
    assert of(passes, open_) is Decision.UNDECIDED
    assert of(passes) is Decision.PASSES


def test_what_cannot_be_checked() -> None:
    """A gate without a bound, and another model's recipe to compare with."""
    with pytest.raises(UserError, match="found no bound; expected one at least of `max_lpips`"):
        check_recipe(first_recipe(), SPEC, Gate(), CPU)
    with pytest.raises(RecipeMismatchError, match="found recipes of other models"):
        check_recipe(first_recipe(), SPEC, Gate(), CPU, against=two_block_recipe())


def test_a_recipe_is_checked_as_it_is(tmp_path: Path) -> None:
    """Its file is known by its looks, or by `form`."""
    second_recipe().save(tmp_path / "r.json")
    for form in (None, "recipe"):
        assert read_subject(str(tmp_path / "r.json"), SPEC, form=form) == second_recipe()


def test_a_list_becomes_a_recipe(tmp_path: Path) -> None:
    """Its formats are those that its consumer would see; faults are counted in the notice."""
    path = tmp_path / "skip.txt"
    path.write_text("*embed*\n*norm*.linear\nproj_out\nno_such_layer.*\n")
    made = read_subject(str(path), SPEC)
    assert isinstance(made, Recipe)
    assert made.is_unverified
    assert made.layers["proj_out"] == "bf16"
    assert made.layers["transformer_blocks.0.attn.to_q"] == "nvfp4"
    assert made.caveat == (
        "UNVERIFIED: a list, read as glob, in which `sensitivity audit` finds 1 error: it states no"
        " LPIPS"
    )


def test_a_list_in_another_format_is_refused(tmp_path: Path) -> None:
    """It has no pictures that could be drawn."""
    path = tmp_path / "int8.json"
    path.write_text('{"quant_method": "bitsandbytes", "load_in_4bit": true}')
    with pytest.raises(PatternError, match=r"which this tool does not have; expected one of"):
        read_subject(str(path), SPEC)
