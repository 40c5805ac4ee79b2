"""The contract of `Exporter`, for every exporter in every form.

A text is given out only if it means exactly the recipe when it is read as the consumer reads it. A
new exporter needs nothing here, but the names of its forms in `UNREAD` if no reader reads them.
"""

import random
import re
from typing import Any

import pytest

from sensitivity.consumers.exporters import EXPORTERS, Exporter, get_exporter
from sensitivity.consumers.limits import PRECISION
from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.readers import get_reader
from sensitivity.consumers.step_policies import COSMOS3
from sensitivity.core.format_name import QUANTIZED_FORMATS, FormatName
from sensitivity.core.fqns import role_of
from sensitivity.core.step_policy import EdgeMode
from sensitivity.errors import RecipeError
from sensitivity.recipes.recipe import Recipe
from sensitivity.recipes.without_policy import without_step_policy

from support.policies import with_steps
from support.recipes import make_recipe
from support.served import linears_of, with_formats

EVERY_FORM = [cls(form=form) for cls in EXPORTERS.values() for form in cls.forms]
ALL_FORMATS = [exporter for exporter in EVERY_FORM if exporter.max_formats >= 3]

COARSEST_FIRST = ("nvfp4", "fp8", "fp8-lb", "mxfp8", "bf16")

READER_OF = {
    ("skip-list", "fqns"): "fqn",
    ("skip-list", "globs"): "glob",
    ("skip-list", "regex"): "regex",
    ("diffusers", "modelopt"): "modelopt",
}
"""The readers that are not called as the exporter."""

UNREAD = {
    ("torchao", "filter-fn"),
    ("diffusers", "python"),
    ("diffusers", "modules-to-not-convert"),
}
"""Python with functions, which no reader reads."""


def any_recipe(*formats: str, several: bool = False, seed: int = 0, **model: Any) -> Recipe:
    """A recipe of FLUX, or of the two denoisers of Wan 2.2, with formats chosen at random.

    Most Linears of a role have one format, some differ from it.
    """
    kind = "WanTransformer3DModel" if several else "FluxTransformer2DModel"
    fqns = linears_of(kind, num_layers=2)
    parts = ("transformer", "transformer_2") if several else ()
    names = [f"{part}.{fqn}" for part in parts for fqn in fqns] if several else list(fqns)
    rng, by_role, layers = random.Random(seed), dict[str, str](), dict[str, str]()
    for fqn in names:
        own = rng.choice([*formats, *formats, "bf16"])
        layers[fqn] = own if rng.random() < 0.2 else by_role.setdefault(role_of(fqn), own)
    components = dict.fromkeys(parts, kind)
    recipe = make_recipe(names, [], component_class=kind, components=components, **model)
    return with_formats(recipe, layers)


def expressible(exporter: Exporter, **changes: Any) -> Recipe:
    """A recipe that the exporter can express, with something in it that is quantized."""
    formats = [name for name in QUANTIZED_FORMATS if name in exporter.formats]
    recipe = any_recipe(*formats[: min(exporter.max_formats, 4)], **changes)
    recipe = with_formats(recipe, exporter.nearest(recipe))
    assert {name.is_quantized for name in recipe.layers.values()} == {True, False}
    return recipe


every_form = pytest.mark.parametrize("exporter", EVERY_FORM, ids=lambda e: f"{e.name}-{e.form}")
one_or_two = pytest.mark.parametrize("several", [False, True], ids=["one", "two"])


@every_form
@one_or_two
def test_an_export_means_the_recipe(exporter: Exporter, several: bool) -> None:
    """The text, read back by the consumer's rule, gives every Linear the recipe's format."""
    recipe = expressible(exporter, several=several)
    text = exporter.export(recipe)
    assert exporter.assign(text, recipe, recipe.layers) == exporter.as_read(recipe.layers)
    assert exporter.verify(recipe, recipe.layers) == recipe.layers
    assert text == exporter.export(recipe)
    assert text.endswith("\n")


@every_form
@one_or_two
def test_the_reader_of_the_form_reads_the_recipe(exporter: Exporter, several: bool) -> None:
    """What an exporter writes is a list that the reader of this form understands alike."""
    if (exporter.name, exporter.form) in UNREAD:
        pytest.skip("no reader reads Python functions that were exported")
    recipe = expressible(exporter, several=several)
    listed = get_reader(READER_OF.get((exporter.name, exporter.form), exporter.name)).read(
        exporter.export(recipe)
    )
    model = ModelTree(fqns=tuple(recipe.layers), classes=recipe.model.classes, several=several)
    quantized = max(recipe.layers.values(), key=lambda name: name.is_quantized)
    assert listed.assign(model, quantized=quantized) == exporter.as_read(recipe.layers)


