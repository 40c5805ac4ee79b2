"""INT8: integers from -128 to 127 with one fp32 scale a row, for weight and activation.

The numbers are those of torchao's `Int8DynamicActivationInt8WeightConfig` (torchao 0.18,
`Int8Tensor.from_hp`, symmetric, a row at a time):

    scale = max(bf16(amax / 127.5), 2^-23)          # a row of zeros has the scale 2^-23
    code  = clamp(round(x * (1 / scale)), -128, 127)  # ties to even, in fp32

so a negative largest value has the code -128 and a positive one 127. Zeros stay zeros. A NaN or inf
makes the outputs of its row NaN.

**The product is exact.** It is accumulated in int32: |sum| <= 2^14 K < 2^31 for K < 131072. fp32
would be exact only to 2^24, which K = 1024 reaches. `torch._int_mm` runs on the CPU and on GPUs of
compute capability 7.5 and higher. On CUDA it wants more than 16 rows, and K and N % 8 == 0 (ATen
`_int_mm_out_cuda`), so rows are filled up with zeros here. Where it may not run, a float64 product
gives the same integers. CPUs without VNNI may saturate (torchao's `reduce_range`), so
`int_mm_is_exact` tests this one.

**The epilogue**: int32 to fp32, times both scales, plus bias, rounded to bf16 once. Compiled
torchao does this too. Eager torchao rounds twice: after the activation's scale, and at the end.

    fmt = get_format("int8")
    y = fmt.linear(fmt.quantize_activation(x), fmt.quantize_weight(weight), bias)
"""

import functools

import torch
from torch import Tensor, nn
from torchao.core.config import AOBaseConfig
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8Tensor
from torchao.quantization.granularity import PerRow

from sensitivity.core.format_name import FormatName
from sensitivity.formats import cpu_kernels
from sensitivity.formats._base import Format, QuantizedOperand
from sensitivity.formats.kernel_choice import is_eager_cpu, is_eager_cuda, load_triton_kernels
from sensitivity.formats.products import scale_and_round

MULTIPLE = 8
"""Of K and N, for `torch._int_mm` on CUDA."""
ROWS_MULTIPLE = 32
"""Rows are filled up to a multiple of it on CUDA, where `torch._int_mm` refuses 16 and fewer."""


class INT8(Format):
    """Row-wise INT8: one fp32 scale for each row of weight and activation, computed at run time for
    activations.
    """

    name = FormatName.INT8
    k_multiple, n_multiple = MULTIPLE, MULTIPLE
    min_capability = (8, 0)

    def weight_bytes(self, *, k: int, n: int) -> int:
        return n * k + 5 * n  # torchao stores a zero point of one byte beside each scale

    def native_config(self) -> AOBaseConfig:
        """torchao's row-wise config. `set_inductor_config=False`, since the default changes global
        inductor settings.
        """
        return Int8DynamicActivationInt8WeightConfig(
            granularity=PerRow(), set_inductor_config=False
        )

    def quantize_weight(self, weight: Tensor) -> QuantizedOperand:
        weight = self._checked(weight)
        if is_eager_cuda(weight):
            codes, scale = load_triton_kernels().quantize_int8_rows(weight)
        else:
            quantized = Int8Tensor.from_hp(weight, granularity=PerRow())
            codes, scale = quantized.qdata, quantized.scale
        return QuantizedOperand(values=codes, scale=scale)

    def quantize_activation(self, x: Tensor) -> QuantizedOperand:
        x = self._checked(x)
        if not is_eager_cpu(x):
            return self.quantize_weight(x)
        codes, scale = cpu_kernels.quantize_int8_rows(x)
        return QuantizedOperand(values=codes, scale=scale)

    def linear(self, x: QuantizedOperand, weight: QuantizedOperand, bias: Tensor | None) -> Tensor:
        assert x.scale is not None
        assert weight.scale is not None
        product = product_int32(x.values, weight.values).float()
        if is_eager_cpu(product):
            # In place, since the product is as large as a picture's activations.
            product.mul_(x.scale).mul_(weight.scale.t())
            return (product if bias is None else product.add_(bias.float())).bfloat16()
        return scale_and_round(product, (x.scale, weight.scale.t()), bias)


def product_int32(a: Tensor, b: Tensor) -> Tensor:
    """a @ b.T, exact, (rows, N) int32.

    Args:
        a: (rows, K) int8.
        b: (N, K) int8, K < 131072.
    """
    if is_eager_cpu(a) and int_mm_is_exact():
        return torch._int_mm(a, b.t())
    (rows, k), n = a.shape, b.shape[0]
    if a.is_cuda and not (k % MULTIPLE or n % MULTIPLE) and not torch.compiler.is_compiling():
        filled = nn.functional.pad(a, (0, 0, 0, -rows % ROWS_MULTIPLE))
        return torch._int_mm(filled, b.t())[:rows]
    return (a.double() @ b.double().t()).to(torch.int32)


@functools.lru_cache(maxsize=1)
def int_mm_is_exact() -> bool:
    """Whether this CPU multiplies int8 without saturating: the extremes, and a random product."""
    generator = torch.Generator().manual_seed(0)
    extremes = torch.tensor([-128, 127], dtype=torch.int8)
    for rows in (1, 3, 64):
        choice = torch.randint(0, 2, (rows + 64, 192), generator=generator)
        numbers = torch.randint(-128, 128, (rows + 64, 192), generator=generator)
        for operands in (extremes[choice], numbers.to(torch.int8)):
            a, b = operands[:rows], operands[rows:]
            if not torch.equal(torch._int_mm(a, b.t()).double(), a.double() @ b.double().t()):
                return False
    return True
