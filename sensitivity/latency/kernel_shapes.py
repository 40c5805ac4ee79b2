"""Which kernels of a quantized Linear are timed apart? The names of their rows.

A Linear in a format is a quantizer of its input and a GEMM of quantized operands. `GemmShape` names
the second alone, `QuantizerShape` the first. `shape_times.LinearShape` names the Linear as a
compiled block has it.

    str(GemmShape(m=512, k=3072, n=3072, bias=True, format=FormatName.FP8))
    # "gemm m=512 k=3072 n=3072 bias=1 fp8"
    parse_gemm("gemm m=512 k=3072 n=3072 bias=1 fp8").k             # 3072

What it does not do: time anything (`kernel_runs`, `device_jobs`).
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sensitivity.core.format_name import FormatName
from sensitivity.formats.registry import get_format


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class GemmShape:
    """A GEMM of operands that are quantized already.

    Attributes:
        m: Rows of the input.
        k: in_features.
        n: out_features.
        bias: Whether a bias is added in the GEMM's epilogue.
        format: The format of both operands.
    """

    m: int
    k: int
    n: int
    bias: bool
    format: FormatName

    def __str__(self) -> str:
        """The key that its times are stored under."""
        return f"gemm m={self.m} k={self.k} n={self.n} bias={int(self.bias)} {self.format.value}"

    @property
    def call_bytes(self) -> int:
        """Bytes of operands as stored, and of the output."""
        stored = get_format(self.format).weight_bytes
        return stored(k=self.k, n=self.m) + stored(k=self.k, n=self.n) + 2 * self.m * self.n


@dataclass(frozen=True, kw_only=True, slots=True, order=True)
class QuantizerShape:
    """Quantizing an activation (M, K), alone.

    Attributes:
        m: Rows.
        k: Columns.
        format: The format that it is quantized to.
    """

    m: int
    k: int
    format: FormatName

    def __str__(self) -> str:
        """The key that its times are stored under."""
        return f"quantize m={self.m} k={self.k} {self.format.value}"

    @property
    def call_bytes(self) -> int:
        """Bytes that are read and written."""
        return 2 * self.m * self.k + get_format(self.format).weight_bytes(k=self.k, n=self.m)


def parse_gemm(key: str) -> GemmShape | None:
    """The GEMM that a key names; None for the key of something else.

    Raises:
        ValueError: The key begins as a GEMM's and names none.
    """
    kind, values, name = _parts(key)
    if kind != "gemm":
        return None
    m, k, n, bias = (int(values[axis]) for axis in ("m", "k", "n", "bias"))
    return GemmShape(m=m, k=k, n=n, bias=bool(bias), format=FormatName(name))


def parse_quantizer(key: str) -> QuantizerShape | None:
    """The quantizer that a key names; None for the key of something else.

    Raises:
        ValueError: The key begins as a quantizer's and names none.
    """
    kind, values, name = _parts(key)
    if kind != "quantize":
        return None
    return QuantizerShape(m=int(values["m"]), k=int(values["k"]), format=FormatName(name))


def _parts(key: str) -> tuple[str, Mapping[str, str], str]:
    """The kind, the numbers by name, and the format of a key."""
    kind, *numbers, name = key.split()
    try:
        return kind, dict(number.split("=") for number in numbers), name
    except ValueError:
        return kind, {}, name
