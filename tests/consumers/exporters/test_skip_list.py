"""Skip-lists: their comments, globs and regular expressions."""

import re

from sensitivity.consumers.exporters.skip_list import SkipListExporter
from sensitivity.core.patterns import expand, read_list

from support.recipes import FLUX_FQNS, flux_recipe, make_recipe


def test_skip_list_text() -> None:
    """Exact names under comments with model, latency and its source, LPIPS; a newline in a model's
    id cannot become an entry.
    """
    recipe = flux_recipe()
    lines = SkipListExporter().export(recipe).splitlines()
    entries = [line for line in lines if not line.startswith("#")]
    assert tuple(entries) == recipe.skip
    header = "\n".join(line for line in lines if line.startswith("#"))
    assert "every other Linear is nvfp4" in header
    assert "model: toy proj_out, revision not given, pretrained weights" in header
    assert (
        "3 s in bf16, 2 s quantized, 1.5x, predicted for b200, batch size 1, compile mode none"
        in header
    )
    assert (
        "LPIPS (alex, 95% intervals): mean LPIPS 0.1500 [0.1000, 0.2000], noise floor not measured,"
        " 1 pictures" in header
    )


def test_skip_list_globs() -> None:
    """Globs carry their reasons and select the same Linears."""
    recipe = flux_recipe()
    text = SkipListExporter(form="globs").export(recipe)
    assert "transformer_blocks.1.*  # all of transformer_blocks.1 (3 Linears)" in text
    assert expand(read_list(text), FLUX_FQNS).matched == set(recipe.skip)


def test_skip_list_regex() -> None:
    """Expressions are anchored and have reasons.

    Python's re.match, fullmatch and search all find the skipped Linears and no others.
    """
    recipe = flux_recipe()
    text = SkipListExporter(form="regex").export(recipe)
    assert "^transformer_blocks\\.1\\..*$  # all of transformer_blocks.1 (3 Linears)" in text
    entries = [line.partition("  #")[0] for line in text.splitlines() if not line.startswith("#")]
    for method in (re.match, re.fullmatch, re.search):
        assert {fqn for fqn in FLUX_FQNS if any(method(entry, fqn) for entry in entries)} == set(
            recipe.skip
        )


def test_skip_list_of_an_all_bf16_recipe() -> None:
    """Nothing quantized is a list of everything."""
    recipe = make_recipe(["a", "b"], [])
    assert read_list(SkipListExporter().export(recipe)) == ("a", "b")
