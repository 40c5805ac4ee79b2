"""On a measured target, measured shapes cost what they took there, and all else its fit."""

import dataclasses
import json
from pathlib import Path

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.latency import DEVICES, PredictedLatency, get_device
from sensitivity.latency.devices import device_of_target
from sensitivity.latency.runtimes import REFERENCE_US, runtime_of
from sensitivity.latency.shape_times import attention_key
from sensitivity.latency.targets.measured_shapes import MeasuredShapes
from sensitivity.latency.targets.target_fit import FEWEST_ROWS, fit_rows, fit_target
from sensitivity.latency.targets.target_latency import TargetLatency, predicted_latency
from sensitivity.shapes.census import ComponentCounts, RunCounts

from support.latency import ATTENTION, BF16, FP8, linear, table_of
from support.targets import make_target, target_data

SHAPE = {"m": 512, "k": 3072, "n": 3072}


def _row(key: str, us: float) -> dict[str, object]:
    return {"key": key, "us": [us], "rested_us": [us]}


def model(*rows: dict[str, object], **changes: object) -> TargetLatency:
    """An H100 on which only these rows were measured."""
    target = make_target(shapes=[], **changes)
    target = type(target).model_validate(target.to_json() | {"rows": list(rows)})
    found = predicted_latency(device_of_target(target))
    assert isinstance(found, TargetLatency)
    return found


def test_measured_shapes_cost_what_they_took() -> None:
    """A shape has its measured time in each format; a sibling never costs more than the Linear."""
    priced = model(
        _row("linear m=512 k=3072 n=3072 bias=0 bf16", 99.0),
        _row("linear m=512 k=3072 n=3072 bias=1 bf16", 20.0),
        _row("linear m=512 k=3072 n=3072 bias=1 fp8", 15.0),
        _row("sibling-linear m=512 k=3072 n=3072 bias=1 fp8", 16.0),
        _row("eager-linear m=512 k=3072 n=3072 bias=1 bf16", 25.0),
    )
    assert priced.linear_us(**SHAPE, format=BF16) == pytest.approx(20.0)
    assert priced.linear_us(**SHAPE, format=FP8) == pytest.approx(15.0)
    assert priced.sibling_us(**SHAPE, format=FP8) == pytest.approx(15.0)
    assert priced.eager_us(**SHAPE, format=BF16) == pytest.approx(25.0)
    assert priced.linear_us(m=0, k=3072, n=3072, format=FP8) == 0.0
    assert (priced.source, priced.target) == ("predicted", "my-h100")


def test_what_was_not_measured_is_predicted() -> None:
    """An unknown shape has the predicted time; a format that was not measured has the predicted
    ratio to the measured bf16 time; a time without bf16 beside it does not count.
    """
    plain = PredictedLatency(get_device("h100"))
    priced = model(
        _row("linear m=512 k=3072 n=3072 bias=1 bf16", 20.0),
        _row("linear m=64 k=3072 n=3072 bias=1 fp8", 1.0),
    )
    other = {"m": 4096, "k": 3072, "n": 3072}
    assert priced.linear_us(**other, format=FP8) == plain.linear_us(**other, format=FP8)
    ratio = plain.linear_us(**SHAPE, format=FP8) / plain.linear_us(**SHAPE, format=BF16)
    assert priced.linear_us(**SHAPE, format=FP8) == pytest.approx(20.0 * ratio)
    alone = {"m": 64, "k": 3072, "n": 3072}
    assert priced.linear_us(**alone, format=FP8) == plain.linear_us(**alone, format=FP8)


def test_the_estimate_says_how_many_linears_were_measured() -> None:
    """The note and the record count Linears all of whose calls were measured in their format, and
    say where; the source stays predicted. Attention counts as measured.
    """
    run = RunCounts(components=(ComponentCounts(component="t", calls=1, attention=(ATTENTION,)),))
    table = table_of(
        linear("blocks.0.a", 3072, 3072, {512: 10}),
        linear("blocks.0.b", 3072, 3072, {512: 10, 64: 1}),
        linear("c", 3072, 3072, {512: 1}),
    )
    table = dataclasses.replace(table, run=run, components=("t",))
    rows = [
        _row("linear m=512 k=3072 n=3072 bias=1 bf16", 20.0),
        _row("linear m=512 k=3072 n=3072 bias=1 fp8", 15.0),
    ]
    priced = model(*rows)
    found = priced.estimate(table, {"blocks.0.a": FP8})
    assert found.source == "predicted"
    assert found.measured_linears == 1
    assert "1 of 3 Linears as measured elsewhere (NVIDIA H100, November 2026)" in found.note
    assert found.to_json()["measured_linears"] == 1
    default = TargetLatency(priced.device, compile_mode="default").estimate(table, {})
    assert "(NVIDIA H100, November 2026, in compile mode reduce-overhead)" in default.note
    assert found.linears[0].quantized_us == pytest.approx(15.0)
    slow = model(*rows, _row(attention_key(ATTENTION), 1e6))
    assert slow.rest_s(table) == pytest.approx(priced.rest_s(table) + 7.0, rel=1e-3)


