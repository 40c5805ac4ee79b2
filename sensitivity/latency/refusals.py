"""Which Linears do kernels refuse, though their format takes them? `refusal_of`.

A format has rules on K and N (`formats`), and a kernel may refuse a shape that keeps them all. Such
a Linear stops the run in the middle, and so it stays bf16.

Method. What is known stands in `refusals.toml`: conditions on the shape, the format and the compute
capability, the kernel's own words, where it was seen and with which versions. A GPU at hand says
for itself what it refuses (`timing.probing`), and its word counts more.

Conventions. M, K, N as everywhere. A reason is one line that names the shape, since lists, recipes
and tables show it beside a Linear's name.

What it does not do: guess. A shape that nobody has seen fail is taken to run.

    refusal_of("h100", m=14, k=12288, n=3072, bias=True, format=FormatName.FP8)
    # "refused by the kernel: CUBLAS_STATUS_NOT_SUPPORTED for M=14 K=12288 N=3072 with a bias ..."
"""

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from importlib import resources
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from sensitivity.core.format_name import FormatName
from sensitivity.core.outside_files import DEVICE, parse_toml
from sensitivity.core.words import first_line
from sensitivity.latency.devices import Device, get_device
from sensitivity.latency.format_costs import gemm_format

_Size = Annotated[int, Field(strict=True, ge=0, le=2**40)]
REFUSED = "refused by the kernel"
"""How the reason of every refused shape begins."""


class Sizes(BaseModel):
    """The values of M, K or N that a refusal is about; what is left out does not matter.

    Attributes:
        least: The smallest.
        most: The largest.
        multiple_of: They are multiples of it.
        not_multiple_of: They are no multiples of it.
        among: They are some of these.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    least: _Size = 0
    most: _Size | None = None
    multiple_of: Annotated[int, Field(strict=True, ge=1)] = 1
    not_multiple_of: Annotated[int, Field(strict=True, ge=2)] | None = None
    among: tuple[_Size, ...] | None = None

    def __contains__(self, size: int) -> bool:
        """Whether a size is one of these."""
        return (
            size >= self.least
            and (self.most is None or size <= self.most)
            and size % self.multiple_of == 0
            and (self.not_multiple_of is None or size % self.not_multiple_of != 0)
            and (self.among is None or size in self.among)
        )


class KnownRefusal(BaseModel):
    """One entry of `refusals.toml`. All conditions must hold.

    Attributes:
        format: The format of the GEMM's operands; variants that run this GEMM are meant too.
        capabilities: CUDA compute capabilities, "9.0" for Hopper.
        m, k, n: Sizes of the shape.
        mn: Sizes of the product M x N.
        bias: Whether the Linear has a bias; None if it does not matter.
        error: What the kernel says.
        source: Where it was seen.
        versions: The versions that it was seen with.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: FormatName
    capabilities: tuple[str, ...]
    m: Sizes = Sizes()
    k: Sizes = Sizes()
    n: Sizes = Sizes()
    mn: Sizes = Sizes()
    bias: bool | None = None
    error: Annotated[str, Field(min_length=1)]
    source: Annotated[str, Field(min_length=1)]
    versions: Annotated[str, Field(min_length=1)]

    def holds(
        self, *, capability: str, m: int, k: int, n: int, bias: bool, format: FormatName
    ) -> bool:
        """Whether this shape is refused on a GPU of this capability."""
        return (
            gemm_format(format) is self.format
            and capability in self.capabilities
            and m in self.m
            and k in self.k
            and n in self.n
            and m * n in self.mn
            and self.bias in (None, bias)
        )


@cache
def known_refusals() -> tuple[KnownRefusal, ...]:
    """Every refusal that ships with the package."""
    text = resources.files("sensitivity.latency").joinpath("refusals.toml").read_text("utf-8")
    data: Mapping[str, object] = parse_toml(text, DEVICE)
    return TypeAdapter(tuple[KnownRefusal, ...]).validate_python(data.get("refusal", ()))


def refusal_of(
    device: Device | str, *, m: int, k: int, n: int, bias: bool, format: FormatName
) -> str | None:
    """Why kernels of a GPU refuse a Linear, as shipped data knows; None if nothing is known.

    Args:
        device: The GPU, or its name.
        m, k, n: The input is (M, K), the weight (N, K).
        bias: Whether the Linear has a bias.
        format: The format of weight and input.

    Raises:
        UserError: No device has this name.
    """
    capability = (get_device(device) if isinstance(device, str) else device).capability
    known = _known(capability, m, k, n, bias, format) if m else None
    if known is None:
        return None
    words = refused_words(known.error, m=m, k=k, n=n, bias=bias)
    return f"{words} (known: {known.versions})"


@lru_cache(maxsize=4096)
def _known(
    capability: str, m: int, k: int, n: int, bias: bool, format: FormatName
) -> KnownRefusal | None:
    shape = {"m": m, "k": k, "n": n}
    found = known_refusals()
    return next(
        (x for x in found if x.holds(capability=capability, bias=bias, format=format, **shape)),
        None,
    )


def refused_words(error: str, *, m: int, k: int, n: int, bias: bool) -> str:
    """The reason of a refused shape: what the kernel said, and for which shape."""
    return f"{REFUSED}: {error} for M={m} K={k} N={n} {'with' if bias else 'without'} a bias"


_STATUS = re.compile(r"CUBLAS_STATUS_\w+|CUDNN_STATUS_\w+")
_SHAPE_ERRORS = re.compile(
    r"CUBLAS_STATUS_(NOT_SUPPORTED|INVALID_VALUE|ARCH_MISMATCH)|cublasLtMatmulAlgoGetHeuristic"
    r"|_scaled_mm|scaled_gemm|Invalid scaling configuration"
)


def kernel_words(error: BaseException) -> str:
    """What a kernel said, for `refused_words`: its status if it names one, else the first line."""
    status = _STATUS.search(str(error))
    return status.group(0) if status else first_line(error)


def is_about_a_shape(error: BaseException) -> bool:
    """Whether an error, or one behind it, is that of a matrix product that refuses its operands."""
    seen: BaseException | None = error
    while seen is not None:
        if _SHAPE_ERRORS.search(str(seen)):
            return True
        seen = seen.__cause__ or seen.__context__
    return False
