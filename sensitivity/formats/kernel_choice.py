"""Which of this package's kernels may run on a tensor?

`cpu_kernels` on the CPU and `triton_kernels` on a GPU, both in eager mode only. They look at
values, or launch code of their own; a graph that is being compiled and a fake tensor allow neither.
Where none may run, the formats call torchao's primitives.

    if is_eager_cuda(weight):
        values = load_triton_kernels().quantize_mxfp8(weight)
"""

import functools
import importlib.util
from typing import Any

import torch
from torch import Tensor, nn


def is_eager_cpu(x: Tensor) -> bool:
    """Whether the CPU kernels may run: a plain tensor on the CPU, outside torch.compile."""
    return x.device.type == "cpu" and _is_plain_and_eager(x)


def is_eager_cuda(x: Tensor) -> bool:
    """Whether the Triton kernels may run: a plain tensor on a GPU, outside torch.compile."""
    return x.is_cuda and _is_plain_and_eager(x) and has_triton()


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed, as it is with torch's CUDA builds on Linux."""
    return importlib.util.find_spec("triton") is not None


def load_triton_kernels() -> Any:
    """The module `triton_kernels`. Importing it needs Triton, so it is imported on first use."""
    from sensitivity.formats import triton_kernels

    return triton_kernels


def _is_plain_and_eager(x: Tensor) -> bool:
    return not torch.compiler.is_compiling() and type(x) in (Tensor, nn.Parameter)
