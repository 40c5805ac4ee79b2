"""What is a number format, and what does a Linear compute in it?

`Format` is the contract: the shapes that it takes, torchao's config for it, and exact emulation.

**Method.** The arithmetic is that of eager torchao (`served` has others). A format quantizes the
weight (N, K) and the activation (rows, K) to numbers on its grid. *Native* execution uses torchao's
tensor subclasses and the GPU's own GEMM (`native.quantize_native`). *Emulated* execution multiplies
the same quantized numbers without that GEMM. Block scales are folded into the codes, and bf16 holds
the results exactly: an e2m1 code times an e4m3 block scale has at most 2 + 4 = 6 significant bits,
an e4m3 code times a power of two has 4. The product is accumulated in fp32, and INT8's in int32.
Per-tensor scales, per-row scales and the bias are applied in fp32. The result is rounded to bf16
**once**. So an emulated output differs from the exact product of the quantized operands by one bf16
rounding and by the error of an fp32 sum. A kernel chooses the order of that sum and nothing else.

**Where the numbers come from.** From torchao's own primitives, or from faster kernels with equal
results: `cpu_kernels` for activations on the CPU, `triton_kernels` on CUDA. `kernel_choice` says
which may run. In graphs that torch compiles it is always torchao's primitives; `switch` keeps its
Linears out of such graphs.

**On a GPU that has the format** `emulation.as_run_on` returns one whose products are those of the
kernels that serve a model there: the GPU's own FP8 GEMM (`fp8.HardwareFP8`), or torchao's tensors
(`torchao_linear`). `native_formats` says where.

**Conventions.** rows is the product of the leading axes of the call. NVFP4's activation scale is
one number for the whole call, as in torchao. Weights and activations are bf16. `weight_bytes`
counts what torchao stores: codes, and block scales in its padded (swizzled) layout, 128 rows x 4
scales a tile.

**Where runtimes differ from this ideal.** torchao's NVFP4 epilogue (`_addmm_nvfp4_dispatch`) rounds
four times: the product, the scale, their product, and the sum with the bias. The error of the
rounded scale is common to the whole output. Compiled torchao keeps FP8's row scales in fp32, and
MSLK quantizes NVFP4 with another least block scale. `served` has these arithmetics. FP8 on Hopper
accumulates in fewer than 24 bits, and in fewer still with fast accumulation, torchao's default.
MXFP8 adds the bias before its only rounding, so it does not differ.

**Zeros, NaN and inf behave as in torchao.** A NaN or inf anywhere makes NVFP4's per-tensor scale
NaN, and with it the whole output. In MXFP8 a NaN makes its block NaN, and inf stays inf. In FP8
either makes NaNs in its row. torchao divides by zero: an **all-zero** tensor in NVFP4 and an
**all-zero row** in FP8 (activation or weight) quantize to NaN, 0 / 0. MXFP8 maps zeros to zeros.
Tensors below about 1e-35 quantize to garbage in torchao's NVFP4 (1 / scale overflows), and here
too. INT8 maps zeros to zeros, `fp8-lb` an activation's row of zeros, `nvfp4-4o6` a weight of zeros.

**Variants** stand on another format and change what it quantizes or multiplies (`variant`).
`linear_a16` multiplies the quantized weight with an activation that is not quantized (W x A16): for
weight-only formats, and for edge steps of a `StepPolicy`.

What it does not do: timing (emulation never gives a latency), gradients, the choice of layers,
fp16.

    fmt = get_format("nvfp4")
    weight = fmt.quantize_weight(linear.weight)                     # once
    y = emulation.emulated_linear(x, weight, linear.bias, fmt)      # (..., K) -> (..., N)
"""

import abc
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchao.core.config import AOBaseConfig
from torchao.quantization import quantize_

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.core.kernels import Kernels
from sensitivity.errors import FormatError
from sensitivity.formats import products

EMULATE = "emulate it instead (quality only), or run on a machine that has it"


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizedOperand:
    """One side of a quantized product. It stands for the numbers values * scale.

    Attributes:
        values: (rows, K), each exact in bf16, block scales folded in. dtype bf16, or fp32 where the
            device's GEMM needs it (fp8 on the CPU), or int8.
        scale: fp32, applied after the product: None (bf16, mxfp8), () per tensor (nvfp4) or
            (rows, 1) per row (fp8, int8).
    """

    values: Tensor
    scale: Tensor | None

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The plain tensors that it is stored in: those of torchao's tensor, if it is one."""
        if hasattr(self.values, "__tensor_flatten__"):
            names, _ = self.values.__tensor_flatten__()
            return tuple(getattr(self.values, name) for name in names)
        return (self.values,) if self.scale is None else (self.values, self.scale)

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(part.nbytes for part in self.parts)

    def is_finite(self) -> Tensor:
        """() bool on the operand's device: no code and no scale is NaN or inf."""
        return torch.stack([_is_finite(part) for part in self.parts]).all()


