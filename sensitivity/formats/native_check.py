"""Do the native kernels of a GPU compute what emulation computes? `compare_native`.

A search that runs elsewhere emulates what this GPU will compute. Here both are run on the same
inputs, for every arithmetic that the format has natively, and their outputs are compared in units
of the last place of bf16 (ulp).

    for row in compare_native(FormatName.FP8, "cuda"):
        row.largest_ulp, row.mean_ulp, row.equal        # 1, 0.02, 0.98

Method. An ulp is that of the emulated output, and no smaller than that of the root mean square of
all outputs: where terms cancel, an error of a fixed size would count as many units. Outputs that
are NaN or inf on one side alone are counted, and differ by no number of ulp.

Inputs (M, K) and weights (N, K) are normal random numbers, which is what most products look like,
and the edges where kernels differ: `zero rows`, every fourth row of the input; `all zero`, the
whole input, where torchao's primitives divide 0 by 0; `large` and `small`, 2^40 and 2^-40 times as
large; `wide`, columns that differ by factors of e^2, where MSLK's block scales reach below
torchao's.

What it does not do: judge. Native FP8 keeps fewer bits between its additions than emulation does,
and NVFP4's kernels differ where codes are rounded the other way. A kernel that dies takes the
process with it: whoever asks an unknown GPU calls it in a child.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.core.words import first_line
from sensitivity.errors import FormatError
from sensitivity.formats._base import Format
from sensitivity.formats.emulation import emulated_linear
from sensitivity.formats.native_formats import native_format
from sensitivity.formats.registry import get_format
from sensitivity.formats.served import format_in
from sensitivity.formats.torchao_linear import on_device

INPUTS = ("normal", "zero rows", "all zero", "large", "small", "wide")
"""What the input of a product is like."""


class CheckedShape(NamedTuple):
    """A product (M, K) x (N, K)^T, with or without a bias (N,)."""

    m: int
    k: int
    n: int
    bias: bool


SHAPES = (
    CheckedShape(1, 3072, 18432, bias=True),
    CheckedShape(14, 3072, 3072, bias=True),
    CheckedShape(14, 12288, 3072, bias=True),
    CheckedShape(256, 768, 3072, bias=False),
    CheckedShape(512, 3072, 3072, bias=True),
    CheckedShape(2304, 3072, 1024, bias=True),
    CheckedShape(4608, 3072, 12288, bias=False),
)
"""Modulation, text stream, and image stream of large models; one that Hopper refuses in FP8."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KernelDifference:
    """The native output of one product beside the emulated one.

    Attributes:
        format: the format.
        arithmetic: what quantizes activations, and what follows the product.
        m, k, n, bias: the product.
        inputs: one of `INPUTS`.
        largest_ulp: the largest difference, in ulp; None where nothing finite is compared.
        mean_ulp: the mean difference.
        equal: the share of outputs with equal bits; NaN equals NaN.
        native_not_finite: how many native outputs are NaN or inf.
        emulated_not_finite: how many emulated ones are.
        error: why the native kernel did not run; None if it did.
    """

    format: FormatName
    arithmetic: Arithmetic
    m: int
    k: int
    n: int
    bias: bool
    inputs: str
    largest_ulp: float | None = None
    mean_ulp: float | None = None
    equal: float | None = None
    native_not_finite: int = 0
    emulated_not_finite: int = 0
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """All fields, by name."""
        row = asdict(self)
        return row | {"format": self.format.value, "arithmetic": self.arithmetic.value}


