"""The verdict on a terminal: what it says at every width, and of recipes that say little."""

import io
from typing import Any

import pytest

from sensitivity.cli.render.verdict import verdict_screen
from sensitivity.cli.render.verified import verified_screen
from sensitivity.cli.screen import TextConsole
from sensitivity.fidelity.score import Score
from sensitivity.fidelity.words import interval_words
from sensitivity.formats.execution import Execution
from sensitivity.search.front import Constraints
from sensitivity.workflows.report.records import Snippet
from sensitivity.workflows.report.verdict import verdict_of
from sensitivity.workflows.verify import Verification, summary_rules

from support.search_screens import recipe
from support.tiny_flux_recipes import first_recipe

SNIPPETS = (
    Snippet(consumer="torchao", form="json", text="{}", notes=("a note",)),
    Snippet(consumer="sglang", form="", text="", notes=("it always runs 2 (a, b) in bf16; more",)),
)


def drawn(part: Any, width: int = 80) -> str:
    """What a console of this width prints."""
    console = TextConsole(file=io.StringIO(), width=width)
    console.print(part)
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_every_width_has_the_numbers_that_decide(width: int) -> None:
    """Whole numbers and whole names, and no line that is too long."""
    found = recipe()
    verdict, text = verdict_of(found), drawn(verdict_screen(verdict_of(found), SNIPPETS), width)
    assert max(map(len, text.splitlines())) <= width
    flat, close = " ".join(text.split()), "".join(text.split())
    damage = verdict.damage
    assert damage is not None
    assert damage.typical is not None
    assert damage.typical_ci95 is not None
    assert f"typical LPIPS {interval_words(damage.typical, damage.typical_ci95)}" in flat
    assert flat.startswith(f"{verdict.name}: {verdict.speedup:.3f}x as fast as bf16, with")
    for own in verdict.against:
        assert own.ratio_ci95 is not None
        low, high = own.ratio_ci95
        assert f"{own.speedup:.3f}x" in flat
        assert f"{own.ratio:.2f} [{low:.2f}, {high:.2f}]" in flat
    for kept in verdict.kept[:3]:
        assert kept.pattern.split(".")[-1] in close
    assert "exports to torchao" in flat
    assert "sglang: it always runs 2 in bf16" in flat


def test_an_unverified_recipe_says_so() -> None:
    """Below its speed, which is known, and with no word of pictures."""
    text = drawn(verdict_screen(verdict_of(first_recipe()), ()))
    assert "UNVERIFIED: for a test" in text
    assert "x as fast as bf16\n" in text
    assert "pictures" not in text
    assert "exports to  no tool" in text


def verification(factor: float = 1.0, **fields: Any) -> Verification:
    """The kept recipe's pictures again, with so many times its LPIPS on each prompt."""
    stated = recipe().fidelity
    assert stated is not None
    values = tuple(factor * value for value in stated.lpips.per_prompt)
    floor = stated.lpips.noise_floor
    own = Score(net="tiny", mean=sum(values) / len(values), per_prompt=values, noise_floor=floor)
    execution = Execution(device="cpu", formats=())
    rules = summary_rules(recipe())
    return Verification(score=own, rules=rules, execution=execution, **fields)


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (1.0, "holds: every prompt has the LPIPS that the recipe states"),
        (1.1, "holds: its pictures are inside the interval that it states"),
        (9.0, "does NOT hold: its pictures are OUTSIDE the interval that it states"),
    ],
)
def test_verify_says_first_whether_the_recipe_holds(factor: float, said: str) -> None:
    """To the bit, within the interval, or not."""
    text = drawn(verified_screen(recipe(), verification(factor), Constraints()))
    assert " ".join(text.split()).startswith(f"{recipe().name} {said}")
    assert max(map(len, text.splitlines())) <= 80


def test_verify_says_whether_a_bound_is_kept() -> None:
    """Which one is broken, by what; or that it keeps to it."""
    bound = Constraints(max_typical=0.5)
    assert "it keeps to typical LPIPS <= 0.5" in drawn(
        verified_screen(recipe(), verification(), bound)
    )
    broken = verification(broken={"max_typical": 0.6})
    text = drawn(verified_screen(recipe(), broken, bound), 120).splitlines()
    assert text[0].endswith(": it breaks `max_typical`: found 0.6000, expected at most 0.5")
    assert " holds: " in text[1]


def test_peak_memory_is_said_with_its_source() -> None:
    """Beside bf16's, and what a predicted one lacks; an older recipe says nothing of it."""
    older = recipe()
    peaks = {"peak_bytes": 21 * 10**9, "bf16_peak_bytes": 35 * 10**9}
    for source, words in (
        ("predicted", "21 GB instead of 35 GB (predicted, without what CUDA itself takes), in a"),
        ("measured", "21 GB instead of 35 GB (measured), in a whole run"),
    ):
        memory = older.memory.model_copy(update=peaks | {"peak_source": source})
        verdict = verdict_of(older.model_copy(update={"memory": memory}))
        assert f"peak memory  {words}" in drawn(verdict_screen(verdict, ()), 200)
    assert "peak memory" not in drawn(verdict_screen(verdict_of(older), ()), 200)
