"""Two recipes of one model: which Linears differ, what that costs and gains, and when two LPIPS can
be compared; other models are refused.
"""

from typing import Any

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import block_of, role_of
from sensitivity.errors import RecipeMismatchError
from sensitivity.latency.pricer import Pricer
from sensitivity.recipes.diff import blocks_in_words, compare_recipes
from sensitivity.recipes.recipe import Recipe

from support.tiny_flux_recipes import changed, verified


def test_changes_are_roles_with_their_blocks(first: Recipe, second: Recipe, pricer: Pricer) -> None:
    """One change a role and pair of formats, with ranges of blocks in words, and every Linear that
    differs in exactly one of them.
    """
    found = compare_recipes(first, second, pricer=pricer)
    changes = {(c.role, c.a.value, c.b.value): c.blocks for c in found.changes}
    assert changes["transformer_blocks.ff.net.2", "nvfp4", "mxfp8"] == "0, 2"
    assert changes["transformer_blocks.attn.to_q", "nvfp4", "bf16"] == "1"
    assert {blocks for (role, _, _), blocks in changes.items() if role.startswith("single_")} == {
        "5"
    }
    differing = [fqn for fqn in first.layers if first.layers[fqn] != second.layers[fqn]]
    assert sorted(fqn for c in found.changes for fqn in c.fqns) == sorted(differing)
    assert all(role_of(fqn) == c.role for c in found.changes for fqn in c.fqns)
    assert any(block_of(fqn) == "single_transformer_blocks.5" for fqn in differing)


def test_changes_add_up_to_the_total(first: Recipe, second: Recipe, pricer: Pricer) -> None:
    """What the changes save is the difference of two lists priced on their own; the other way round
    all signs turn.
    """
    found = compare_recipes(first, second, pricer=pricer)
    back = compare_recipes(second, first, pricer=pricer)
    a_s, b_s = (pricer.price("", recipe.layers).estimate.quantized_s for recipe in (first, second))
    assert found.priced is not None
    assert (found.priced.a_s, found.priced.b_s) == (a_s, b_s)
    saved = {(c.role, c.a, c.b): c.saved_s or 0.0 for c in found.changes}
    assert sum(saved.values()) == pytest.approx(a_s - b_s)
    assert {(c.role, c.b, c.a): -(c.saved_s or 0.0) for c in back.changes} == pytest.approx(saved)
    # a finer format of a large Linear costs time
    assert saved["transformer_blocks.ff.net.2", FormatName.NVFP4, FormatName.MXFP8] < 0


def test_identical_recipes_have_no_changes(first: Recipe, pricer: Pricer) -> None:
    """No change, and no difference in seconds."""
    found = compare_recipes(first, first, pricer=pricer)
    assert found.changes == ()
    assert found.to_json()["identical"] is True
    assert found.priced is not None
    assert found.priced.a_s == found.priced.b_s


def test_without_a_price_formats_alone_are_compared(first: Recipe, second: Recipe) -> None:
    """No seconds are made up, and the reason is given."""
    found = compare_recipes(first, second, unpriced="the study is unknown")
    assert (found.priced, found.unpriced) == (None, "the study is unknown")
    assert {c.saved_s for c in found.changes} == {None}
    assert found.to_json()["latency"] is None


def test_other_models_are_refused(first: Recipe) -> None:
    """Another class, and the same class with another Linear, are named."""
    other = changed(first, {}, model=first.model.model_dump() | {"component_class": "OtherModel"})
    with pytest.raises(
        RecipeMismatchError,
        match=(
            r"recipes of other models: transformer \(FluxTransformer2DModel\) and transformer"
            r" \(OtherModel\); expected two of one model"
        ),
    ):
        compare_recipes(first, other)
    with pytest.raises(RecipeMismatchError, match=r"differ in 1 Linears, the first is more\.0"):
        compare_recipes(first, changed(first, {"more.0": "bf16"}))


