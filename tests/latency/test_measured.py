"""Measured times price a run, and what was not measured is named."""

import dataclasses

import pytest

from sensitivity.errors import FormatError, MeasurementError, UserError
from sensitivity.latency.devices import get_device
from sensitivity.latency.measured import MeasuredLatency
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.latency.shape_times import ShapeTime, ShapeTimes, attentions_of, shapes_of
from sensitivity.shapes.census import ComponentCounts, RunCounts
from sensitivity.shapes.table import ShapeTable

from support.latency import (
    ATTENTION,
    BF16,
    FP8,
    IN_AND_OUTSIDE_BLOCKS,
    MACHINE,
    NVFP4,
    Rest,
    linear,
    measured_times,
    shape,
)


def test_a_measured_table_prices_a_run() -> None:
    """Medians x calls, and the rest as predicted: the estimate says both words."""
    model = MeasuredLatency(measured_times(), target="toy", rest=Rest())
    found = model.estimate(IN_AND_OUTSIDE_BLOCKS, {"blocks.0.a": FP8, "blocks.1.b": FP8})
    assert found.source == "measured"
    assert (found.compile_mode, found.runtime) == ("reduce-overhead", "torchao-graphs")
    assert found.bf16_s == pytest.approx(1 + (10 * 60e3 + 60e3 + 2 * 80e3 + 5 * 20e3) / 1e6)
    assert found.quantized_s == pytest.approx(1 + (10 * 30e3 + 30e3 + 2 * 40e3 + 5 * 20e3) / 1e6)
    assert "measured for toy" in found.note
    assert "toy GPU, the rest predicted (everything else)" in found.note
    assert model.linear_us(m=0, k=1, n=1, format=FP8) == 0


def test_siblings_are_priced_by_what_they_add() -> None:
    """Of three Linears on one input in a compiled block, the first pays the quantizing and two what
    a second one was seen to add, never more than a first.
    """
    linears = tuple(linear(f"blocks.0.to_{name}", 32, 64, {4: 1}) for name in "qkv")
    table = ShapeTable(
        model="toy",
        batch_size=1,
        settings={},
        linears=linears,
        uncalled=(),
        shared_inputs=(tuple(linear.fqn for linear in linears),),
    )
    shapes = shapes_of(table, (FP8,))
    assert [(s.format, s.sibling) for s in shapes] == [(BF16, False), (FP8, False), (FP8, True)]
    us = dict(zip(map(str, shapes), (100.0, 70.0, 40.0), strict=True))
    rows = {key: ShapeTime(key=key, us=(value,)) for key, value in us.items()}
    times = ShapeTimes(machine=MACHINE, compile_mode="default", rows=rows)
    model = MeasuredLatency(times, target="toy", rest=PredictedLatency(get_device("h100")))
    assert model.mean_us(linears[0], FP8, readers=3) == pytest.approx((70 + 40 + 40) / 3)
    assert model.mean_us(linears[0], BF16, readers=3) == 100
    rows[str(shapes[2])] = ShapeTime(key=str(shapes[2]), us=(90.0,))
    assert (
        MeasuredLatency(times, target="toy", rest=PredictedLatency(get_device("h100"))).mean_us(
            linears[0], FP8, readers=3
        )
        == 70
    )


def test_measured_attention_takes_the_place_of_the_predicted() -> None:
    """Attentions of the census that were measured cost calls x that; the others stay predicted, and
    the table's census is not changed.
    """
    other = ATTENTION.model_copy(update={"q_len": 9, "calls": 3})
    table = dataclasses.replace(
        IN_AND_OUTSIDE_BLOCKS,
        run=RunCounts(
            components=(ComponentCounts(component="d", calls=1, attention=(ATTENTION, other)),)
        ),
    )
    model = MeasuredLatency(measured_times(attention_us=1e4), target="toy", rest=Rest())
    assert model.rest_s(table) == pytest.approx(1 + 3 * 0.25 + 7 * 0.01)
    assert model.rest_s(IN_AND_OUTSIDE_BLOCKS) == 1.0
    without = MeasuredLatency(measured_times(), target="toy", rest=Rest())
    assert without.rest_s(table) == pytest.approx(1 + 10 * 0.25)
    assert "Linears and attention measured" in model.covers
    assert "attention" not in without.covers
    assert attentions_of(table) == attentions_of(table, components=("d",)) == (ATTENTION, other)
    assert attentions_of(table, components=("e",)) == attentions_of(IN_AND_OUTSIDE_BLOCKS) == ()


