"""The contract of `LatencyModel`, for every implementation.

A new model is added to `CASES` with a table whose shapes it can price.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError, PatternError, UserError
from sensitivity.latency import LatencyModel, PredictedLatency, get_device
from sensitivity.latency.devices import device_of_target
from sensitivity.latency.measured import MeasuredLatency
from sensitivity.latency.targets.target_latency import predicted_latency
from sensitivity.shapes.table import ShapeTable

from support.latency import (
    BF16,
    FP8,
    IN_AND_OUTSIDE_BLOCKS,
    NVFP4,
    TOKENS_AND_MODULATION,
    MicrosecondARow,
    linear,
    measured_times,
    table_of,
)
from support.targets import make_target


@dataclass(frozen=True)
class Case:
    """A model, and a run that it can price.

    Attributes:
        make: makes the model.
        table: the run.
        format: a format that the model can price on the table's shapes.
        lacks: a format that the target cannot compute in; None if it has all.
    """

    make: Callable[[], LatencyModel]
    table: ShapeTable
    format: FormatName
    lacks: FormatName | None = None


CASES = {
    "predicted": Case(lambda: PredictedLatency(get_device("b200")), TOKENS_AND_MODULATION, NVFP4),
    "predicted, isolated": Case(
        lambda: PredictedLatency(get_device("b200"), isolated=True), IN_AND_OUTSIDE_BLOCKS, FP8
    ),
    "predicted, not fitted": Case(
        lambda: PredictedLatency(get_device("h100"), compile_mode="default"),
        TOKENS_AND_MODULATION,
        FP8,
        lacks=NVFP4,
    ),
    "predicted, measured elsewhere": Case(
        lambda: predicted_latency(device_of_target(make_target("h100"))),
        TOKENS_AND_MODULATION,
        FP8,
        lacks=NVFP4,
    ),
    "measured": Case(
        lambda: MeasuredLatency(
            measured_times(), target="h100", rest=PredictedLatency(get_device("h100"))
        ),
        IN_AND_OUTSIDE_BLOCKS,
        FP8,
        lacks=NVFP4,
    ),
    "with the defaults of the base": Case(MicrosecondARow, TOKENS_AND_MODULATION, NVFP4),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def model(case: Case) -> LatencyModel:
    return case.make()


def quantized(case: Case) -> dict[str, FormatName]:
    """Every Linear of the table in the case's format."""
    return {row.fqn: case.format for row in case.table.linears}


def test_it_says_what_it_prices(model: LatencyModel) -> None:
    """Target, source, compile mode and a clause on what is covered are there."""
    assert model.target
    assert model.covers
    assert model.source in ("predicted", "measured")
    assert model.compile_mode in ("reduce-overhead", "default")


def test_a_call_takes_time_and_none_takes_none(case: Case, model: LatencyModel) -> None:
    """A call with rows takes more than 0 us, compiled or eager; one without rows takes 0."""
    for row in case.table.linears:
        for name in (BF16, case.format):
            price = model.linear_us if row.block else model.eager_us
            assert price(m=row.m, k=row.k, n=row.n, format=name) > 0
            for free in (model.linear_us, model.eager_us, model.sibling_us):
                assert free(m=0, k=row.k, n=row.n, format=name) == 0


def test_a_sibling_costs_no_more_than_the_first(case: Case, model: LatencyModel) -> None:
    """One more Linear on a quantized input saves or costs the same, and bf16 saves nothing."""
    for row in case.table.linears:
        if not row.block:
            continue
        shape = {"m": row.m, "k": row.k, "n": row.n}
        first_us = model.linear_us(**shape, format=case.format)
        assert 0 < model.sibling_us(**shape, format=case.format) <= first_us
        alone_us, three_us = (
            model.call_us(**shape, format=BF16, compiled=True, readers=readers)
            for readers in (1, 3)
        )
        assert alone_us == three_us == model.linear_us(**shape, format=BF16)


