"""Which formats run by native kernels on a device, and why not the others?

    native_format(FormatName.NVFP4, torch.device("cuda"), Arithmetic.EAGER)
    # the format by torchao's tensors on a B200; elsewhere why it is emulated, as a text

Method. A format is native where the compute capability allows it, its quantizer is installed, and
one small Linear runs: what asserts, what cuBLAS refuses and what gives other numbers than emulation
is found here, before the first picture, and not in the middle of a trial. FP8 is multiplied by the
GPU's own GEMM (`fp8.HardwareFP8`), MXFP8, NVFP4 and INT8 by torchao's tensors (`torchao_linear`),
and their variants with them. Weight-only formats are always emulated: torchao dequantizes their
weights in each call. The answer is kept for the process.

What it does not do: try every shape. A product whose shape the kernel refuses is emulated when it
comes (`refused_products`).
"""

import functools
import logging
from collections.abc import Collection

import torch
from torch import Tensor

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.core.words import first_line
from sensitivity.errors import MeasurementError
from sensitivity.formats import mslk
from sensitivity.formats._base import Format
from sensitivity.formats.fp8 import LOWER_BOUND, HardwareFP8
from sensitivity.formats.kernel_choice import has_triton
from sensitivity.formats.registry import get_format
from sensitivity.formats.served import CompiledHardwareFP8, format_in
from sensitivity.formats.torchao_linear import native_instance, on_device

PROBE = (128, 256, 128)
"""M, K, N of the Linear that is tried: multiples of every tile and block."""
MOST_DIFFERENCE = 0.02
"""Of the norm of its output from the emulated one. Roundings to bf16 make about 0.003; scales in
another order, or a wrong layout of scales, make more than 0.1."""
_LB = FormatName.FP8_LB
_HARDWARE_FP8: dict[tuple[FormatName, Arithmetic], Format] = {
    (FormatName.FP8, Arithmetic.EAGER): HardwareFP8(),
    (FormatName.FP8, Arithmetic.COMPILED): CompiledHardwareFP8(),
    (_LB, Arithmetic.EAGER): HardwareFP8(name=_LB, lower_bound=LOWER_BOUND),
    (_LB, Arithmetic.COMPILED): CompiledHardwareFP8(name=_LB, lower_bound=LOWER_BOUND),
}
WEIGHT_ONLY = (
    "weight-only formats are always emulated: torchao dequantizes the weight in each call, which is"
    " no faster"
)
log = logging.getLogger(__name__)


def native_format(name: FormatName, device: torch.device, arithmetic: Arithmetic) -> Format | str:
    """The format by the kernels of `device`, or why it is emulated there.

    Raises:
        MeasurementError: the kernel left the GPU unusable to this process.
        torch.OutOfMemoryError: there is no room for the small Linear.
    """
    if device.type == "cuda" and device.index is None and torch.cuda.is_available():
        device = torch.device("cuda", torch.cuda.current_device())
    return _look(name, device, arithmetic)


def forget_native() -> None:
    """Look again where a format is asked for next."""
    _look.cache_clear()


@functools.cache
def _look(name: FormatName, device: torch.device, arithmetic: Arithmetic) -> Format | str:
    """See `native_format`."""
    if reason := get_format(name).native_refusal(device):
        return reason
    if name.is_weight_only:
        return WEIGHT_ONLY
    if name.plain is FormatName.FP8:
        if device.type != "cuda" or not has_triton():
            return "its quantizer here needs Triton: install `triton`"
        fmt = _HARDWARE_FP8.get((name, arithmetic))
    else:
        fmt = native_instance(name, arithmetic)
    if fmt is None:
        return f"{name} with the arithmetic {arithmetic} is not known natively"
    if name.plain is FormatName.NVFP4 and arithmetic is Arithmetic.MSLK and not mslk.is_available():
        return mslk.advice() or "mslk is not installed"
    failure = _failure(fmt, format_in(name, arithmetic), device)
    if failure is None:
        return fmt
    log.warning("%s runs by emulation on %s: %s", name, device, failure)
    return failure


def is_native(name: FormatName, device: torch.device, arithmetic: Arithmetic) -> bool:
    """Whether a format runs by native kernels on a device."""
    return not isinstance(native_format(name, device, arithmetic), str)


def default_arithmetic(
    formats: Collection[FormatName], device: str, *, emulate: bool = False
) -> Arithmetic:
    """The arithmetic of a caller who names none: that of NVFP4's kernels as they are installed.

    It is mslk where NVFP4, or a variant of it with quantized activations, runs natively with it,
    and eager elsewhere. fp8 has no numbers in mslk's.
    """
    plain = {name.plain for name in formats}
    nvfp4 = [name for name in formats if name.plain is FormatName.NVFP4 and not name.is_weight_only]
    if emulate or not nvfp4 or FormatName.FP8 in plain:
        return Arithmetic.EAGER
    if not mslk.is_available():
        return Arithmetic.EAGER
    native = is_native(FormatName.NVFP4, torch.device(device), Arithmetic.MSLK)
    return Arithmetic.MSLK if native else Arithmetic.EAGER


def _failure(fmt: Format, emulated: Format, device: torch.device) -> str | None:
    """Why one small Linear does not run, or what is wrong with its numbers; None if it runs."""
    m, k, n = PROBE
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).bfloat16().to(device)

    x, weight, bias = normal(m, k), normal(n, k), normal(n)

    def run(own: Format) -> Tensor:
        return own.linear(own.quantize_activation(x), own.quantize_weight(weight), bias).float()

    try:
        with torch.no_grad(), on_device(x):
            found, expected = run(fmt), run(emulated)
            difference = float((found - expected).norm() / expected.norm())
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # an assertion of torchao, an error of cuBLAS, Triton or an import
        _check_alive(device, error)
        return f"its kernel fails ({type(error).__name__}: {first_line(error)})"
    if not difference <= MOST_DIFFERENCE:  # NaN too
        return (
            f"its kernel's output is {difference:.2g} of the norm away from the emulated one;"
            f" expected at most {MOST_DIFFERENCE:g}"
        )
    return None


def _check_alive(device: torch.device, error: Exception) -> None:
    """Raise MeasurementError where a kernel that failed left an error that every later call meets,
    as an illegal address does.
    """
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as broken:
        raise MeasurementError(
            f"found that a native kernel broke the connection to {device} ({first_line(error)});"
            " expected an error or numbers: set `emulate`, and run again"
        ) from broken
