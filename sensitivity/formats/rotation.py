"""How are outliers spread over a block before it is quantized? By a Hadamard rotation along K.

A Linear computes y = x W^T. With an orthogonal, symmetric H, x W^T = (x H) (W H)^T: the weight is
rotated once, the activation in each call. A value that is much larger than its neighbours would
set their scale; x H gives each of the B values of a block 1 / sqrt(B) of it.

**The matrix** is ConvRot's, ComfyUI's rotation for INT8: the *regular* Hadamard matrix of size
B = 4^j, whose rows all have the same sum,

    H4 = [[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]
    H  = H4 x H4 x ... x H4 / sqrt(B)        (x: Kronecker product)

(comfy-kitchen 7d86acf6, `backends/eager/convrot_w4a4.py`, `_build_hadamard`). It is symmetric, so
it is its own inverse, and sqrt(B) is a power of two, so bf16 holds H exactly. Sylvester's matrix
has a row of ones, which gathers the mean of a block in one value; here none does. The block is the
largest of 256, 64 and 16 that divides K (`core.rotation_block`).

**Numbers.** bf16 in; a product with H, accumulated in fp32; rounded to bf16 once, before it is
quantized, for the weight and for the activation. This is one bf16 GEMM of (rows K / B, B) x (B, B),
which is how a GPU runs it too.

**Natively** torchao has no rotation at run time. `rotate_linear` folds H into the weight of a
Linear and makes it a `RotatedLinear`, which rotates its input; then torchao quantizes that Linear.
A class, and not a hook: torch.compile guards on classes, and not on hooks
(`skip_nnmodule_hook_guards`), so it would run a graph without rotation for a Linear with one.

What it does not do: signs drawn at random in front of H, or a matrix that is learned.

    rotate(x) @ rotate(weight).t()      # x @ weight.t(), but for two roundings to bf16
"""

import functools
import math

import torch
from torch import Tensor, nn

from sensitivity.core.rotation_block import BLOCKS, rotation_block
from sensitivity.errors import FormatError
from sensitivity.formats.products import (
    fits_fused_linear,
    full_precision_reductions,
    product_fp32,
)

BUFFER = "rotation"
"""What the matrix is called in a Linear that rotates its input."""
H4 = ((1, 1, 1, -1), (1, 1, -1, 1), (1, -1, 1, 1), (-1, 1, 1, 1))


@functools.cache
def hadamard(block: int, device: torch.device) -> Tensor:
    """The normalized regular Hadamard matrix of a power of 4, (block, block) bf16, exact."""
    four = torch.tensor(H4, dtype=torch.float32)
    matrix = torch.ones(1, 1)
    while matrix.shape[0] < block:
        matrix = torch.kron(matrix, four)
    return (matrix / math.sqrt(block)).bfloat16().to(device)


def rotate(x: Tensor) -> Tensor:
    """x H, block by block along K: (..., K) bf16 in and out, fp32 inside, rounded once.

    Raises:
        FormatError: no block divides K.
    """
    k = x.shape[-1]
    block = rotation_block(k)
    if block is None:
        raise FormatError(
            f"found K = {k} of a rotated Linear; expected a multiple of {BLOCKS[-1]}: leave it in"
            " bf16, or choose a format without rotation"
        )
    matrix = hadamard(block, x.device)
    return _product(x.reshape(-1, block), matrix).view(x.shape)


def _product(blocks: Tensor, matrix: Tensor) -> Tensor:
    """bf16(blocks @ matrix). The matrix is symmetric, so b.T in the products is the matrix."""
    if fits_fused_linear(blocks, matrix, None):
        return torch.mm(blocks, matrix)
    if torch.compiler.is_compiling() or not blocks.is_cuda:
        return product_fp32(blocks, matrix).to(blocks.dtype)
    with full_precision_reductions():
        return torch.mm(blocks, matrix)


def rotated_input(x: Tensor, matrix: Tensor) -> Tensor:
    """x H in a graph that may be compiled: (..., K) bf16 and (block, block) bf16."""
    return torch.matmul(x.reshape(-1, matrix.shape[0]), matrix).view(x.shape)


class RotatedLinear(nn.Linear):
    """A Linear that rotates its input before its quantized weight does. Made by `rotate_linear`,
    never constructed.

    Where the weight is a plain parameter, nothing is quantized: such is the bf16 weight at an edge
    step of a `StepPolicy`. It is not rotated, and then its input is not either.
    """

    def forward(self, input: Tensor) -> Tensor:
        """input: (..., K). Returns (..., N)."""
        if type(self.weight) is not nn.Parameter:
            input = rotated_input(input, self.get_buffer(BUFFER))
        return nn.functional.linear(input, self.weight, self.bias)


def rotate_linear(linear: nn.Linear) -> None:
    """Rotate the weight of a Linear (N, K) bf16, and its input in every call once it is quantized.

    The Linear becomes a `RotatedLinear`, and its weight another parameter; the parameter that it
    had stays as it is. The matrix is a buffer: it moves with the Linear, and is no part of its
    state dict.

    Raises:
        FormatError: no block divides K, or a `forward` stands on the instance and would hide that
            of the class.
    """
    if "forward" in vars(linear) or type(linear) is not nn.Linear:
        raise FormatError(
            f"found a {type(linear).__name__} whose forward is not nn.Linear's; expected a plain"
            " Linear, whose input can be rotated: quantize before offloading and adapters are added"
        )
    weight = linear.weight.detach()
    with torch.no_grad():
        linear.weight = nn.Parameter(rotate(weight), requires_grad=False)
    matrix = hadamard(rotation_block(weight.shape[1]) or BLOCKS[-1], weight.device)
    linear.register_buffer(BUFFER, matrix, persistent=False)
    linear.__class__ = RotatedLinear
