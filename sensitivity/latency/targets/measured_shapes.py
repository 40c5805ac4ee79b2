"""What did single shapes take on a GPU that somebody measured? `MeasuredShapes`.

    shapes = MeasuredShapes.of(target)
    shapes.us(m=512, k=3072, n=3072, format=FormatName.FP8, kind="compiled")    # None: not measured

Conventions. Microseconds of a call under steady load, as `ShapeTime.steady_us` has them. A
quantized Linear counts as measured only if the bf16 Linear of its shape was measured beside it: a
gain is never the difference of a measured and a predicted time.

What it does not do: price a run (`target_latency`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.latency.format_costs import priced_as
from sensitivity.latency.shape_times import parse_linear
from sensitivity.latency.targets.target_file import TargetFile

Kind = Literal["compiled", "sibling", "eager"]
Shape = tuple[int, int, int, FormatName, str]
"""(M, K, N, format, kind)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MeasuredShapes:
    """Times of one GPU.

    Attributes:
        origin: Where they were measured, in words.
        compile_mode: How the Linears were compiled there; None if it is not known.
        linears: {(M, K, N, format, kind): microseconds}; of two with and without a bias the one
            with.
        attention: {`attention_key`: microseconds}.
        refusals: {(M, K, N, bias, format): what the kernel said}.
    """

    origin: str
    compile_mode: CompileMode | None = None
    linears: Mapping[Shape, float] = field(default_factory=dict)
    attention: Mapping[str, float] = field(default_factory=dict)
    refusals: Mapping[tuple[int, int, int, bool, FormatName], str] = field(default_factory=dict)

    @classmethod
    def of(cls, target: TargetFile) -> "MeasuredShapes":
        """The times of a target file."""
        linears: dict[Shape, float] = {}
        attention: dict[str, float] = {}
        for row in sorted(target.rows, key=lambda row: row.key):  # bias=1 after bias=0
            if (us := row.steady_us) is None:
                continue
            shape = parse_linear(row.key)
            if shape is None:
                attention[row.key] = us
            else:
                linears[shape.m, shape.k, shape.n, shape.format, shape.kind] = us
        return cls(
            origin=f"{target.device}, {target.measured:%B %Y}",
            compile_mode=target.compile_mode,
            linears=linears,
            attention=attention,
            refusals={(r.m, r.k, r.n, r.bias, r.format): r.reason for r in target.refusals},
        )

    def us(self, *, m: int, k: int, n: int, format: FormatName, kind: Kind) -> float | None:
        """Microseconds of a Linear; None if it was not measured, or bf16 not beside it. A variant
        that runs its plain format's kernels takes what that took.
        """
        us = self.linears.get((m, k, n, format, kind))
        if us is None:
            us = self.linears.get((m, k, n, priced_as(format), kind))
        beside = "eager" if kind == "eager" else "compiled"
        if (m, k, n, FormatName.BF16, beside) not in self.linears:
            return None
        return us

    def has(self, *, m: int, k: int, n: int, format: FormatName, kind: Kind) -> bool:
        """Whether a Linear was measured in bf16 and in a format."""
        return self.us(m=m, k=k, n=n, format=format, kind=kind) is not None
