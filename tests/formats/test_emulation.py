"""An emulated Linear is torchao's where torchao emulates, and quantizes a shared input once."""

import pytest
import torch
from torch import nn
from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig
from torchao.quantization import quantize_
from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

from sensitivity.formats import get_format
from sensitivity.formats.emulation import emulated_linear
from sensitivity.formats.mxfp8 import MXFP8
from sensitivity.formats.nvfp4 import NVFP4
from sensitivity.formats.products import fused_linear_is_exact

from support.quantized_values import QUANTIZED, normal, wide


@pytest.mark.skipif(
    not fused_linear_is_exact(),
    reason="this CPU's bf16 GEMM rounds more than once: torchao's emulation does too",
)
@pytest.mark.parametrize("lead", [(1,), (3,), (17,), (256,), (2, 9), (1, 1)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_mxfp8_equals_torchao_emulation(with_bias: bool, lead: tuple[int, ...]) -> None:
    """An MXFP8 Linear is bit-equal to torchao's with KernelPreference.EMULATED."""
    linear = nn.Linear(192, 96, bias=with_bias, dtype=torch.bfloat16)
    fmt = get_format("mxfp8")
    weight = fmt.quantize_weight(linear.weight)
    x = wide(torch.Size(lead).numel(), 192, seed=7, octaves=3).view(*lead, 192)
    found = emulated_linear(x, weight, linear.bias, fmt)
    config = MXDynamicActivationMXWeightConfig(kernel_preference=KernelPreference.EMULATED)
    quantize_(linear, config)
    assert torch.equal(found, linear(x))


def test_bf16_is_the_plain_linear() -> None:
    """The bf16 format changes nothing."""
    x, linear, fmt = normal(2, 5, 48), nn.Linear(48, 24, dtype=torch.bfloat16), get_format("bf16")
    weight = fmt.quantize_weight(linear.weight)
    assert torch.equal(emulated_linear(x, weight, linear.bias, fmt), linear(x))


def test_one_activation_is_quantized_once_and_again_when_it_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """to_q, to_k and to_v share the work on one tensor; another format, a changed tensor and an
    equal but other tensor do not.
    """
    calls: list[str] = []
    for cls in (MXFP8, NVFP4):
        original = cls.quantize_activation
        monkeypatch.setattr(
            cls,
            "quantize_activation",
            lambda self, x, original=original: calls.append(self.name) or original(self, x),
        )
    mx, nv, x = get_format("mxfp8"), get_format("nvfp4"), normal(17, 64)
    for_mx, for_nv = (fmt.quantize_weight(normal(32, 64, seed=1)) for fmt in (mx, nv))
    calls.clear()
    first = [emulated_linear(x, for_mx, None, mx) for _ in range(3)]
    assert calls == ["mxfp8"]
    emulated_linear(x, for_nv, None, nv)
    assert calls == ["mxfp8", "nvfp4"]
    x[3:5].mul_(2)
    changed = emulated_linear(x, for_nv, None, nv)
    assert calls == ["mxfp8", "nvfp4", "nvfp4"]
    assert torch.equal(changed, emulated_linear(x.clone(), for_nv, None, nv))
    assert calls == ["mxfp8", "nvfp4", "nvfp4", "nvfp4"]
    assert torch.equal(first[0], first[2])
    with torch.inference_mode():
        y = normal(17, 64)
        emulated_linear(y, for_mx, None, mx)
        emulated_linear(y, for_mx, None, mx)
    assert calls[-2:] == ["mxfp8", "mxfp8"]


def test_zero_rows_give_the_bias_or_what_torchao_gives() -> None:
    """A zero row gives the bias in MXFP8 and NVFP4; torchao divides by zero, so it gives NaN in
    FP8, as an all-zero call does in NVFP4.
    """
    x, bias = normal(4, 64), normal(32, seed=2)
    x[1] = 0
    out = {
        name: emulated_linear(
            x, get_format(name).quantize_weight(normal(32, 64, seed=1)), bias, get_format(name)
        )
        for name in QUANTIZED
    }
    assert torch.equal(out["mxfp8"][1], bias)
    assert torch.equal(out["nvfp4"][1], bias)
    assert out["fp8"][1].isnan().all()
    assert out["fp8"][[0, 2, 3]].isfinite().all()
    fmt = get_format("nvfp4")
    weight = fmt.quantize_weight(normal(32, 64))
    assert emulated_linear(torch.zeros_like(x), weight, bias, fmt).isnan().all()
