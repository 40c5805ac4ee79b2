"""A table lists its shapes once each, and a row has a price or a reason."""

import dataclasses

import pytest
import torch
from torch import nn

from sensitivity.errors import MeasurementError, StoreError
from sensitivity.latency.runtimes import get_runtime
from sensitivity.latency.shape_times import ShapeTime, attention_key, parse_linear, shapes_of
from sensitivity.shapes.recorder import profile_module

from support.latency import (
    ATTENTION,
    BF16,
    FP8,
    IN_AND_OUTSIDE_BLOCKS,
    MACHINE,
    measured_times,
    shape,
)


def test_a_price_lies_between_rested_and_steady() -> None:
    """The price of a row is the geometric mean of both medians; a row that was timed one way has
    that median.
    """
    assert ShapeTime(
        key="x", us=(16.0, 18.0, 99.0), rested_us=(8.0, 1.0, 9.0)
    ).price_us == pytest.approx(12.0)
    assert ShapeTime(key="x", us=(16.0, 18.0, 99.0)).price_us == 18.0


def test_a_run_is_priced_by_the_steady_median() -> None:
    """In a run the GPU is at its power limit, whatever it does when it is rested; a row without
    times says why.
    """
    assert ShapeTime(key="x", us=(16.0, 18.0, 99.0), rested_us=(8.0, 1.0, 9.0)).steady_us == 18.0
    with pytest.raises(MeasurementError, match="out of memory"):
        ShapeTime(key="x", reason="out of memory").steady_us  # noqa: B018


def test_shapes_of_a_table_are_unique_and_complete() -> None:
    """Each (M, K, N, bias) that is called stands once in bf16 and each format; M = 0 is nothing to
    measure.
    """
    found = shapes_of(IN_AND_OUTSIDE_BLOCKS, (FP8, FP8))
    assert set(found) == {
        s
        for f in (BF16, FP8)
        for s in (
            shape(4, 32, 16, f),
            shape(8, 32, 16, f),
            shape(4, 16, 16, f, bias=False, eager=True),
        )
    }
    assert len(found) == 6
    assert shapes_of(profile_module(nn.Linear(32, 16), torch.zeros(2, 32)), ()) == (
        shape(2, 32, 16, eager=True),
    )


def test_a_key_is_read_back_as_its_shape() -> None:
    """Compiled, eager and sibling Linears have keys of their own, and an attention's is none."""
    for found in (shape(4, 32, 16), shape(4, 32, 16, FP8, bias=False, eager=True)):
        assert parse_linear(str(found)) == found
    sibling = dataclasses.replace(shape(4, 32, 16, FP8), sibling=True)
    assert parse_linear(str(sibling)) == sibling
    assert parse_linear(attention_key(ATTENTION)) is None


def test_all_rows_are_in_the_json() -> None:
    """The JSON of all rows holds the machine and every repetition."""
    data = measured_times().to_json()
    assert data["machine"] == MACHINE
    assert [len(row["us"]) for row in data["rows"]] == [3] * 6


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"us": [1.0]}, "key: Field required"),
        ({"key": "a", "us": ["x"]}, r"us\.0: Input should be"),
    ],
)
def test_a_damaged_row_is_an_error_with_a_next_step(row: object, message: str) -> None:
    """A row that no measurement wrote is refused with its field and what to do."""
    with pytest.raises(StoreError, match=rf"{message}.*measure again"):
        ShapeTime.from_json(row)


def test_what_a_runtime_does_not_compile_is_measured_eagerly() -> None:
    """Without compiling every shape is eager and has no sibling; a server's own quantizers count as
    compiled ones.
    """
    eager = shapes_of(IN_AND_OUTSIDE_BLOCKS, (FP8,), get_runtime("torchao-eager"))
    server = shapes_of(IN_AND_OUTSIDE_BLOCKS, (FP8,), get_runtime("server-eager"))
    assert all(shape.eager and not shape.sibling for shape in eager)
    assert not any(shape.eager for shape in server)
    graphs = get_runtime("torchao-graphs")
    assert shapes_of(IN_AND_OUTSIDE_BLOCKS, (FP8,), graphs) == shapes_of(
        IN_AND_OUTSIDE_BLOCKS, (FP8,)
    )
