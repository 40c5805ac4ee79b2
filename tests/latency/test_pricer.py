"""A list is priced as it can run: what a kernel refuses stays bf16, and is said."""

from typing import Any, cast

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.latency.pricer import Pricer

from support.latency import BF16, FP8, TOKENS_AND_MODULATION, MicrosecondARow


class RefusesOneRow(MicrosecondARow):
    """A toy model whose kernels take no single row."""

    def refusal(self, *, m: int, k: int, n: int, bias: bool, format: FormatName) -> str | None:  # noqa: ARG002
        return "refused by the kernel: NO for M=1" if format is FP8 and m == 1 else None


PRICER = Pricer(run=cast(Any, None), table=TOKENS_AND_MODULATION, latency=RefusesOneRow())


def test_a_refused_linear_is_priced_in_bf16() -> None:
    """The list goes on without it: its formats, its price and the reason agree."""
    everything = dict.fromkeys(TOKENS_AND_MODULATION.fqns, FP8)
    priced = PRICER.price("all", everything, refused={"spare": "K = 3"})
    assert dict(priced.refused) == {
        "spare": "K = 3",
        "blocks.0.norm.linear": "refused by the kernel: NO for M=1",
    }
    assert priced.formats["blocks.0.norm.linear"] is BF16
    assert priced.quantized == 2
    # two of M = 100 at 50 us, and one of M = 1 at 1 us, 10 calls each, and 1 ms of rest
    assert priced.estimate.quantized_s == pytest.approx((2 * 50 + 1) * 10e-6 + 1e-3)
    assert PRICER.price("some", {"blocks.0.attn.to_q": FP8}).refused == {}


def test_an_estimate_of_what_cannot_run_says_so() -> None:
    """The model prices what it is asked for, and its note names what would stop."""
    model = RefusesOneRow()
    estimate = model.estimate(TOKENS_AND_MODULATION, {"blocks.0.norm.linear": FP8})
    assert "1 Linears cannot run so, the first is blocks.0.norm.linear: refused" in estimate.note
    assert "cannot run" not in model.estimate(TOKENS_AND_MODULATION, {}).note
