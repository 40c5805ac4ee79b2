"""Two recipes of one model: which Linears differ, what that costs and gains, and when two LPIPS
compare; other models are refused.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from sensitivity.cli.app import app
from sensitivity.cli.render.diff import diff_report
from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import block_of, role_of
from sensitivity.errors import OutputError, RecipeMismatchError
from sensitivity.latency.pricer import Pricer
from sensitivity.recipes.diff import blocks_in_words, compare_recipes
from sensitivity.recipes.recipe import Recipe
from sensitivity.recipes.unverified import priced_recipe, study_of
from sensitivity.shapes.run import ShapeRun, run_shapes
from sensitivity.spec.loading import resolve_spec
from sensitivity.workflows.nearest import pricer_for

SPEC = resolve_spec("tiny-flux")
LPIPS = {
    "mean": 0.2,
    "ci95": [0.1, 0.3],
    "net": "tiny",
    "noise_floor": None,
    "prompts": ["a", "b"],
    "seeds": [1, 2],
    "per_prompt": [0.1, 0.3],
}


@pytest.fixture(scope="module")
def run() -> ShapeRun:
    """tiny-flux, without weights."""
    return run_shapes(SPEC)


@pytest.fixture(scope="module")
def pricer(run: ShapeRun) -> Pricer:
    """Its prices on the study's GPU."""
    return Pricer.of(SPEC, run)


@pytest.fixture(scope="module")
def first(run: ShapeRun, pricer: Pricer) -> Recipe:
    """Every Linear of a block in nvfp4."""
    formats = {x.fqn: FormatName.NVFP4 for x in run.table.linears if x.block}
    return priced_recipe(
        pricer.price("first", formats), run, SPEC, name="first", notice="for a test"
    )


def changed(recipe: Recipe, formats: dict[str, str], **fields: Any) -> Recipe:
    """The recipe with other formats and fields."""
    data = recipe.model_dump(mode="json") | {"patterns": []} | fields
    data["layers"] |= formats
    data["skip"] = [fqn for fqn, name in data["layers"].items() if name == "bf16"]
    return Recipe.from_mapping(data)


def verified(
    recipe: Recipe, lpips: dict[str, Any], settings: dict[str, Any] | None = None, **fields: Any
) -> Recipe:
    """The recipe as if its pictures had been compared."""
    return changed(
        recipe,
        {},
        notice=None,
        fidelity={"lpips": LPIPS | lpips, "pictures": {"settings": settings or {}}},
        **fields,
    )


@pytest.fixture(scope="module")
def second(first: Recipe) -> Recipe:
    """ff.net.2 of blocks 0 and 2 in mxfp8, all of single block 5 and to_q of double block 1 in
    bf16.
    """
    bf16 = {
        fqn: "bf16"
        for fqn in first.layers
        if block_of(fqn) == "single_transformer_blocks.5" or fqn == "transformer_blocks.1.attn.to_q"
    }
    return changed(
        first, bf16 | {f"transformer_blocks.{i}.ff.net.2": "mxfp8" for i in (0, 2)}, name="second"
    )


def test_groups_are_roles_with_their_blocks(first: Recipe, second: Recipe, pricer: Pricer) -> None:
    """One group a role and pair of formats, with runs of blocks in words, and every Linear that
    differs in exactly one of them.
    """
    found = compare_recipes(first, second, pricer=pricer)
    groups = {(c.role, c.a.value, c.b.value): c.blocks for c in found.changes}
    assert groups["transformer_blocks.ff.net.2", "nvfp4", "mxfp8"] == "0, 2"
    assert groups["transformer_blocks.attn.to_q", "nvfp4", "bf16"] == "1"
    assert {blocks for (role, _, _), blocks in groups.items() if role.startswith("single_")} == {
        "5"
    }
    differing = [fqn for fqn in first.layers if first.layers[fqn] != second.layers[fqn]]
    assert sorted(fqn for c in found.changes for fqn in c.fqns) == sorted(differing)
    assert all(role_of(fqn) == c.role for c in found.changes for fqn in c.fqns)