def test_a_format_is_supported_or_refused_with_a_reason(case: Case, model: LatencyModel) -> None:
    """`supports`, `check_format` and prices agree; a refusal names the formats that there are."""
    for name in (BF16, case.format):
        assert model.supports(name)
        model.check_format(name)
    if case.lacks is None:
        assert all(model.supports(name) for name in FormatName)
        return
    assert not model.supports(case.lacks)
    reason = rf"{model.target} has no {case.lacks.value}; it has bf16, .*Choose one of these"
    with pytest.raises(FormatError, match=reason):
        model.check_format(case.lacks)
    formats = {row.fqn: case.lacks for row in case.table.linears}
    with pytest.raises(FormatError, match=reason):
        model.estimate(case.table, formats)


def test_totals_are_linears_and_rest(case: Case, model: LatencyModel) -> None:
    """Calls x time over the rows, plus the rest, in bf16 and quantized; the rest is the same."""
    estimate = model.estimate(case.table, quantized(case))
    rest_s = model.rest_s(case.table)
    assert [cost.fqn for cost in estimate.linears] == [row.fqn for row in case.table.linears]
    for total_s, times_us in (
        (estimate.bf16_s, [cost.bf16_us for cost in estimate.linears]),
        (estimate.quantized_s, [cost.quantized_us for cost in estimate.linears]),
    ):
        linears_us = sum(
            us * cost.calls for us, cost in zip(times_us, estimate.linears, strict=True)
        )
        assert total_s == pytest.approx(linears_us / 1e6 + rest_s)
    assert estimate.speedup == estimate.bf16_s / estimate.quantized_s
    assert {cost.format for cost in estimate.linears} == {case.format}


def test_without_formats_nothing_changes(case: Case, model: LatencyModel) -> None:
    """Linears that a map leaves out are bf16: both totals are equal, and no reason is given."""
    estimate = model.estimate(case.table, {})
    assert (estimate.quantized_s, estimate.speedup) == (estimate.bf16_s, 1.0)
    assert {(cost.format, cost.why) for cost in estimate.linears} == {(BF16, "")}
    assert estimate.interval90 in (None, (1.0, 1.0))


def test_an_estimate_says_where_it_comes_from(case: Case, model: LatencyModel) -> None:
    """Target, source, batch size and compile mode are the model's and the table's; the note begins
    with source and target.
    """
    estimate = model.estimate(case.table, quantized(case))
    assert (estimate.target, estimate.source) == (model.target, model.source)
    assert (estimate.batch_size, estimate.compile_mode) == (
        case.table.batch_size,
        model.compile_mode,
    )
    assert estimate.note.startswith(f"{model.source} for {model.target}; ")
    json.dumps(estimate.to_json(), allow_nan=False)


def test_an_interval_holds_the_speedup(case: Case, model: LatencyModel) -> None:
    """A model that states an interval states one that holds its own speedup, the same each time."""
    estimate = model.estimate(case.table, quantized(case))
    if estimate.interval90 is not None:
        low, high = estimate.interval90
        assert low <= estimate.speedup <= high
    assert case.make().estimate(case.table, quantized(case)) == estimate


def test_an_anchor_is_the_total(case: Case, model: LatencyModel) -> None:
    """With measured bf16 seconds the bf16 total is these, and the note says so."""
    anchor = 1.01 * model.estimate(case.table, {}).bf16_s
    estimate = model.estimate(case.table, quantized(case), bf16_seconds=anchor)
    assert estimate.bf16_s == pytest.approx(anchor)
    assert "as the caller measured it" in estimate.note


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_an_impossible_anchor_is_refused(case: Case, model: LatencyModel, seconds: float) -> None:
    """Seconds that no run takes are refused, with the field that they were given in."""
    with pytest.raises(UserError, match=r"`bf16_seconds`.* expected .*leave `bf16_seconds` out"):
        model.estimate(case.table, {}, bf16_seconds=seconds)


def test_foreign_names_are_refused(case: Case, model: LatencyModel) -> None:
    """A format map of another model is refused; Linears that were never called may stand in it."""
    with pytest.raises(PatternError, match="1 FQNs of the format map are no Linear of 'toy'"):
        model.estimate(case.table, {"of.another.model": case.format})
    uncalled = dict.fromkeys(case.table.uncalled, case.format)
    assert model.estimate(case.table, uncalled).speedup == 1.0


def test_a_run_without_rows_is_refused(model: LatencyModel) -> None:
    """There is no speedup of nothing."""
    with pytest.raises(UserError, match="has no Linear call with rows; expected one or more"):
        model.estimate(table_of(linear("empty", 8, 8, {0: 1})), {})
