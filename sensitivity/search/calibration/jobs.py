"""What is measured one at a time in a calibration, and what comes out: `Job` and `Errors`."""

from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import is_in
from sensitivity.search.candidates import Candidates
from sensitivity.search.store import assignment_key

# the error of an output that is NaN or inf, as zeros give in nvfp4 and fp8: ten times the output
# itself; no other is as large
BROKEN = 10.0
Errors = dict[tuple[int, int], float]
"""{(group index, option): error}; option 0, bf16, is left out."""


class EstimatorName(StrEnum):
    """The estimators, the dearest first."""

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
        """The job's name in the store: one for equal assignments, whatever group or granularity
        they came from.
        """
        return assignment_key(self.formats)

    def is_of(self, component: str) -> bool:
        """Whether its Linears are of this denoiser."""
        return is_in(self.fqns[0], component)

    @property
    def linears(self) -> tuple["Job", ...]:
        """One job a Linear."""
        return tuple(Job(fqns=(fqn,), format=self.format) for fqn in self.fqns)


def broken_options(errors: Errors) -> frozenset[tuple[int, int]]:
    """The (group, option)s whose outputs are NaN or inf: torchao divides by zero where all of an
    NVFP4 operand, or a row of an FP8 one, is zero.
    """
    return frozenset(place for place, error in errors.items() if error >= BROKEN)


def jobs_of(candidates: Candidates) -> dict[tuple[int, int], Job]:
    """{(group index, option): job} of every option that a Linear of the group takes, bf16 left out."""
    return {
        (g, option): Job(fqns=group.members[option], format=candidates.formats[option])
        for g, group in enumerate(candidates.groups)
        for option in range(1, len(candidates.formats))
        if group.members[option]
    }