@pytest.mark.parametrize("exporter", ALL_FORMATS, ids=lambda e: f"{e.name}-{e.form}")
def test_all_formats_survive(exporter: Exporter) -> None:
    """A form that names a format for each Linear keeps all of a recipe's formats."""
    formats, verified = [name for name in PRECISION if name in exporter.formats], set()
    for seed in range(6):
        recipe = any_recipe(*formats[:-1], seed=seed)
        recipe = with_formats(recipe, exporter.nearest(recipe))
        verified |= set(exporter.verify(recipe, recipe.layers).values())
    replaced = {min(pair, key=PRECISION.index) for pair in exporter.apart}
    assert verified == exporter.formats - replaced


@every_form
def test_a_wrong_text_is_caught(exporter: Exporter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text that means another recipe is not given out, and the message names a Linear."""
    recipe = expressible(exporter)
    others = (expressible(exporter, seed=seed) for seed in range(1, 20))
    other = next(other for other in others if other.layers != recipe.layers)
    meant, read = exporter.as_read(recipe.layers), exporter.as_read(other.layers)
    wrong = [fqn for fqn in meant if meant[fqn] != read[fqn]]
    text = exporter.export(other)
    monkeypatch.setattr(type(exporter), "render", lambda _self, _recipe: text)
    with pytest.raises(RecipeError) as refused:
        exporter.export(recipe)
    assert f"found {len(wrong)} Linear(s) that {exporter.name} would treat" in str(refused.value)
    assert f"{wrong[0]} would be {read[wrong[0]]}, not" in str(refused.value)


@every_form
def test_another_model_is_refused(exporter: Exporter) -> None:
    """Linears that only the recipe or only the model has are named."""
    recipe = expressible(exporter)
    first, *others = recipe.layers
    with pytest.raises(
        RecipeError, match=rf"found 2 Linear.*{first} is not in the model; new_layer is not in the"
    ):
        exporter.verify(recipe, [*others, "new_layer"])


@every_form
@pytest.mark.parametrize("formats", [["nvfp4"], ["fp8"], ["mxfp8"], ["mxfp8", "nvfp4", "fp8"]])
def test_what_cannot_be_expressed_is_refused(exporter: Exporter, formats: list[str]) -> None:
    """A format that the consumer lacks is refused with the Linears that should get it, and more
    formats than its file names with their names.
    """
    recipe = any_recipe(*formats)
    for name in formats:
        if FormatName(name) not in exporter.formats:
            first = next(fqn for fqn, own in recipe.layers.items() if own == name)
            assert any(
                f"it has no {name}" in why and first in why for why in exporter.obstacles(recipe)
            )
    if len(formats) > exporter.max_formats:
        assert any(
            f"its file names {exporter.max_formats} quantized format(s), and the recipe has 3"
            " (mxfp8, nvfp4, fp8)" in why
            for why in exporter.obstacles(recipe)
        )
    if obstacles := exporter.obstacles(recipe):
        with pytest.raises(RecipeError, match=r"cannot express: .*`nearest`") as refused:
            exporter.export(recipe)
        assert obstacles[0] in str(refused.value)
    else:
        assert exporter.verify(recipe, recipe.layers) == recipe.layers


@every_form
def test_every_format_is_exported_or_refused_in_words(exporter: Exporter) -> None:
    """Each format alone: the text means it, or the message says that the consumer lacks it, why
    where it is a variant, what it takes, and that `Recipe.apply` runs it. The nearest recipe
    quantizes activations as the recipe does, or not at all.
    """
    takes = ", ".join(name for name in QUANTIZED_FORMATS if name in exporter.formats)
    for name in QUANTIZED_FORMATS:
        recipe = any_recipe(name)
        if name in exporter.formats:
            kept = with_formats(recipe, exporter.nearest(recipe))
            assert name in kept.layers.values()
            assert exporter.export(kept)
            continue
        with pytest.raises(RecipeError) as refused:
            exporter.export(recipe)
        why = r" \(.+\)" if name.plain is not name else r"( \(.+\))?"
        assert re.search(rf"it has no {name}{why}, which .*should get", str(refused.value))
        assert f"(it takes {takes}; `Recipe.apply` runs the others)" in str(refused.value)
        nearest = set(exporter.nearest(recipe).values()) - {FormatName.BF16}
        assert all(own.is_weight_only == name.is_weight_only for own in nearest)


@every_form
@one_or_two
@pytest.mark.parametrize("formats", [["nvfp4"], ["mxfp8", "nvfp4", "fp8"]], ids="+".join)
def test_the_nearest_recipe(exporter: Exporter, formats: list[str], several: bool) -> None:
    """It can be expressed, gives no Linear a coarser format, and is its own nearest recipe."""
    recipe = any_recipe(*formats, several=several)
    nearest = exporter.nearest(recipe)
    assert list(nearest) == list(recipe.layers)
    for fqn, name in nearest.items():
        assert COARSEST_FIRST.index(name) >= COARSEST_FIRST.index(recipe.layers[fqn])
    again = with_formats(recipe, nearest)
    assert exporter.obstacles(again) == []
    assert exporter.nearest(again) == nearest


@every_form
def test_random_weights_are_refused(exporter: Exporter) -> None:
    """A recipe that was searched on random weights is exported only when that is asked for."""
    recipe = expressible(exporter, weights="random")
    with pytest.raises(RecipeError, match="random weights"):
        exporter.export(recipe)
    assert exporter.export(recipe, allow_random_weights=True)


@every_form
def test_a_text_does_not_depend_on_the_machine(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With or without mslk the exported text is the same."""
    from sensitivity.formats import mslk

    recipe, texts = expressible(exporter), set()
    for there in (True, False):
        monkeypatch.setattr(mslk, "is_available", lambda there=there: there)
        texts.add(exporter.export(recipe))
    assert len(texts) == 1


@every_form
def test_notes_are_printable(exporter: Exporter) -> None:
    """Notes about what the text cannot say are single printable lines."""
    recipe = expressible(exporter)
    assert all(note.isprintable() for note in exporter.notes(recipe, exporter.export(recipe)))


def test_exporters_by_name() -> None:
    """An exporter has its key's name, and file endings for its forms; other names are refused."""
    for name, cls in EXPORTERS.items():
        exporter = get_exporter(name)
        assert (type(exporter), exporter.name, exporter.form) == (cls, name, next(iter(cls.forms)))
        assert exporter.suffix.startswith(".")
        with pytest.raises(RecipeError, match=f"found the form 'none' of {name}; expected one of"):
            cls(form="none")
    with pytest.raises(
        RecipeError, match=r"found the exporter 'skiplist'; expected one of .*; did you mean 'skip"
    ):
        get_exporter("skiplist")
    with pytest.raises(RecipeError, match="name one of them"):
        get_exporter("zzz")


@pytest.mark.parametrize(
    "exporter",
    [e for e in EVERY_FORM if e.max_formats == 1 and e.formats == frozenset(FormatName)],
    ids=lambda e: f"{e.name}-{e.form}",
)
def test_a_file_of_one_format_takes_the_finest(exporter: Exporter) -> None:
    """Where a file names one format, the nearest recipe has the finest of the recipe's formats, and
    skips the same Linears.
    """
    recipe = any_recipe("mxfp8", "nvfp4")
    nearest = exporter.nearest(recipe)
    assert set(nearest.values()) == {FormatName.MXFP8, FormatName.BF16}
    assert [fqn for fqn, name in nearest.items() if not name.is_quantized] == list(recipe.skip)


@every_form
@pytest.mark.parametrize("mode", EdgeMode)
def test_a_step_policy_is_exported_or_refused(exporter: Exporter, mode: EdgeMode) -> None:
    """No form drops a policy in silence: its text is read back with the policy, or there is none,
    and the message says what can be done. The list alone is exported, and says so.
    """
    recipe = with_steps(expressible(exporter), first_steps=2, last_steps=1, mode=mode)
    if exporter.policy_obstacles(recipe.assignment, recipe.model.classes):
        with pytest.raises(RecipeError, match=r"`without_step_policy`") as refused:
            exporter.export(recipe)
        assert (
            recipe.assignment.policy.words in str(refused.value)
            or "16-bit" in str(refused.value)
            or COSMOS3 in str(refused.value)
        )
    else:
        text = exporter.export(recipe)
        assert exporter.step_policy(text, recipe) == recipe.assignment.policy
    alone = without_step_policy(recipe)
    assert exporter.step_policy(exporter.export(alone), alone).is_plain
    assert "without its step policy" in alone.caveat


@every_form
def test_an_exporter_that_forgets_steps_is_caught(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A form that names no obstacle and writes no policy gives out no text."""
    recipe = with_steps(expressible(exporter), first_steps=2)
    plain = exporter.export(without_step_policy(recipe))
    monkeypatch.setattr(type(exporter), "policy_obstacles", lambda *_: [])
    monkeypatch.setattr(type(exporter), "render", lambda *_: plain)
    with pytest.raises(RecipeError, match=r"every step quantized|found Python without"):
        exporter.export(recipe)
