"""On a GPU, every runtime computes what the eager denoiser does, with new inputs too."""

from collections.abc import Iterator

import pytest
import torch

from sensitivity.core.format_name import FormatName
from sensitivity.formats.native import quantize_native
from sensitivity.formats.registry import get_format
from sensitivity.latency.runtimes import RUNTIMES
from sensitivity.latency.timing.running import running
from sensitivity.latency.timing.torch_settings import preserved_settings

from support.small_denoisers import TwoKinds, two_kinds

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]

RUNNABLE = [name for name, runtime in RUNTIMES.items() if not runtime.fused_quantizers]


@pytest.fixture(autouse=True)
def _fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    with preserved_settings(), torch.no_grad():
        yield
    torch._dynamo.reset()


def _denoiser(*, quantized: bool) -> TwoKinds:
    denoiser = two_kinds().cuda()
    if quantized:
        refusal = get_format(FormatName.FP8).native_refusal(torch.device("cuda"))
        if refusal is not None:
            pytest.skip(refusal)
        names = [f"gated_blocks.{i}.{name}" for i in range(3) for name in ("gate", "linear")]
        quantize_native(denoiser, dict.fromkeys(names, FormatName.FP8))
    return denoiser


@pytest.mark.parametrize("quantized", [False, True], ids=["bf16", "fp8"])
@pytest.mark.parametrize("name", RUNNABLE)
def test_every_runtime_computes_the_same(name: str, quantized: bool) -> None:
    """Calls after the first replay what was captured, with the inputs of their own; outputs that
    are kept do not change.
    """
    denoiser = _denoiser(quantized=quantized)
    inputs = [torch.randn(32, 16, device="cuda", dtype=torch.bfloat16) for _ in range(4)]
    expected = [denoiser(x) for x in inputs]
    with running(denoiser, RUNTIMES[name]) as call:
        outputs = [call(x) for x in inputs]
        again = [call(x) for x in inputs]
    for found, repeated, eager in zip(outputs, again, expected, strict=True):
        assert torch.equal(found, repeated)
        torch.testing.assert_close(found, eager, rtol=0.05, atol=0.05)
    torch.testing.assert_close(denoiser(inputs[0]), expected[0])
