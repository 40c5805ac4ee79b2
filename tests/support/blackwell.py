"""A CPU that runs MXFP8 and NVFP4 as a B200 would: torchao's own code, and a fake of its GEMM.

with a_blackwell(monkeypatch): MXFP8 and NVFP4 are native on the device "cpu"; FP8 is not, since its
quantizer needs a GPU. The fake `torch._scaled_mm` decodes codes and swizzled scales as cuBLAS does,
adds up in float64 and rounds once. It fails in the ways that were seen:

- `before_sm100`: torchao asserts when it quantizes.
- `refuses`: cuBLAS has no kernel for a shape.
- `broken_mslk`: MSLK is found, and its kernel cannot be imported.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor
from torchao.prototype.mx_formats import inference_workflow, kernels
from torchao.prototype.mx_formats.kernels import f4_unpacked_to_f32, unpack_uint4
from torchao.prototype.mx_formats.utils import from_blocked, to_blocked

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.formats import mslk
from sensitivity.formats._base import Format
from sensitivity.formats.native_formats import forget_native
from sensitivity.formats.refused_products import forget_refused
from sensitivity.formats.served import format_in

NATIVE = (FormatName.MXFP8, FormatName.NVFP4)
NOT_SUPPORTED = (
    "CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `cublasLtMatmulAlgoGetHeuristic`"
)
Refuses = Callable[[int, int, int, bool], bool]


def _refuse_nothing(_m: int, _k: int, _n: int, _bias: bool) -> bool:
    return False


def decode(codes: Tensor, scale: Tensor) -> Tensor:
    """(rows, K) float64 of codes and their swizzled block scales."""
    is_fp4 = codes.dtype == torch.float4_e2m1fn_x2
    if is_fp4:
        values = f4_unpacked_to_f32(unpack_uint4(codes.view(torch.uint8).contiguous()))
    else:
        values = codes.float()
    block = 16 if is_fp4 else 32
    rows, k = values.shape
    scales = from_blocked(scale.flatten(), rows, k // block).float()
    blocks = values.double().view(rows, -1, block) * scales.double().unsqueeze(-1)
    return blocks.reshape(rows, k)


def scaled_mm(refuses: Refuses) -> Callable[..., Tensor]:
    """A `torch._scaled_mm` for block scales."""

    def multiply(
        a: Tensor,
        b: Tensor,
        scale_a: Tensor,
        scale_b: Tensor,
        *,
        bias: Tensor | None = None,
        out_dtype: torch.dtype,
    ) -> Tensor:
        x, w = decode(a, scale_a), decode(b.t(), scale_b)
        if refuses(len(x), x.shape[1], len(w), bias is not None):
            raise RuntimeError(NOT_SUPPORTED)
        y = x @ w.t()
        return (y if bias is None else y + bias.double()).float().to(out_dtype)

    return multiply


def install_mslk(monkeypatch: pytest.MonkeyPatch, *, broken: bool = False) -> None:
    """Put a package `mslk` in place whose quantizer is the one that is emulated."""

    def quantize(x: Tensor, global_scale: Tensor) -> tuple[Tensor, Tensor]:
        operand = format_in(FormatName.NVFP4, Arithmetic.MSLK).quantize_activation(x)
        amax = x.float().view(len(x), -1, 16).abs().amax(dim=-1, keepdim=True)
        wanted = (amax / 6 * global_scale).nan_to_num(nan=0.0, posinf=torch.inf)
        scale = wanted.clamp(2.0**-16, 448).to(torch.float8_e4m3fn)
        values, sizes = operand.values.float().view(len(x), -1, 16), scale.float()
        codes = torch.where(sizes == 0, 0.0, values / sizes).reshape(x.shape)
        packed = kernels.pack_uint4(kernels.f32_to_f4_unpacked(codes))
        return packed, to_blocked(scale.squeeze(-1))

    module: Any = ModuleType("mslk.quantize.triton.fp4_quantize")
    if not broken:
        module.triton_quantize_nvfp4 = quantize
    for name in ("mslk", "mslk.quantize", "mslk.quantize.triton"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setattr(kernels, "_mslk_available", True)
    monkeypatch.setattr(mslk, "is_available", lambda: True)
    monkeypatch.setattr(mslk, "version", lambda: "1.3.0")


def forget() -> None:
    """Look again for what is native."""
    forget_native()
    forget_refused()


@contextmanager
def a_blackwell(
    monkeypatch: pytest.MonkeyPatch,
    *,
    before_sm100: bool = False,
    refuses: Refuses = _refuse_nothing,
) -> Iterator[None]:
    """Inside, the CPU has MXFP8 and NVFP4."""

    def refusal(self: Format, device: torch.device) -> str | None:
        return None if self.name in NATIVE else f"{self.name} is not native on {device}"

    with monkeypatch.context() as patch:
        patch.setattr(Format, "native_refusal", refusal)
        patch.setattr(inference_workflow, "is_sm_at_least_100", lambda: not before_sm100)
        patch.setattr(torch, "_scaled_mm", scaled_mm(refuses))
        forget()
        try:
            yield
        finally:
            forget()
