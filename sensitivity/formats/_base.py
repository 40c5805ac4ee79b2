"""What does a Linear compute in MXFP8, NVFP4 or FP8, and can this device do it?

Shape rules, torchao configs, exact emulation.

The one importer of torchao and mslk.

**Method.** A format quantizes weight (N, K) and activation (rows, K) to numbers on its grid.
*Native* means torchao's tensor subclasses and the GPU's own GEMM: `native_config`,
`native.quantize_native`. *Emulated* means the same quantized numbers, multiplied elsewhere: block
scales are folded into the codes, which bf16 holds exactly (e2m1 code x e4m3 block scale: at most 2
+ 4 = 6 significant bits; e4m3 code x power of two: 4 bits), the product is accumulated in fp32,
per-tensor and per-row scales and the bias are applied in fp32, and the result is rounded to bf16
**once**. So an emulated output differs from the exact product of the quantized operands by one bf16
rounding and the error of an fp32 sum, whose order is all that a kernel may choose.

**Where the numbers come from.** torchao's own primitives, and equal but faster kernels:
`kernels.py` for activations on the CPU, `triton_kernels.py` on CUDA. In graphs that torch compiles
it is always torchao's (`switch.py` keeps its Linears out of them).

**FP8 on a GPU that has it.** `emulation.as_run_on` gives one that multiplies e4m3 codes with the
GPU's own GEMM, as torchao does when the model is served.

**Conventions.** rows = product of leading axes of the call. NVFP4's activation scale is one number
for the whole call, as in torchao. Weights and activations are bf16. `weight_bytes` counts what
torchao keeps: codes, and block scales in its padded (swizzled) layout, 128 rows x 4 scales a tile.

**Known differences of native kernels from this ideal.** torchao's NVFP4 epilogue
(`_addmm_nvfp4_dispatch`) rounds the product to bf16, rounds the scale to bf16, multiplies (rounds),
adds the bias (rounds): four roundings, and the scale's own error is common to the whole output. FP8
on Hopper accumulates in fewer than 24 bits, the more so with fast accumulation (torchao's default).
MXFP8 adds the bias before its one rounding: no difference.

**Zeros, NaN, inf are torchao's.** A NaN or inf anywhere makes NVFP4's per-tensor scale, and with it
the whole output, NaN. MXFP8: a NaN makes its block NaN; inf stays inf. FP8: either makes NaNs in
its row. And torchao divides by zero: an **all-zero** tensor in NVFP4, an **all-zero row** in FP8
(activation or weight), quantize to NaN, 0 / 0. MXFP8 maps zeros to zeros. Tensors below about 1e-35
in NVFP4 quantize to garbage in torchao (1 / scale overflows), and so they do here.

What it does not do: no timing (emulation never gives a latency), no gradients, no choice of layers,
no fp16.

    fmt = get_format("nvfp4")
    weight = fmt.quantize_weight(linear.weight)                     # once
    y = emulation.emulated_linear(x, weight, linear.bias, fmt)      # (..., K) -> (..., N)
"""

import abc
import functools
import importlib.util
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from torchao.core.config import AOBaseConfig

from sensitivity.core.format_name import FormatName
from sensitivity.errors import FormatError
from sensitivity.formats import cpu_kernels as kernels

EMULATE = "emulate it instead (quality only), or run on a machine that has it"


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedOperand:
    """One side of a quantized product; the numbers that it stands for are values * scale."""

    values: Tensor
    """(rows, K), every value exact in bf16, block scales folded in; dtype bf16, or fp32 where this
    device's GEMM wants it (fp8 on the CPU).
    """
    scale: Tensor | None
    """fp32, applied after the product:

    None (bf16, mxfp8), () per tensor (nvfp4), (rows, 1) per row (fp8).
    """


def _operand(values: Tensor, scale: Tensor) -> QuantizedOperand:
    return QuantizedOperand(values=values, scale=scale)


def _product_fp32(a: Tensor, b: Tensor) -> Tensor:
    """a:

    (rows, K), b: (N, K), exact in bf16, on any device. Returns a @ b.T in fp32, (rows, N),
    accumulated in fp32.
    """
    if a.is_cuda:
        return torch.mm(a, b.t(), out_dtype=torch.float32)
    if is_eager_cpu(a):
        return kernels.product_fp32(a, b)
    return nn.functional.linear(a.float(), b.float())


def _scale_and_round(product: Tensor, scales: tuple[Tensor, ...], bias: Tensor | None) -> Tensor:
    """product:

    (rows, N) fp32; each scale broadcasts to it. Returns bf16(product * scales + bias), fp32
    throughout.
    """
    if scales and _is_eager_cuda(product):
        return cast(
            Tensor,
            _triton().scale_and_round(
                product, scales[0], scales[1].flatten() if len(scales) > 1 else None, bias
            ),
        )
    for scale in scales:
        product = product * scale
    if bias is not None:
        product = product + bias.float()
    return product.bfloat16()


def is_eager_cpu(x: Tensor) -> bool:
    """Whether the fast CPU kernels may run: they look at values, which a compiled graph, a fake
    tensor and a GPU's queue should not.
    """
    return (
        x.device.type == "cpu"
        and not torch.compiler.is_compiling()
        and type(x) in (Tensor, nn.Parameter)
    )


def _is_eager_cuda(x: Tensor) -> bool:
    """Whether the Triton kernels may run: as above, on a GPU."""
    return (
        x.is_cuda
        and not torch.compiler.is_compiling()
        and type(x) in (Tensor, nn.Parameter)
        and has_triton()
    )


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed, as it is with torch's CUDA builds on Linux."""
    return importlib.util.find_spec("triton") is not None