def test_groups_add_up_to_the_total(first: Recipe, second: Recipe, pricer: Pricer) -> None:
    """What the groups save is the difference of two lists priced on their own; the other way round
    all signs turn.
    """
    found, back = (
        compare_recipes(first, second, pricer=pricer),
        compare_recipes(second, first, pricer=pricer),
    )
    a_s, b_s = (pricer.price("", recipe.layers).estimate.quantized_s for recipe in (first, second))
    assert found.priced is not None
    assert (found.priced.a_s, found.priced.b_s) == (a_s, b_s)
    saved = {(c.role, c.a, c.b): c.saved_s or 0.0 for c in found.changes}
    assert sum(saved.values()) == pytest.approx(a_s - b_s)
    assert {(c.role, c.b, c.a): -(c.saved_s or 0.0) for c in back.changes} == pytest.approx(saved)
    assert (
        saved["transformer_blocks.ff.net.2", FormatName.NVFP4, FormatName.MXFP8] < 0
    )  # a finer format of a large Linear costs time


def test_identical_recipes_say_so(first: Recipe, pricer: Pricer) -> None:
    """No group, no difference in seconds, and words for it."""
    found = compare_recipes(first, first, pricer=pricer)
    assert found.changes == ()
    assert found.to_json()["identical"] is True
    assert "identical: A and B give every Linear the same format" in shown(found)
    assert "B saves +0.00 ms" in shown(found)


def shown(found: Any) -> str:
    console = Console(width=300, record=True, file=open("/dev/null", "w"))  # noqa: SIM115 - it is recorded
    console.print(diff_report(found))
    return console.export_text()


def test_without_a_price_formats_alone_are_compared(first: Recipe, second: Recipe) -> None:
    """No seconds are made up; the reason is said, with what the files say."""
    found = compare_recipes(first, second, unpriced="nobody knows the study")
    assert found.priced is None
    assert {c.saved_s for c in found.changes} == {None}
    assert "not priced: nobody knows the study" in shown(found)
    assert f"A says {first.latency.quantized_s:.4g} s" in shown(found)
    assert found.to_json()["latency"] is None


def test_other_models_are_refused(first: Recipe) -> None:
    """Another class, and the same class with another Linear, are named."""
    other = changed(first, {}, model=first.model.model_dump() | {"component_class": "OtherModel"})
    with pytest.raises(
        RecipeMismatchError,
        match=(
            r"recipes of other models: transformer \(FluxTransformer2DModel\) and transformer"
            r" \(OtherModel\)"
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
        ({}, {"settings": {"num_inference_steps": 4}}, "other settings of the pictures"),
        ({}, {"model": {"revision": "other"}}, "weights tiny-flux of no stated revision"),
    ],
)
def test_lpips_that_do_not_compare(
    first: Recipe, lpips: dict[str, Any], fields: dict[str, Any], reason: str
) -> None:
    """Another net, other prompts, seeds, settings or weights: the reason is said and no difference
    is given.
    """
    fields = dict(fields)
    if "model" in fields:
        fields["model"] = first.model.model_dump() | fields["model"]
    found = compare_recipes(verified(first, {}), verified(first, lpips, **fields))
    assert [why[: len(reason)] for why in found.incomparable] == [reason]
    assert found.lpips_difference is None
    assert "these LPIPS do not compare: " in shown(found)


def test_lpips_that_compare_do_so_prompt_by_prompt(first: Recipe, second: Recipe) -> None:
    """The mean of the differences and its interval; one that is better on every prompt by the same
    amount is better for sure.
    """
    better = verified(second, {"per_prompt": [0.05, 0.25], "mean": 0.15, "ci95": [0.05, 0.25]})
    found = compare_recipes(verified(first, {}), better)
    assert found.incomparable == ()
    assert found.lpips_difference == pytest.approx((-0.05, -0.05, -0.05))
    assert "B's LPIPS is -0.0500 [-0.0500, -0.0500] from A's" in shown(found)


def test_unverified_recipes_have_no_lpips_to_compare(first: Recipe, second: Recipe) -> None:
    """One without pictures is named; its caveat is shown."""
    found = compare_recipes(verified(first, {}), second)
    assert found.incomparable == ("B is unverified",)
    assert "B: UNVERIFIED: for a test" in shown(found)
    assert compare_recipes(first, second).incomparable == ("A and B are unverified",)


def test_places_on_the_front(first: Recipe) -> None:
    """A recipe that two members of its front outrun is number three; one without a front has no
    place.
    """
    own = first.latency.model_dump()
    members = [(0.5, 1), (0.9, 2), (1.0, 3), (2.0, 4)]
    front = [
        {
            "name": str(n),
            "lpips": 0.1,
            "latency": (
                own | {"quantized_s": own["quantized_s"] * times, "speedup": own["speedup"] / times}
            ),
        }
        for times, n in members
    ]
    found = compare_recipes(changed(first, {}, front=front), first)
    assert (found.a.place, found.b.place) == ((3, 4), None)
    assert "A is number 3 of the 4 skip-lists on the front of its search" in shown(found)


