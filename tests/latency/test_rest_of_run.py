"""What is not a Linear is priced in closed form."""

import pytest

from sensitivity.latency import PredictedLatency
from sensitivity.latency.constants import BLACKWELL
from sensitivity.latency.devices import get_device

from support.latency import linear, table_of


def test_attention_in_closed_form(in_a_run: PredictedLatency) -> None:
    """Text and image of one module attend jointly: 4 x S^2 x width FLOPs a sample at the
    attention's part of the bf16 peak, for each call.
    """
    rows_of = {"to_q": 4096, "add_q_proj": 512, "to_k": 4096, "add_k_proj": 512}
    table = table_of(
        *(
            linear(f"blocks.0.attn.{name}", 3072, 3072, {2 * rows: 28})
            for name, rows in rows_of.items()
        ),
        batch_size=2,
    )
    math_s = 2 * 4 * 4608**2 * 3072 / (2.25e15 * BLACKWELL.attention)
    fixed_s = (BLACKWELL.gemm_ramp_us + BLACKWELL.gap_us) / 1e6
    assert in_a_run.rest.attention_s(table) == pytest.approx(28 * (math_s + fixed_s))


def test_elementwise_shares_the_input_of_siblings(in_a_run: PredictedLatency) -> None:
    """q and k read one tensor: three passes for both, each a read and a write in bf16."""
    table = table_of(*(linear(f"attn.{name}", 4096, 4096, {8192: 5}) for name in ("to_q", "to_k")))
    a_pass_us = (
        4
        * 8192
        * 4096
        / (get_device("b200").bandwidth_bytes_per_s * BLACKWELL.fusion_bandwidth)
        * 1e6
    )
    assert in_a_run.rest.elementwise_s(table) == pytest.approx(
        5 * 3 * (a_pass_us + BLACKWELL.pass_ramp_us + BLACKWELL.gap_us) / 1e6
    )
