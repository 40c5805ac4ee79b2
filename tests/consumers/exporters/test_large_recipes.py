"""Recipes of many Linears take seconds, not minutes."""

import random
import time

import pytest

from sensitivity.consumers.exporters import EXPORTERS

from support.recipes import make_recipe

ROLES = (
    *(f"attn.to_{part}" for part in ("q", "k", "v", "out.0")),
    *(f"{stream}_mlp.net.{part}" for stream in ("img", "txt") for part in ("0.proj", "2")),
    "img_mod.1",
    "txt_mod.1",
)


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("skip-list", "regex"),
        ("diffusers", "modules-to-not-convert"),
        ("modelopt", "quant-cfg"),
    ],
)
def test_time_grows_with_the_linears(name: str, form: str) -> None:
    """Four thousand Linears at random, written and proved; it was ten seconds and more when every
    entry was compared with every name.
    """
    draw = random.Random(0)
    fqns = [f"transformer_blocks.{block}.{role}" for block in range(400) for role in ROLES]
    recipe = make_recipe(fqns, [fqn for fqn in fqns if draw.random() < 0.5], "mxfp8")
    before = time.process_time()
    assert EXPORTERS[name](form=form).export(recipe)
    assert time.process_time() - before < 4.0