@pytest.mark.parametrize(
    ("lpips", "fields", "reason"),
    [
        ({"net": "alex"}, {}, "nets tiny and alex"),
        ({"prompts": ["a", "c"]}, {}, "other prompts (2 and 2)"),
        ({"seeds": [1, 3]}, {}, "other seeds"),
        ({}, {"kernels": "native"}, "by emulation and by native kernels"),
        ({}, {"settings": {"num_inference_steps": 4}}, "other settings of the pictures"),
        ({}, {"model": {"revision": "other"}}, "weights tiny-flux of no stated revision"),
    ],
)
def test_lpips_that_cannot_be_compared(
    first: Recipe, lpips: dict[str, Any], fields: dict[str, Any], reason: str
) -> None:
    """Another net, other prompts, seeds, settings or weights: the reason is given, and no ratio."""
    fields = dict(fields)
    if "model" in fields:
        fields["model"] = first.model.model_dump() | fields["model"]
    found = compare_recipes(verified(first, {}), verified(first, lpips, **fields))
    assert [why[: len(reason)] for why in found.incomparable] == [reason]
    assert found.lpips_ratio is None


def test_lpips_are_compared_prompt_by_prompt(first: Recipe, second: Recipe) -> None:
    """The ratio of the typical LPIPS and its interval; one that is half on every prompt is half for
    sure, and to bf16's own pictures there is none.
    """
    half = verified(second, {"per_prompt": [0.05, 0.15], "mean": 0.1, "ci95": [0.05, 0.25]})
    found = compare_recipes(verified(first, {}), half)
    assert found.incomparable == ()
    assert found.lpips_ratio == pytest.approx((0.5, 0.5, 0.5), rel=1e-4)
    assert found.to_json()["lpips_ratio"]["ratio"] == found.lpips_ratio[0]
    bf16 = verified(second, {"per_prompt": [0.0, 0.0], "mean": 0.0, "ci95": [0.0, 0.0]})
    assert compare_recipes(bf16, half).lpips_ratio is None


def test_unverified_recipes_have_no_lpips_to_compare(first: Recipe, second: Recipe) -> None:
    """One without pictures is named."""
    assert compare_recipes(verified(first, {}), second).incomparable == ("B is unverified",)
    assert compare_recipes(first, second).incomparable == ("A and B are unverified",)


def test_places_on_the_front(first: Recipe) -> None:
    """A recipe that two members of its front outrun is number three; one without a front has no
    place.
    """
    own = first.latency.model_dump()
    front = [
        {
            "name": f"t{times}",
            "lpips": 0.1,
            "latency": own
            | {"quantized_s": own["quantized_s"] * times, "speedup": own["speedup"] / times},
        }
        for times in (0.5, 0.9, 1.0, 2.0)
    ]
    found = compare_recipes(changed(first, {}, front=front), first)
    assert (found.a.place, found.b.place) == ((3, 4), None)
    assert found.to_json()["a"]["front"] == {"rank": 3, "members": 4}


def test_blocks_in_words() -> None:
    """Ranges where blocks are counted once, whole indices where blocks are inside of blocks,
    nothing outside of blocks.
    """
    inner = ["down_blocks.1.attentions.0.to_q", "down_blocks.1.attentions.1.to_q"]
    assert blocks_in_words(f"blocks.{i}.ff" for i in (0, 1, 2, 10, 1)) == "0-2, 10"
    assert blocks_in_words(inner) == "1.0, 1.1"
    assert blocks_in_words(["proj_out"]) == ""


def test_a_diff_is_shown_as_a_table(first: Recipe, second: Recipe, pricer: Pricer) -> None:
    """Each change is a row; at a prompt the diff is one line."""
    diff = compare_recipes(first, second, pricer=pricer)
    frame = diff.to_pandas()
    assert list(frame["role"]) == [change.role for change in diff.changes]
    assert list(frame["saved_ms"]) == [change.saved_s * 1e3 for change in diff.changes]
    assert repr(diff).startswith("RecipeDiff(a first, b second: ")
    assert "\n" not in repr(diff)
    assert diff.changes[0].role in diff._repr_html_()
