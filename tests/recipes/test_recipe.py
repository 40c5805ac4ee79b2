"""Recipes: what is refused on reading, what survives a round trip, and how they are written."""

import json
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import sensitivity.recipes.recipe as recipe_module
from sensitivity.core.pattern_cover import compress
from sensitivity.errors import OutputError, RecipeError
from sensitivity.recipes.recipe import Recipe, load_recipe

from support.two_blocks import LAYERS, changed, recipe_data, two_block_recipe


def test_round_trip_keeps_everything(tmp_path: Path) -> None:
    """Loading what was saved gives an equal recipe, fields of a later version at every level
    included.
    """
    data = recipe_data(schema_version="2.7", later={"a": [1, 2.5, "é", None, True]})
    data["latency"]["std_s"] = 0.01
    data["fidelity"]["smell"] = {"ppm": 0.2}
    data["patterns"][0]["trial"] = 3
    first = Recipe.from_mapping(data)
    path = first.save(tmp_path / "r.json")
    assert load_recipe(path) == first
    assert json.loads(path.read_text(encoding="utf-8")) == data
    assert load_recipe(path).to_json() == path.read_text(encoding="utf-8")


def test_each_linear_stands_once_and_files_of_1_keep_their_skip(tmp_path: Path) -> None:
    """This version writes no `skip`; a file of 1.x, which must have it, is written back with it."""
    kept = ["blocks.0.down", "blocks.1.down"]
    now, before = (
        two_block_recipe(schema_version=version, skip=kept) for version in ("2.0", "1.3")
    )
    assert "skip" not in json.loads(now.to_json())
    assert json.loads(before.to_json())["skip"] == kept
    assert list(now.skip) == list(before.skip) == kept
    assert load_recipe(before.save(tmp_path / "r.json")) == before


def test_floats_survive_exactly(tmp_path: Path) -> None:
    """A float that has no short decimal form comes back the same bits."""
    data = recipe_data()
    data["latency"] |= {"bf16_s": 0.1 + 0.2, "quantized_s": 1 / 3, "speedup": (0.1 + 0.2) / (1 / 3)}
    path = Recipe.from_mapping(data).save(tmp_path / "r.json")
    assert load_recipe(path).latency.bf16_s.hex() == (0.1 + 0.2).hex()


def test_recipes_from_before_the_choice_was_kept_are_read() -> None:
    """Without `choice` and `simultaneous` a recipe is read: nothing is known of the choice, and its
    interval is that of one skip-list.
    """
    data = recipe_data()
    del data["choice"], data["fidelity"]["lpips"]["simultaneous"]
    recipe = Recipe.from_mapping(data)
    assert recipe.choice is None
    assert recipe.fidelity.lpips.simultaneous == 1
    choice = {"rule": "fastest", "max_lpips": 0.2, "first": "t7", "shortlist": ["t7", "t8"]}
    assert two_block_recipe(choice=choice).to_json().count('"t8"') == 1
    assert two_block_recipe(choice=choice).choice.max_lpips == 0.2  # type: ignore[union-attr]


def test_records_are_frozen() -> None:
    """A field cannot be assigned."""
    with pytest.raises(ValidationError, match="frozen"):
        two_block_recipe().name = "other"  # type: ignore[misc]


def test_other_major_is_refused_and_other_minor_is_read() -> None:
    """The major version decides, before any other field is looked at."""
    with pytest.raises(
        RecipeError, match=r"found schema_version '3\.0'; expected 1\.x or 2\.x: up"
    ):
        Recipe.from_mapping({"schema_version": "3.0"})
    assert two_block_recipe(schema_version="2.99").schema_version == "2.99"
    for bad in ("1", "1.0.0", "x", "", 1.0, None):
        with pytest.raises(RecipeError, match="schema_version"):
            two_block_recipe(schema_version=bad)