class Format(abc.ABC):
    """A number format of a Linear. Stateless; `get_format` returns the one instance of each.

    Attributes:
        name: the format's name.
        arithmetic: the runtime whose numbers it computes (`served`).
        kernels: whether its products are those of the kernels that serve a model on this GPU.
        weight_kind: what its quantized weights are; formats of one name and kind share them.
        k_multiple: what K must be a multiple of, natively.
        n_multiple: what N must be a multiple of, natively.
        min_capability: the lowest CUDA compute capability that runs it natively.
    """

    name: FormatName
    arithmetic: Arithmetic = Arithmetic.EAGER
    kernels: Kernels = Kernels.EMULATED
    weight_kind: str = "values"
    k_multiple: int = 1
    n_multiple: int = 1
    min_capability: tuple[int, int] = (0, 0)

    def refusal(self, *, k: int, n: int, dtype: torch.dtype) -> str | None:
        """Why torchao's native rules keep a Linear in bf16; None if the format takes it.

        K and N % 16: `torch._scaled_mm` (ATen `_scaled_mm_out_cuda`) needs both axes of its second
        operand, *as stored*, divisible by 16. NVFP4 stores two codes a byte, so its K is % 32,
        although torchao's own check (`_nvfp4_inference_linear_transform`) says 16. MXFP8's K % 32
        is its block. dtype: torchao asserts bf16 (`_mx_inference_linear_transform`; PerRow in
        `_float8_dynamic_activation_float8_weight_quantize_tensor`).

        Args:
            k: in_features.
            n: out_features.
            dtype: of the weight.
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

    def quantize_linear(self, linear: nn.Linear) -> None:
        """Turn a Linear into torchao's in place. Raises FormatError where torchao has no way."""
        quantize_(linear, self.native_config(), filter_fn=lambda *_: True)

    def native_refusal(self, device: torch.device) -> str | None:
        """Why `device` cannot run this format natively, with the next step; None if it can.

        The conditions are torchao's: `is_sm_at_least_100` and, for fp8, `_check_hardware_support`.
        """
        need = ".".join(map(str, self.min_capability))
        if device.type != "cuda":
            return (
                f"{self.name} runs natively on CUDA of compute capability {need} or higher, and"
                f" this is a {device.type} device: {EMULATE}"
            )
        if not torch.cuda.is_available():
            return (
                f"{self.name} was requested on {device}, but torch sees no CUDA device: check"
                " `nvidia-smi`, or emulate it on the device cpu"
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
        """Quantize a weight, (N, K) bf16, to values (N, K) and their scale.

        Raises:
            FormatError: another dtype, or blocks do not divide K.
        """

    @abc.abstractmethod
    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        """Quantize an activation, (rows, K) bf16 with rows >= 1, to values (rows, K) and their
        scale.

        Raises:
            FormatError: another dtype, or blocks do not divide K.
        """

    @abc.abstractmethod
    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        """bf16(x @ weight.T + bias), rounded once.

        Args:
            x: (rows, K).
            weight: (N, K).
            bias: (N,), or None.

        Returns:
            (rows, N) bf16.
        """

    def linear_a16(self, x: Tensor, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        """bf16(x @ weight.T + bias), rounded once: the quantized weight and an activation that is
        not quantized (W x A16). It serves weight-only formats, and the steps of a `StepPolicy` that
        run with 16-bit activations.

        Args:
            x: (rows, K) bf16.
            weight: (N, K), what `quantize_weight` of this format returned.
            bias: (N,), or None.

        Returns:
            (rows, N) bf16.

        Raises:
            FormatError: another dtype than bf16.
        """
        return products.linear_a16(self._checked(x), weight.values, weight.scale, bias)

    def _checked(self, x: Tensor, *, block: int = 1) -> Tensor:
        """x, contiguous and without gradients.

        Raises FormatError unless it is bf16 and K is a multiple of `block`.
        """
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


def _is_finite(part: Tensor) -> Tensor:
    """() bool. isfinite knows no 8-bit type, and a packed one has no NaN."""
    if part.dtype == torch.uint8:
        return torch.ones((), dtype=torch.bool, device=part.device)
    if part.itemsize == 1:
        part = part.float() if part.dtype == torch.float8_e8m0fnu else part.bfloat16()
    return part.isfinite().all()


def padded_scale_bytes(n: int, scales_per_row: int) -> int:
    """Bytes of one-byte block scales in the GEMM's tiled layout: rows padded to 128, scales of a
    row to 4 (torchao `to_blocked`).
    """
    return -(-n // 128) * 128 * (-(-scales_per_row // 4) * 4)