def test_a_shape_without_a_time_is_named_when_it_is_priced() -> None:
    """Missing and failed shapes raise with their numbers; formats that the map does not use need
    none.
    """
    times = measured_times()
    broken = str(shape(4, 16, 16, FP8, bias=False, eager=True))
    times = ShapeTimes(
        machine=MACHINE,
        compile_mode="default",
        rows={**times.rows, broken: ShapeTime(key=broken, reason="out of memory")},
    )
    model = MeasuredLatency(times, target="toy", rest=Rest())
    assert model.estimate(IN_AND_OUTSIDE_BLOCKS, {"blocks.0.a": FP8}).speedup > 1
    with pytest.raises(
        MeasurementError,
        match=r"eager-linear m=4 k=16 n=16 bias=0 fp8 has no time \(out of memory\)",
    ):
        model.estimate(IN_AND_OUTSIDE_BLOCKS, {"c": FP8})
    with pytest.raises(
        MeasurementError,
        match=(
            "M=4 K=32 N=16 in nvfp4 was not measured on toy GPU; expected one of the 6 shapes that"
            " were"
        ),
    ):
        model.estimate(IN_AND_OUTSIDE_BLOCKS, {"blocks.0.a": NVFP4})


def test_linears_outside_blocks_have_times_of_their_own() -> None:
    """A model prices each Linear by where it stands."""
    us = {str(shape(4, 32, 16)): 10.0, str(shape(4, 32, 16, eager=True)): 30.0}
    rows = {key: ShapeTime(key=key, us=(value,)) for key, value in us.items()}
    times = ShapeTimes(machine=MACHINE, compile_mode="default", rows=rows)
    model = MeasuredLatency(times, target="toy", rest=Rest())
    assert model.linear_us(m=4, k=32, n=16, format=BF16) == 10
    assert model.eager_us(m=4, k=32, n=16, format=BF16) == 30


def test_a_format_that_the_gpu_lacks_is_no_missing_measurement() -> None:
    """Where the hardware has no such format, the message does not ask for a measurement."""
    rest = PredictedLatency(get_device("h100"))
    model = MeasuredLatency(measured_times(), target="h100", rest=rest)
    with pytest.raises(FormatError, match="h100 has no nvfp4; it has bf16, fp8"):
        model.estimate(IN_AND_OUTSIDE_BLOCKS, {"blocks.0.a": NVFP4})


def test_an_anchor_scales_linears_and_rest_alike() -> None:
    """A measured total within a factor of 2 of the parts' sum corrects both; another is refused."""
    model = MeasuredLatency(measured_times(), target="toy", rest=Rest())
    free = model.estimate(IN_AND_OUTSIDE_BLOCKS, {"c": FP8})
    anchored = model.estimate(IN_AND_OUTSIDE_BLOCKS, {"c": FP8}, bf16_seconds=1.5 * free.bf16_s)
    assert anchored.bf16_s == pytest.approx(1.5 * free.bf16_s)
    assert anchored.speedup == pytest.approx(free.speedup)
    with pytest.raises(UserError, match=r"`bf16_seconds`\) takes .* within a factor of 2"):
        model.estimate(IN_AND_OUTSIDE_BLOCKS, {"c": FP8}, bf16_seconds=3 * free.bf16_s)


def test_what_a_kernel_refused_is_known_before_it_is_priced() -> None:
    """A row without times gives its reason, with and without a bias apart; a measured row none; and
    what was not tried is what the model of the rest knows.
    """
    refused = "refused by the kernel: CUBLAS_STATUS_NOT_SUPPORTED for M=14 K=12288 N=3072 with a"
    rows = [
        ShapeTime(key=str(shape(14, 12288, 3072, FP8)), reason=refused),
        ShapeTime(key=str(shape(14, 12288, 3072, FP8, bias=False)), us=(9.0,)),
        ShapeTime(key=str(shape(14, 12288, 3072)), us=(10.0,)),
        ShapeTime(key=str(shape(1, 12288, 3072, FP8)), us=(8.0,)),
    ]
    times = ShapeTimes(machine=MACHINE, compile_mode="default", rows={row.key: row for row in rows})
    model = MeasuredLatency(times, target="h100", rest=PredictedLatency(get_device("h100")))
    sizes = {"k": 12288, "n": 3072, "format": FP8}
    assert model.refusal(m=14, bias=True, **sizes) == refused
    assert model.refusal(m=14, bias=False, **sizes) is None
    assert model.refusal(m=14, bias=True, **sizes | {"format": BF16}) is None
    assert model.refusal(m=1, bias=True, **sizes) is None, "what was measured counts more"
    assert str(model.refusal(m=2, bias=True, **sizes)).startswith("refused by the kernel")
    varying = linear("blocks.0.b", 12288, 3072, {14: 1, 512: 3})
    assert model.refuses(varying, FP8) == refused
    assert model.refuses(linear("blocks.0.b", 12288, 3072, {512: 3}), FP8) is None