def compare_native(
    name: FormatName,
    device: torch.device | str,
    *,
    shapes: Sequence[CheckedShape] = SHAPES,
    inputs: Sequence[str] = INPUTS,
) -> tuple[KernelDifference, ...]:
    """Run each product natively and by emulation.

    Args:
        name: the format.
        device: a GPU that has it.
        shapes: the products. Those that the format refuses by its K or N are left out.
        inputs: what their inputs are like.

    Returns:
        One row for each arithmetic that is native there, shape and kind of input.

    Raises:
        FormatError: the device has no native kernel of the format.
    """
    where = torch.device(device)
    found = {arithmetic: native_format(name, where, arithmetic) for arithmetic in Arithmetic}
    native = {a: fmt for a, fmt in found.items() if isinstance(fmt, Format)}
    if not native:
        raise FormatError(
            f"found no native kernel of {name} on {device}: {found[Arithmetic.EAGER]}; expected a"
            " GPU that has the format: compare there"
        )
    firsts: dict[Format, Arithmetic] = {}
    for arithmetic, fmt in native.items():  # MXFP8 is the same in all: the first stands for them
        firsts.setdefault(fmt, arithmetic)
    native = {arithmetic: fmt for fmt, arithmetic in firsts.items()}
    rows = []
    for shape in shapes:
        if get_format(name).refusal(k=shape.k, n=shape.n, dtype=torch.bfloat16):
            continue
        weight, bias = _weight(shape, where), _bias(shape, where)
        for kind in inputs:
            x = _input(shape, kind, where)
            rows += [_compared(fmt, a, shape, kind, x, weight, bias) for a, fmt in native.items()]
    return tuple(rows)


def ulps_apart(found: Tensor, expected: Tensor) -> Tensor:
    """|found - expected| in bf16 ulp of the expected values, or of their root mean square where
    that is larger.

    Args:
        found: finite values of any shape.
        expected: those that they are held against, of the same shape.
    """
    exact = expected.double()
    size = exact.abs().maximum(exact.square().mean().sqrt())
    _, exponent = torch.frexp(size.clamp(min=2.0**-126))
    return (found.double() - exact).abs() / torch.ldexp(torch.ones_like(exact), exponent - 8)


def _compared(
    fmt: Format,
    arithmetic: Arithmetic,
    shape: CheckedShape,
    kind: str,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
) -> KernelDifference:
    """One row."""
    row: dict[str, Any] = {
        "format": fmt.name,
        "arithmetic": arithmetic,
        **shape._asdict(),
        "inputs": kind,
    }

    def run(own: Format) -> Tensor:
        with torch.no_grad(), on_device(x):
            return emulated_linear(x, own.quantize_weight(weight), bias, own, remember=False)

    expected = run(format_in(fmt.name, arithmetic))
    try:
        found = run(fmt)
        fine = found.isfinite() & expected.isfinite()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # whatever torchao, cuBLAS or Triton say
        return KernelDifference(**row, error=f"{type(error).__name__}: {first_line(error)}")
    same = (found == expected) | (found.isnan() & expected.isnan())
    apart = ulps_apart(found[fine], expected[fine]) if bool(fine.any()) else None
    return KernelDifference(
        **row,
        largest_ulp=None if apart is None else float(apart.max()),
        mean_ulp=None if apart is None else float(apart.mean()),
        equal=float(same.double().mean()),
        native_not_finite=int((~found.isfinite()).sum()),
        emulated_not_finite=int((~expected.isfinite()).sum()),
    )


def _normal(*shape: int, seed: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(device)


def _weight(shape: CheckedShape, device: torch.device) -> Tensor:
    return (_normal(shape.n, shape.k, seed=1, device=device) * 0.05).bfloat16()


def _bias(shape: CheckedShape, device: torch.device) -> Tensor | None:
    return _normal(shape.n, seed=2, device=device).bfloat16() if shape.bias else None


def _input(shape: CheckedShape, kind: str, device: torch.device) -> Tensor:
    """(M, K) bf16."""
    x = _normal(shape.m, shape.k, seed=0, device=device)
    if kind == "zero rows":
        x[::4] = 0
    elif kind == "all zero":
        x.zero_()
    elif kind in ("large", "small"):
        x = x * 2.0 ** (40 if kind == "large" else -40)
    elif kind == "wide":
        x = x * (_normal(1, shape.k, seed=3, device=device) * 2).exp()
    return x.bfloat16()