def test_blocks_in_words() -> None:
    """Runs where blocks are counted once, whole indices where blocks are in blocks, nothing outside
    of blocks.
    """
    assert blocks_in_words(f"blocks.{i}.ff" for i in (0, 1, 2, 10, 1)) == "0-2, 10"
    assert (
        blocks_in_words(["down_blocks.1.attentions.0.to_q", "down_blocks.1.attentions.1.to_q"])
        == "1.0, 1.1"
    )
    assert blocks_in_words(["proj_out"]) == ""


def test_the_study_of_a_recipe_is_one_of_the_package_or_none(first: Recipe) -> None:
    """Its own name, or that of a search of it; never a path, a longer name, or a study of another
    model.
    """
    from sensitivity.errors import UnknownModelError

    for study in (
        "tiny-flux",
        "tiny-flux-nvfp4-b200-0123abcd",
        "tiny-flux-nvfp4+mxfp8-rtx-5090-0123abcd",
    ):
        assert (
            study_of(changed(first, {}, search=first.search.model_dump() | {"study": study})).name
            == "tiny-flux"
        )
    for study in (
        "../../studies/tiny-flux.toml",
        "tiny-flux-larger",
        "tiny-flux-larger-nvfp4-b200-0123abcd",
        "flux1-dev",
        "org/name",
        "",
    ):
        with pytest.raises(
            UnknownModelError, match=r"which does not come with the package.*pass --model"
        ):
            study_of(changed(first, {}, search=first.search.model_dump() | {"study": study}))


def test_prices_are_those_of_the_recipes_batch(first: Recipe) -> None:
    """A recipe for another batch is priced at that batch."""
    four = changed(first, {}, latency=first.latency.model_dump() | {"batch_size": 4})
    assert pricer_for(four, SPEC).table.batch_size == 4


def test_texts_of_a_file_do_not_steer_the_terminal(first: Recipe, second: Recipe) -> None:
    """Escape sequences and marks of direction in a model's id, a net or a target are shown as
    spaces.
    """
    evil = "x\x1b]0;title\x07\x1b[2J\u202e\x9b5m"
    data = verified(first, LPIPS | {"net": evil}).model_dump(mode="json")
    data["model"] |= {"id": evil, "revision": evil}
    data["latency"]["target"] = evil
    text = shown(
        compare_recipes(Recipe.from_mapping(data), verified(second, LPIPS), unpriced="for a test")
    )
    assert "x ]0;title" in text
    assert [char for char in text if not char.isprintable() and char != "\n"] == []


def test_the_command_does_not_write_over_a_recipe(
    first: Recipe, second: Recipe, tmp_path: Path
) -> None:
    """JSON over one of the two is refused; the same recipe twice is none of that."""
    a, b = first.save(tmp_path / "a.json"), second.save(tmp_path / "b.json")
    before = a.read_bytes(), b.read_bytes()
    for path, name in ((a, "A"), (b, "B")):
        result = CliRunner().invoke(app, ["diff", str(a), str(b), "--json", str(path)])
        assert isinstance(result.exception, OutputError)
        assert f"is the file of {name};" in str(result.exception)
    assert (a.read_bytes(), b.read_bytes()) == before
    assert CliRunner().invoke(app, ["diff", str(a), str(a)]).exit_code == 0


def test_the_command(first: Recipe, second: Recipe, tmp_path: Path) -> None:
    """Exit code 0 for recipes that differ, JSON with groups, seconds and totals that agree; a study
    that is unknown is said, not guessed.
    """
    a, b = first.save(tmp_path / "a.json"), second.save(tmp_path / "b.json")
    result = CliRunner().invoke(app, ["diff", str(a), str(b), "--json", "-"])
    assert result.exit_code == 0
    data = json.loads(result.stdout)
    assert sum(c["saved_s"] for c in data["changes"]) == pytest.approx(
        data["latency"]["a_s"] - data["latency"]["b_s"]
    )
    assert data["a"]["notice"] == "for a test"
    strange = changed(first, {}, search=first.search.model_dump() | {"study": "mine"}).save(
        tmp_path / "c.json"
    )
    result = CliRunner().invoke(app, ["diff", str(strange), str(b)])
    assert result.exit_code == 0
    assert "not priced: the recipe 'first' is of the study 'mine'" in " ".join(
        result.stdout.split()
    )