def _triton() -> Any:
    """The module of Triton kernels; importing it needs Triton."""
    from sensitivity.formats import triton_kernels

    return triton_kernels


def _fits_fused(x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> bool:
    """Whether a bf16 GEMM with one rounding does the whole Linear on this machine."""
    return (
        is_eager_cpu(x.values)
        and x.values.dtype == weight.values.dtype == torch.bfloat16
        and (bias is None or bias.dtype == torch.bfloat16)
        and kernels.fused_linear_is_exact()
    )


class Format(abc.ABC):
    """A number format of a Linear. Stateless; `get_format` returns the one instance of each."""

    name: FormatName
    k_multiple: int = 1
    n_multiple: int = 1
    min_capability: tuple[int, int] = (0, 0)

    def refusal(self, *, k: int, n: int, dtype: torch.dtype) -> str | None:
        """Why a Linear (K in_features, N out_features, weights of dtype) stays bf16 by torchao's
        native rules; None if it need not.

        K and N % 16: `torch._scaled_mm` (ATen `_scaled_mm_out_cuda`) wants both axes of its second
        operand, *as stored*, divisible by 16; NVFP4 stores two codes a byte, so its K is % 32,
        although torchao's own check (`_nvfp4_inference_linear_transform`) says 16. MXFP8's K % 32
        is its block. dtype: torchao asserts bf16 (`_mx_inference_linear_transform`; PerRow in
        `_float8_dynamic_activation_float8_weight_quantize_tensor`).
        """
        if dtype != torch.bfloat16:
            return (
                f"weights are {str(dtype).removeprefix('torch.')}; {self.name} takes bfloat16 only"
            )
        if k % self.k_multiple:
            return f"K = {k} is not a multiple of {self.k_multiple}, as {self.name} needs"
        if n % self.n_multiple:
            return f"N = {n} is not a multiple of {self.n_multiple}, as {self.name} needs"
        return None

    @abc.abstractmethod
    def weight_bytes(self, *, k: int, n: int) -> int:
        """Bytes of the stored weight (N, K) with all its scales, in torchao's padded layout."""

    @abc.abstractmethod
    def native_config(self) -> AOBaseConfig:
        """The config for torchao's `quantize_`. Raises FormatError for bf16."""

    def native_refusal(self, device: torch.device) -> str | None:
        """Why `device` cannot run this format natively, with the next step; None if it can.

        The gates are torchao's: `is_sm_at_least_100` and, for fp8, `_check_hardware_support`.
        """
        need = ".".join(map(str, self.min_capability))
        if device.type != "cuda":
            return (
                f"{self.name} runs natively on CUDA of compute capability {need} or higher, and"
                f" this is a {device.type} device: {EMULATE}"
            )
        if not torch.cuda.is_available():
            return (
                f"{self.name} was asked for on {device}, but torch sees no CUDA device: check"
                " `nvidia-smi`, or use device cpu and emulation"
            )
        found = torch.cuda.get_device_capability(device)
        if found < self.min_capability:
            return (
                f"{self.name} needs compute capability {need} or higher, and {device} has"
                f" {found[0]}.{found[1]}: {EMULATE}"
            )
        return None

    @abc.abstractmethod
    def quantize_weight(self, weight: Tensor) -> QuantizedOperand:
        """weight:

        (N, K) bf16. Returns values (N, K) and scale. Raises FormatError on another dtype or a K
        that blocks do not divide.
        """

    @abc.abstractmethod
    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        """x:

        (rows, K) bf16, rows >= 1, already flattened. Returns values (rows, K) and scale. Raises
        FormatError as `quantize_weight`.
        """

    @abc.abstractmethod
    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        """x:

        (rows, K), weight: (N, K), bias: (N,). Returns bf16(x @ weight.T + bias), (rows, N), rounded
        once.
        """

    def _checked(self, x: Tensor, block: int) -> Tensor:
        """x contiguous; FormatError unless it is bf16 and K is a multiple of block."""
        if x.dtype != torch.bfloat16:
            raise FormatError(
                f"{self.name} got a {x.dtype} tensor; it takes torch.bfloat16 only: load the model"
                " with torch_dtype=torch.bfloat16"
            )
        if x.shape[-1] % block:
            raise FormatError(
                f"{self.name} got K = {x.shape[-1]}; K must be a multiple of {block}: leave this"
                " Linear in bf16"
            )
        return x.detach().contiguous()


class BF16(Format):
    """Not quantized: a format like the others, so that callers need no special case."""

    name = FormatName.BF16

    def refusal(self, *, k: int, n: int, dtype: torch.dtype) -> str | None:  # noqa: ARG002 - the contract's signature
        return None

    def weight_bytes(self, *, k: int, n: int) -> int:
        return 2 * n * k

    def native_config(self) -> AOBaseConfig:
        raise FormatError(
            "bf16 has no torchao config, it is a Linear left as it is: leave it out, or choose"
            " mxfp8, nvfp4 or fp8"
        )

    def native_refusal(self, device: torch.device) -> str | None:  # noqa: ARG002 - the contract's signature
        return None

    def quantize_weight(self, weight: Tensor) -> QuantizedOperand:
        return QuantizedOperand(values=weight, scale=None)

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        return QuantizedOperand(values=x, scale=None)

    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        return nn.functional.linear(x.values, weight.values, bias)


def _padded_scales(n: int, scales_per_row: int) -> int:
    """Bytes of one-byte block scales in the GEMM's tiled layout: rows padded to 128, scales a row
    to 4 (torchao `to_blocked`).
    """
    return -(-n // 128) * 128 * (-(-scales_per_row // 4) * 4)