def test_refusals_of_the_target_count() -> None:
    """A shape that was refused there is refused here, with the kernel's words."""
    refusal = {**SHAPE, "bias": True, "format": "fp8", "reason": "no kernel"}
    priced = model(refusals=[refusal])
    assert priced.refusal(**SHAPE, bias=True, format=FP8) == "no kernel"
    assert priced.refusal(**SHAPE, bias=False, format=FP8) is None


def test_a_fit_recovers_what_made_the_rows() -> None:
    """Constants fitted to rows of a changed chip predict other shapes; too few rows give none."""
    changed = {"gemm_ramp_us": 4.0, "fp8_matmul": 0.75}
    target = make_target(constants=changed)
    fit = fit_target(target)
    assert fit is not None
    assert fit.errors["total_median"] < 0.02
    assert fit.constants["fp8_matmul"] == pytest.approx(0.75, rel=0.05)
    assert len(fit.samples) > 20
    device = device_of_target(target.model_copy(update={"kernels": fit}))
    assert device.calibrated
    truth = PredictedLatency(
        device, constants=get_device("h100").kernels.replaced(changed)
    ).linear_us(m=2048, k=6144, n=6144, format=FP8)
    found = predicted_latency(device).linear_us(m=2048, k=6144, n=6144, format=FP8)
    assert found == pytest.approx(truth, rel=0.05)
    few = make_target(shapes=[(512, 3072, 3072)])
    assert len(list(fit_rows(few))) < FEWEST_ROWS
    assert fit_target(few) is None


def test_a_target_file_prices_as_its_chip_by_name(tmp_path: Path) -> None:
    """A path that ends in .json is a device; without its own fit it has its chip's."""
    path = tmp_path / "my-h100.json"
    path.write_text(json.dumps(target_data()), encoding="utf-8")
    device = get_device(str(path))
    assert device.name == "my-h100"
    assert device.peaks_flops_per_s == get_device("h100").peaks_flops_per_s
    assert device.calibrated == DEVICES["h100"].calibrated
    shapes = device.measured
    assert isinstance(shapes, MeasuredShapes)
    assert shapes.has(**SHAPE, format=FormatName.FP8, kind="compiled")
    assert not shapes.has(m=7, k=7, n=7, format=FormatName.FP8, kind="compiled")


def test_the_host_is_the_one_that_launched_there() -> None:
    """Launch costs of the file scale what launching costs; without them it is the chip's host."""
    slow = {name: 2 * us for name, us in REFERENCE_US.items()}
    target = make_target(shapes=[], host=slow)
    assert device_of_target(target).host_factor == pytest.approx(2.0)
    assert predicted_latency(device_of_target(target)).runtime.host.call_us == pytest.approx(
        2 * runtime_of("reduce-overhead").host.call_us
    )
    without = device_of_target(make_target(shapes=[]))
    assert without.host_factor == DEVICES["h100"].host_factor


def test_measured_shapes_are_known_better() -> None:
    """The interval of a run whose shapes were measured is narrower, and holds the speedup."""
    table = table_of(linear("blocks.0.a", 3072, 12288, {4096: 10}))
    formats = {"blocks.0.a": FP8}
    target = make_target(shapes=[(4096, 3072, 12288)])
    measured = predicted_latency(device_of_target(target)).estimate(table, formats)
    bare = target.model_copy(update={"rows": ()})
    predicted = predicted_latency(device_of_target(bare)).estimate(table, formats)
    assert measured.interval90 is not None
    assert predicted.interval90 is not None
    low, high = measured.interval90
    assert low < measured.speedup < high
    assert high - low < predicted.interval90[1] - predicted.interval90[0]
