"""How do MXFP8, NVFP4 and INT8 run by the kernels that serve a model? By torchao's own tensors.

`native_instance` gives a format whose quantized weight is torchao's tensor, made by torchao's
config, and whose product is `F.linear` with it: quantizer, GEMM and epilogue are those of a served
model. torchao needs compute capability 10.0 for MXFP8 and NVFP4, and 8.0 for INT8
(`native_formats` looks for it). Rotated formats and four-over-six stand on these (`variant`).

    fmt = native_instance(FormatName.NVFP4, Arithmetic.EAGER)
    weight = fmt.quantize_weight(linear.weight)             # values: an NVFP4Tensor (N, K)
    y = emulation.emulated_linear(x, weight, linear.bias, fmt)

Arithmetic. MXFP8 is the same in all. NVFP4 has three: `eager` quantizes activations by torchao's
primitives, `mslk` by MSLK's kernel; both have torchao's epilogue, which rounds the product, the
scale, their product and the sum. `compiled` has torchao's primitives, the same GEMM, and the
epilogue that torch.compile makes of it (`served`): the fp32 scale and the bias on the bf16 product.
INT8 by torchao's tensor rounds the product with the activation's scale, and the result; compiled
it is `served.CompiledHardwareINT8`.

W x A16 (`linear_a16`) takes the numbers out of torchao's tensor in each call, and is then that of
emulation.

Zeros and NaN are torchao's: an all-zero NVFP4 tensor is NaN by the primitives and zero by MSLK.

What it does not do: run FP8, which has a quantizer of ours and the GPU's GEMM (`fp8.HardwareFP8`);
decide whether a device has a format; give latencies.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn
from torchao.core.config import AOBaseConfig
from torchao.prototype.mx_formats import NVFP4DynamicActivationNVFP4WeightConfig
from torchao.prototype.mx_formats.mx_tensor import MXTensor
from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor, per_tensor_amax_to_scale
from torchao.quantization import Int8Tensor, quantize_

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.core.kernels import Kernels
from sensitivity.errors import FormatError
from sensitivity.formats._base import Format, QuantizedOperand
from sensitivity.formats.four_over_six import FourOverSix
from sensitivity.formats.int8 import INT8
from sensitivity.formats.mxfp8 import BLOCK as MX_BLOCK
from sensitivity.formats.mxfp8 import MXFP8
from sensitivity.formats.nvfp4 import BLOCK as NV_BLOCK
from sensitivity.formats.nvfp4 import NVFP4
from sensitivity.formats.served import CompiledHardwareINT8
from sensitivity.formats.variant import Rotated, variant_of


class TorchaoMXFP8(MXFP8):
    """MXFP8 by torchao's tensor: codes and e8m0 scales, one `torch._scaled_mm`."""

    kernels = Kernels.NATIVE
    weight_kind = "torchao"

    def quantize_weight(self, weight: Tensor) -> QuantizedOperand:
        return _torchao_weight(self._checked(weight, block=MX_BLOCK), self.native_config())

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        """x as it is: torchao quantizes it in the product."""
        return QuantizedOperand(values=self._checked(x, block=MX_BLOCK), scale=None)

    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        with torch.no_grad(), on_device(x.values):
            return nn.functional.linear(x.values, weight.values, bias)

    def linear_a16(self, x: Tensor, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        return super().linear_a16(x, plain_operand(weight), bias)


class TorchaoINT8(INT8):
    """INT8 by torchao's tensor: codes, fp32 row scales, and `torch._int_mm`."""

    kernels = Kernels.NATIVE
    weight_kind = "torchao"

    def quantize_weight(self, weight: Tensor) -> QuantizedOperand:
        return _torchao_weight(self._checked(weight), self.native_config())

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        """x as it is: torchao quantizes it in the product."""
        return QuantizedOperand(values=self._checked(x), scale=None)

    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        with torch.no_grad(), on_device(x.values):
            return nn.functional.linear(x.values, weight.values, bias)

    def linear_a16(self, x: Tensor, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        return super().linear_a16(x, plain_operand(weight), bias)


class TorchaoNVFP4(NVFP4):
    """NVFP4 by torchao's tensor, activations quantized by torchao's primitives."""

    kernels = Kernels.NATIVE
    weight_kind = "torchao"
    uses_mslk = False

    def native_config(self) -> AOBaseConfig:
        return NVFP4DynamicActivationNVFP4WeightConfig(
            use_triton_kernel=self.uses_mslk, use_dynamic_per_tensor_scale=True
        )

    def quantize_weight(self, weight: Tensor) -> QuantizedOperand:
        return _torchao_weight(self._checked(weight, block=NV_BLOCK), self.native_config())

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        """x as it is: torchao quantizes it in the product."""
        return QuantizedOperand(values=self._checked(x, block=NV_BLOCK), scale=None)

    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        with torch.no_grad(), on_device(x.values):
            return nn.functional.linear(x.values, weight.values, bias)

    def linear_a16(self, x: Tensor, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        return super().linear_a16(x, plain_operand(weight), bias)


class TorchaoMslkNVFP4(TorchaoNVFP4):
    """The same, activations quantized by MSLK."""

    arithmetic = Arithmetic.MSLK
    weight_kind = "torchao, mslk"  # the weight says what quantizes activations
    uses_mslk = True


class TorchaoCompiledNVFP4(TorchaoNVFP4):
    """NVFP4 with the epilogue that torch.compile makes of torchao's."""

    arithmetic = Arithmetic.COMPILED

    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        kept = cast(NVFP4Tensor, weight.values)
        with torch.no_grad(), on_device(x.values):
            tensor_scale = per_tensor_amax_to_scale(torch.max(torch.abs(x.values)))
            rows = NVFP4Tensor.to_nvfp4(
                x.values, per_tensor_scale=tensor_scale, is_swizzled_scales=True
            )
            product = nn.functional.linear(_unscaled(rows), _unscaled(kept))  # bf16(codes @ codes)
            scaled = product.float() * (tensor_scale * kept.per_tensor_scale)
            y: Tensor = scaled if bias is None else scaled + bias.float()
            return y.bfloat16()


_MXFP8, _INT8 = TorchaoMXFP8(), TorchaoINT8()
_NATIVE: dict[FormatName, dict[Arithmetic, Format]] = {
    FormatName.MXFP8: dict.fromkeys(Arithmetic, _MXFP8),
    FormatName.NVFP4: {
        Arithmetic.EAGER: TorchaoNVFP4(),
        Arithmetic.MSLK: TorchaoMslkNVFP4(),
        Arithmetic.COMPILED: TorchaoCompiledNVFP4(),
    },
    FormatName.INT8: dict.fromkeys(Arithmetic, _INT8)
    | {Arithmetic.COMPILED: CompiledHardwareINT8()},
}


def native_instance(name: FormatName, arithmetic: Arithmetic) -> Format | None:
    """The format by torchao's tensors; None where it has none here (bf16, fp8, weight-only)."""
    plain = _NATIVE.get(name.plain, {}).get(arithmetic)
    if plain is None or name.is_weight_only:
        return None
    if name.is_rotated:
        return variant_of(Rotated, plain)
    return variant_of(FourOverSix, plain) if name is FormatName.NVFP4_4O6 else plain


def plain_operand(weight: QuantizedOperand) -> QuantizedOperand:
    """The numbers of a torchao tensor (N, K) as emulation holds them; other operands as they are.

    Values are exact in bf16, block scales folded in.
    """
    kept = weight.values
    if isinstance(kept, NVFP4Tensor):
        values = _unscaled(kept).dequantize(torch.bfloat16)
        return QuantizedOperand(values=values, scale=kept.per_tensor_scale)
    if isinstance(kept, MXTensor):
        return QuantizedOperand(values=kept.dequantize(torch.bfloat16), scale=None)
    if isinstance(kept, Int8Tensor):
        return QuantizedOperand(values=kept.qdata, scale=kept.scale)
    return weight


@contextmanager
def on_device(x: Tensor) -> Iterator[None]:
    """Inside, the GPU of x is the current one: torchao asks that one what it has, and Triton
    launches on it.
    """
    if not x.is_cuda:
        yield
        return
    with torch.cuda.device(x.device):
        yield


def _torchao_weight(weight: Tensor, config: AOBaseConfig) -> QuantizedOperand:
    """weight: (N, K) bf16. Its torchao tensor (N, K), as `quantize_` makes it.

    Raises:
        FormatError: torchao left it in bf16.
    """
    n, k = weight.shape
    holder = nn.Linear(k, n, bias=False, device="meta", dtype=weight.dtype)
    holder.weight = nn.Parameter(weight, requires_grad=False)
    with torch.no_grad(), on_device(weight):
        quantize_(nn.Sequential(holder), config)
    quantized = holder.weight
    holder._parameters.clear()  # the holder is part of a cycle, and would keep the memory
    if type(quantized.data) is Tensor:
        raise FormatError(
            f"found that torchao left a weight of N = {n}, K = {k} in bf16; expected a quantized"
            " one: leave this Linear in bf16"
        )
    return QuantizedOperand(values=quantized, scale=None)


def _unscaled(x: NVFP4Tensor) -> NVFP4Tensor:
    """The same codes and block scales, without the scale of the tensor."""
    return NVFP4Tensor(
        x.qdata,
        x.scale,
        x.block_size,
        x.orig_dtype,
        is_swizzled_scales=x.is_swizzled_scales,
        act_quant_kwargs=x.act_quant_kwargs,
    )
