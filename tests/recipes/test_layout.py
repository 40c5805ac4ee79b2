"""A recipe's file: strict JSON of the same data, one line for what may change alone."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensitivity.recipes.layout import laid_out

from support.two_blocks import LAYERS, two_block_recipe

TREES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=20,
)


@given(TREES)
def test_it_is_the_same_data(data: Any) -> None:
    """Whatever the data, the text reads back as it."""
    assert json.loads(laid_out(data)) == data


def test_a_changed_linear_is_a_changed_line() -> None:
    """Two recipes that differ in one Linear differ in its line alone: each Linear and each pattern
    has one, and the values of many prompts have one.
    """
    layers = {f"{fqn}.{i}": name for i in range(20) for fqn, name in LAYERS.items()}
    one, other = (
        two_block_recipe(layers=layers | {"head.19": name}, patterns=[])
        for name in ("mxfp8", "nvfp4")
    )
    lines, others = one.to_json().splitlines(), other.to_json().splitlines()
    assert len(lines) == len(others)
    changed = [pair for pair in zip(lines, others, strict=True) if pair[0] != pair[1]]
    assert changed == [('    "head.19": "mxfp8"', '    "head.19": "nvfp4"')]
    assert len(laid_out({"per_prompt": [i / 1000 for i in range(100)]}).splitlines()) == 3


def test_numbers_that_json_lacks_are_refused() -> None:
    """NaN and infinity are no JSON."""
    with pytest.raises(ValueError, match="not JSON compliant"):
        laid_out({"a": float("nan")})