@pytest.mark.parametrize(
    ("skip", "named"),
    [
        (["blocks.0.down"], r"differs from the bf16 layers in 1 \(blocks.1.down\)"),
        (["blocks.0.down", "blocks.1.down", "head"], r"1 \(head\)"),
        (["blocks.0.down", "blocks.1.down", "blocks.1.down"], r"1 \(blocks.1.down\)"),
        (["blocks.0.down", "blocks.1.down", "nope"], r"1 \(nope\)"),
    ],
)
def test_skip_is_exactly_the_bf16_layers(skip: list[str], named: str) -> None:
    """Missing, extra, repeated and unknown entries are refused by name."""
    with pytest.raises(RecipeError, match=named):
        two_block_recipe(skip=skip)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (
            "latency.speedup",
            1.5001,
            r"latency: found speedup 1\.5001; expected bf16_s / quantized_s, 1\.5",
        ),
        ("latency.quantized_s", 0, "latency.quantized_s: Input should be greater than 0"),
        ("latency.bf16_s", "3.0", "latency.bf16_s: Input should be a valid number"),
        ("latency.bf16_s", True, "latency.bf16_s"),
        ("latency.bf16_s", float("nan"), "latency.bf16_s"),
        ("latency.source", "guessed", "Input should be 'predicted' or 'measured'"),
        ("latency.batch_size", 0, "latency.batch_size"),
        ("memory.bf16_bytes", 1.5, "memory.bf16_bytes"),
        ("memory.bf16_bytes", -1, "memory.bf16_bytes"),
        ("model.weights", "finetuned", "model.weights"),
        ("model.component", "os.system", "model.component"),
        ("fidelity.lpips.mean", float("inf"), "fidelity.lpips.mean"),
        ("fidelity.lpips.mean", 0.2, r"found mean 0\.2; expected the average of per_prompt, 0\.15"),
        ("fidelity.lpips.ci95", [0.2, 0.1], "expected the lower bound first"),
        ("fidelity.lpips.ci95", [0.1], "fidelity.lpips.ci95"),
        ("fidelity.lpips.seeds", [1], r"found \(2, 1, 2\) prompts, seeds, per_prompt"),
        ("environment.load", float("nan"), "expected a finite number"),
        ("environment.name", "\ud800", "lone surrogate"),
        ("extra", object(), "found a object; expected text"),
        ("extra", float("inf"), "expected a finite number"),
        ("layers", {}, "found no layers"),
        ("layers.head", "int4", "layers.head"),
        ("layers", [], "layers"),
        ("latency.bf16_s", 10**400, "latency"),
        ("fidelity.lpips.per_prompt", [1e308, 1e308], "the average of per_prompt, inf"),
        ("patterns", [{"pattern": "a", "reason": ""}] * 1001, "at most 1000 items"),
        ("patterns", [{"pattern": "nothing.*", "reason": ""}], "which matches no layer"),
        (
            "patterns",
            [{"pattern": "*", "reason": ""}],
            r"matches quantized layers: 3 \(blocks.0.up, blocks.1.up, head\)",
        ),
        ("patterns", [{"pattern": "re:x", "reason": ""}], "not a regular expression"),
        (
            "front",
            [{"name": "a", "latency": {}, "lpips": 0}],
            r"front\.0\.latency\.bf16_s: Field required",
        ),
    ],
)
def test_wrong_fields_are_named(path: str, value: Any, message: str) -> None:
    """A wrong value is refused with the path of its field."""
    with pytest.raises(RecipeError, match=message):
        Recipe.from_mapping(changed(path, value))


@pytest.mark.parametrize(
    "fqn", ["../etc/passwd", "a/b", "a\nb", "a b", "", "a..b", "a.", "a" * 600, "re:.*", "a*"]
)
def test_insane_layer_names_are_refused(fqn: str) -> None:
    """Names that no module can have never reach a matcher, a file or a comment."""
    with pytest.raises(RecipeError, match="layers: found the layer"):
        two_block_recipe(layers={fqn: "bf16"}, skip=[fqn], patterns=[])


def test_missing_fields_are_counted() -> None:
    """The message for an empty object says how many fields are missing."""
    with pytest.raises(
        RecipeError,
        match=r"found 9 wrong field\(s\), first name: Field required; model: Field required",
    ):
        Recipe.from_mapping({})


def test_patterns_of_compress_are_accepted() -> None:
    """The records that `compress` returns go in as they are."""
    assert (
        two_block_recipe(patterns=compress(two_block_recipe().skip, LAYERS)).patterns[0].pattern
        == "blocks.*.down"
    )


