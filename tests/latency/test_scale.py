"""A small model's table becomes that of the large model that it stands for."""

import json

import pytest

from sensitivity.errors import UserError
from sensitivity.latency.scale import ShapeScale, batch_rows, stand_for
from sensitivity.shapes.table import ShapeTable

from support.latency import TOKENS_AND_MODULATION, linear, table_of


def test_scaled_table() -> None:
    """Token rows, K and N are multiplied, rows of the batch axis keep their M, names and calls
    stay, and the settings say so.
    """
    scaled = stand_for(TOKENS_AND_MODULATION, ShapeScale(factor=16))
    assert [(row.fqn, row.m, row.k, row.n, row.calls) for row in scaled.linears] == [
        ("blocks.0.attn.to_q", 1600, 1024, 1024, 10),
        ("blocks.0.attn.to_k", 1600, 1024, 1024, 10),
        ("blocks.0.norm.linear", 1, 1024, 2048, 10),
    ]
    assert scaled.linears[0].m_values == ((1600, 10),)
    assert scaled.uncalled == ("spare",)
    assert (scaled.settings["stands_for_factor"], scaled.settings["steps"]) == (16, 2)
    assert (
        stand_for(stand_for(TOKENS_AND_MODULATION, ShapeScale(factor=4)), ShapeScale(factor=4))
        == scaled
    )
    assert ShapeTable.from_json(json.loads(json.dumps(scaled.to_json()))) == scaled


def test_scaling_merges_equal_rows() -> None:
    """Where a scaled token M meets the batch's, the calls of both are one entry."""
    scaled = stand_for(
        table_of(linear("mixed", 8, 8, {1: 2, 16: 3}), batch_size=16), ShapeScale(factor=16)
    )
    assert scaled.linears[0].m_values == ((16, 5),)


@pytest.mark.parametrize("factor", [0, -1, 1.5, True])
def test_impossible_scale(factor: float) -> None:
    """A factor must be a whole number from 1 up."""
    with pytest.raises(UserError, match=r"factor is .*; expected a whole number from 1 up"):
        ShapeScale(factor=factor)  # type: ignore[arg-type]


def test_batch_rows() -> None:
    """The batch axis is the batch size, or its double where guidance doubles the batch."""
    assert (
        batch_rows(table_of(linear("a", 8, 8, {4: 1}), linear("b", 8, 8, {64: 1}), batch_size=4))
        == 4
    )
    assert batch_rows(table_of(linear("a", 8, 8, {2: 1}), linear("b", 8, 8, {12288: 1}))) == 2
    assert batch_rows(table_of(linear("b", 8, 8, {64: 1}))) == 1
