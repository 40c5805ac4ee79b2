"""Quantized weights are plain tensors to the compiler, and compute what they did."""

import torch
from torch import nn
from torch._dynamo.testing import CompileCounter
from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig
from torchao.quantization import quantize_
from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

from sensitivity.formats.plain_weights import PlainLinear, plain_weights


def quantized() -> nn.Sequential:
    """Two Linears in MXFP8, of which one has a bias, and a plain one."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(32, 64), nn.Linear(64, 64, bias=False), nn.Linear(64, 8))
    module = module.bfloat16().requires_grad_(False)
    config = MXDynamicActivationMXWeightConfig(kernel_preference=KernelPreference.EMULATED)
    quantize_(module, config, filter_fn=lambda _, fqn: fqn in ("0", "1"))
    return module


@torch.no_grad()
def test_plain_weights_compute_the_same() -> None:
    """Eagerly and traced, with one graph for two modules of one kind; the Linears come back."""
    torch._dynamo.reset()
    first, second = quantized(), quantized()
    x = torch.randn(4, 32).bfloat16()
    own, expected = list(first), first(x)
    counter = CompileCounter()
    with plain_weights(nn.ModuleList([first, second])):
        assert [type(child) for child in first] == [PlainLinear, PlainLinear, nn.Linear]
        assert torch.equal(first(x), expected)
        for module in (first, second):
            call = torch.compile(module, fullgraph=True, dynamic=False, backend=counter)
            assert torch.equal(call(x), expected)
        assert counter.frame_count == 1
        assert list(first[0].state_dict()) == ["bias"]
    assert list(first) == own
    torch._dynamo.reset()