def test_save_refuses_what_load_would(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A recipe too large to read is not written."""
    monkeypatch.setattr(recipe_module, "MAX_BYTES", 100)
    with pytest.raises(RecipeError, match="expected at most 100: shorten front or per_prompt"):
        two_block_recipe().save(tmp_path / "r.json")
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_recipes_are_user_errors(tmp_path: Path) -> None:
    """A file that is missing, a folder, and JSON that is no recipe: the message begins with the
    path and ends with the next step.
    """
    path = tmp_path / "r.json"
    with pytest.raises(RecipeError, match=r"found No such file.*name a recipe that") as caught:
        load_recipe(path)
    assert str(caught.value).startswith(str(path))
    with pytest.raises(RecipeError, match="found a folder; expected a regular file: name the file"):
        load_recipe(tmp_path)
    path.write_text("[]")
    with pytest.raises(RecipeError, match="found a list at the top; expected one JSON object"):
        load_recipe(path)
    path.write_text('{"latency": NaN}')
    with pytest.raises(RecipeError, match="found NaN; expected a finite number") as caught:
        load_recipe(path)
    assert str(caught.value).startswith(str(path))


def test_a_save_replaces_the_file(tmp_path: Path) -> None:
    """A save over an old file returns its path and leaves the recipe alone in the folder."""
    path = tmp_path / "r.json"
    path.write_text("old")
    assert two_block_recipe().save(path) == path
    assert load_recipe(path) == two_block_recipe()
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(OutputError, match="is not a regular file"):
        two_block_recipe().save(tmp_path)


MEASURED = {
    "bf16_s": 3.0,
    "quantized_s": 2.0,
    "speedup": 1.5,
    "source": "measured",
    "target": "h200",
    "batch_size": 1,
    "compile_mode": "reduce-overhead",
    "runtime": "torchao-graphs",
    "covers": "the whole pipeline call, measured end to end on NVIDIA H200",
    "speedup_interval90": [1.49, 1.51],
    "shapes": {"bf16_s": 2.8, "quantized_s": 1.75, "speedup": 1.6, "source": "measured"},
}
TIMINGS = [
    {
        "name": "t7",
        "seconds": [2.0, 2.1],
        "bf16_seconds": [3.0, 3.2],
        "source": "measured",
        "covers": "the whole pipeline call",
        "speedup": 1.51,
        "speedup_interval90": [1.4, 1.6],
    },
    {
        "name": "all",
        "seconds": [],
        "source": "measured",
        "covers": "the whole pipeline call",
        "failure": "the kernel refuses M <= 32",
    },
]


def test_end_to_end_times_are_kept() -> None:
    """Times of whole runs, the sum of shapes beside them and what a kernel refused survive a round
    trip; the words say where seconds come from, and the front is ranked by shapes.
    """
    refused = {"blocks.1.down": "the kernel refuses M <= 32"}
    data = recipe_data(latency=MEASURED, timings=TIMINGS, refused=refused)
    recipe = Recipe.from_mapping(data)
    assert Recipe.from_mapping(json.loads(recipe.to_json())) == recipe
    assert (recipe.latency.origin, recipe.latency.ranked_s) == ("measured end to end", 1.75)
    assert recipe.timings[0].bf16_seconds == (3.0, 3.2)
    assert recipe.timings[1].failure == "the kernel refuses M <= 32"
    assert recipe.refused == refused
    older = two_block_recipe().latency
    assert (older.origin, older.ranked_s, older.runtime) == ("predicted", 2.0, "")


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("latency", {**MEASURED, "speedup_interval90": [1.6, 1.4]}, "lower bound first"),
        ("latency", {**MEASURED, "shapes": {**MEASURED, "speedup": 2.0}}, "found speedup 2.0"),
        ("timings", [{**TIMINGS[0], "bf16_seconds": [3.0]}], r"found \(2, 1\) seconds"),
        ("timings", [{**TIMINGS[0], "seconds": [0.0]}], "greater than 0"),
        ("refused", {"head": "too small"}, "found the refused layers 1 .head., which are quant"),
        ("refused", {"else": "too small"}, "refused layers"),
        ("fidelity.kernels", "guessed", "'native' or 'emulated'"),
    ],
)
def test_wrong_times_are_refused(path: str, value: object, words: str) -> None:
    """Bounds in the wrong order, ratios that are none, rounds that do not match, quantized Linears
    that were refused.
    """
    with pytest.raises(RecipeError, match=words):
        Recipe.from_mapping(changed(path, value))
