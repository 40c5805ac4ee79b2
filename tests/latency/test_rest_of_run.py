"""What is not a Linear is priced in closed form."""

import dataclasses

import pytest

from sensitivity.latency import PredictedLatency
from sensitivity.latency.constants import BLACKWELL
from sensitivity.latency.devices import get_device
from sensitivity.latency.rest_of_run import REST_COSTS
from sensitivity.shapes.census import ComponentCounts, RunCounts

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
    fixed_s = (BLACKWELL.gemm_ramp_us) / 1e6
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
        5 * 3 * (a_pass_us + BLACKWELL.pass_ramp_us) / 1e6
    )


def counts(component: str, **numbers: int) -> ComponentCounts:
    return ComponentCounts(component=component, calls=1, **numbers)


DENOISER = counts("transformer", linear_flops=10**15, kernels=1000)


def test_a_component_takes_the_longer_of_gpu_and_host(in_a_run: PredictedLatency) -> None:
    """A text encoder of many small kernels is limited by launching them, a decoder by the rate of
    its convolutions, which is far below the peak.
    """
    rest, costs = in_a_run.rest, REST_COSTS
    encoder = counts("text_encoder", linear_flops=10**9, kernels=900)
    assert rest.component_s(encoder) == pytest.approx(900 * costs.kernel_us / 1e6)
    decoder = counts("vae", conv_flops=10**13, kernels=100)
    fixed_s = 100 * (BLACKWELL.pass_ramp_us) / 1e6
    assert rest.component_s(decoder) == pytest.approx(
        10**13 / costs.convolution_flops_per_s + fixed_s
    )


def test_a_call_has_a_rest_of_its_own(in_a_run: PredictedLatency) -> None:
    """Around the components a whole call costs a constant; a denoiser alone does not."""
    table = table_of(linear("blocks.0.a", 64, 64, {8: 1}))
    encoder = counts("text_encoder", kernels=900)
    whole = dataclasses.replace(table, run=RunCounts(components=(encoder, DENOISER)))
    alone = dataclasses.replace(table, run=RunCounts(components=(DENOISER,)))
    rest = in_a_run.rest
    assert rest.others_s(whole) == pytest.approx(
        REST_COSTS.call_us / 1e6 + rest.component_s(encoder)
    )
    assert rest.others_s(alone) == rest.others_s(table) == 0
    assert rest.seconds(whole) - rest.seconds(alone) == pytest.approx(rest.others_s(whole))


@pytest.mark.parametrize(
    ("target", "decode_s"), [("h200", 0.0899), ("b200", 0.117)], ids=["H200", "B200"]
)
def test_decoding_a_picture_is_near_what_was_published(target: str, decode_s: float) -> None:
    """FLUX.1's decoder at 1024 x 1024, eager in bf16: within a third of the published times."""
    decoder = counts("vae", conv_flops=9_890_000_000_000, linear_flops=34_400_000_000, kernels=132)
    decoder = decoder.model_copy(
        update={"eager_bytes": 23_300_000_000, "group_norm_bytes": 7_348_000_000}
    )
    rest = PredictedLatency(get_device(target)).rest
    assert rest.component_s(decoder) == pytest.approx(decode_s, rel=1 / 3)


def test_group_norms_of_a_denoiser_are_plain_kernels(in_a_run: PredictedLatency) -> None:
    """An eager denoiser costs the same whether its bytes are those of group norms or of others."""
    rest = dataclasses.replace(in_a_run.rest, compiled=False)
    table = table_of(linear("blocks.0.a", 64, 64, {8: 1}))
    plain = DENOISER.model_copy(update={"eager_bytes": 10**9})
    norms = plain.model_copy(update={"group_norm_bytes": 10**9})
    runs = (RunCounts(components=(counts,)) for counts in (plain, norms))
    first, second = (rest.seconds(dataclasses.replace(table, run=run)) for run in runs)
    assert first == second > 0
