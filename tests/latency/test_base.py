"""Estimates add up, free and anchored, and what cannot be priced is refused."""

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError, UserError

from support.latency import (
    BF16,
    MXFP8,
    NVFP4,
    TOKENS_AND_MODULATION,
    MicrosecondARow,
    linear,
    table_of,
)


def test_estimate_sums_linears_and_rest() -> None:
    """Seconds are calls x microseconds over all Linears plus the rest; Linears left out of the map
    are bf16.
    """
    estimate = MicrosecondARow().estimate(
        TOKENS_AND_MODULATION, {"blocks.0.attn.to_q": NVFP4, "spare": NVFP4}
    )
    assert estimate.bf16_s == pytest.approx(1e-3 + 10 * (100 + 100 + 1) / 1e6)
    assert estimate.quantized_s == pytest.approx(1e-3 + 10 * (50 + 100 + 1) / 1e6)
    assert estimate.speedup == pytest.approx(estimate.bf16_s / estimate.quantized_s)
    times = [(cost.format, cost.bf16_us, cost.quantized_us) for cost in estimate.linears]
    assert times == [(NVFP4, 100, 50), (BF16, 100, 100), (BF16, 1, 1)]
    assert estimate.note == "measured for toy; a constant"


def test_varying_m_is_a_mean_over_calls() -> None:
    """A Linear whose M varies shows its largest M and the mean time of its calls, so that calls x
    time stays its total.
    """
    cost = (
        MicrosecondARow()
        .estimate(table_of(linear("mixed", 8, 8, {10: 3, 50: 1})), {"mixed": MXFP8})
        .linears[0]
    )
    assert (cost.m, cost.calls, cost.bf16_us, cost.quantized_us) == (50, 4, 20, 10)


def test_anchor_replaces_the_rest() -> None:
    """With the measured bf16 seconds a model of measured Linears keeps what its formats save, and
    the rest is what remains.
    """
    model, formats = MicrosecondARow(), {"blocks.0.attn.to_q": NVFP4}
    free, anchored = (
        model.estimate(TOKENS_AND_MODULATION, formats, bf16_seconds=seconds)
        for seconds in (None, 0.5)
    )
    assert anchored.bf16_s == pytest.approx(0.5)
    assert anchored.bf16_s - anchored.quantized_s == pytest.approx(free.bf16_s - free.quantized_s)
    assert "as the caller measured it" in anchored.note
    assert (free.interval90, free.memory) == (None, None)


def test_linears_outside_blocks_are_priced_as_eager() -> None:
    """Only repeated blocks are compiled: a Linear without a block in its name gets the model's
    eager price, others the compiled one.
    """

    class SlowOutside(MicrosecondARow):
        def eager_us(self, *, m: int, k: int, n: int, format: FormatName) -> float:  # noqa: ARG002
            return 1000.0

    table = table_of(linear("x_embedder", 8, 8, {10: 1}), linear("blocks.0.to_q", 8, 8, {10: 1}))
    assert [cost.bf16_us for cost in SlowOutside().estimate(table, {}).linears] == [1000.0, 10.0]


@pytest.mark.parametrize("seconds", [0.001, 0.0, -1.0, float("nan"), float("inf")])
def test_impossible_anchor(seconds: float) -> None:
    """An anchor shorter than the bf16 Linears, or no number, is the caller's mistake."""
    with pytest.raises(
        UserError,
        match=(
            r"`bf16_seconds`\) takes .* s; expected at least the 0\.00201 s of its Linears alone\."
            r" Give the seconds"
        ),
    ):
        MicrosecondARow().estimate(TOKENS_AND_MODULATION, {}, bf16_seconds=seconds)


def test_unknown_fqns() -> None:
    """A format map with FQNs of another model is refused with their number, the first one and the
    closest known.
    """
    formats = {"blocks.0.attn.to_q": NVFP4, "blocks.0.attn.to_qq": NVFP4, "other": NVFP4}
    message = (
        r"2 FQNs .* first is 'blocks\.0\.attn\.to_qq' \(closest: 'blocks\.0\.attn\.to_q'\);"
        r" expected some of the 4 FQNs"
    )
    with pytest.raises(PatternError, match=message):
        MicrosecondARow().estimate(TOKENS_AND_MODULATION, formats)


def test_nothing_to_price() -> None:
    """A table without a single row is refused instead of giving a speedup of nothing."""
    with pytest.raises(UserError, match="has no Linear call with rows; expected one or more"):
        MicrosecondARow().estimate(table_of(linear("empty", 8, 8, {0: 1})), {})
