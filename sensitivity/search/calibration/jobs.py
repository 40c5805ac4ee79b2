"""What is an estimator asked for, and what does it give? `Job` and `Errors`.

A **job** is Linears in one format; all others stay bf16. Its error is at least 0 and finite: an
error that is NaN or inf is `BROKEN`.
"""

import math
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import is_in
from sensitivity.search.candidates import Candidates
from sensitivity.search.store import assignment_key

BROKEN = 10.0
"""The error of an output that is NaN or inf, as operands of zeros give in nvfp4 and fp8: ten times
the output itself. Every other error is smaller.
"""
Errors = dict[tuple[int, int], float]
"""{(group index, option): error}; option 0, bf16, is left out."""


class EstimatorName(StrEnum):
    """The estimators, the most expensive first."""

    ROLLOUT = "rollout"
    OUTPUT = "output"
    PREVIEW = "preview"
    GRADIENT = "gradient"
    LOCAL = "local"


@dataclass(frozen=True, kw_only=True)
class Job:
    """Linears (`fqns`) that take one quantized `format` while all others stay bf16."""

    fqns: tuple[str, ...]
    format: FormatName

    @property
    def formats(self) -> dict[str, FormatName]:
        """{FQN: format}, as `Switch.set` takes it."""
        return dict.fromkeys(self.fqns, self.format)

    @cached_property
    def key(self) -> str:
        """The job's name in the store: the same for equal assignments of any group."""
        return assignment_key(self.formats)

    def is_of(self, component: str) -> bool:
        """Whether its Linears belong to this denoiser."""
        return is_in(self.fqns[0], component)

    @property
    def linears(self) -> tuple["Job", ...]:
        """One job for each Linear."""
        return tuple(Job(fqns=(fqn,), format=self.format) for fqn in self.fqns)


def finite(error: float) -> float:
    """The error itself, kept below BROKEN; BROKEN where it is NaN or inf."""
    return min(error, math.nextafter(BROKEN, 0)) if math.isfinite(error) else BROKEN


def broken_options(errors: Errors) -> frozenset[tuple[int, int]]:
    """The (group, option) pairs whose outputs are NaN or inf.

    torchao divides by zero where an NVFP4 operand, or a row of an FP8 one, is all zeros.
    """
    return frozenset(place for place, error in errors.items() if error >= BROKEN)


def jobs_of(candidates: Candidates) -> dict[tuple[int, int], Job]:
    """{(group index, option): job} of every option that a Linear of the group takes, but bf16."""
    return {
        (g, option): Job(fqns=group.members[option], format=candidates.formats[option])
        for g, group in enumerate(candidates.groups)
        for option in range(1, len(candidates.formats))
        if group.members[option]
    }
