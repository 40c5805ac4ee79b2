"""How much GPU memory does a run with a choice need? `ChoiceMemory`: exact sums, one a group.

The predicted peak of a run (`latency.memory`) is linear in a choice: what every run needs, minus
what the weights of each group shrink by in its format. So it is kept as integers, one for each
option of each group, and the peak of any choice is a sum. It is the same number as
`latency.memory.estimate_memory` gives for the choice's formats.

    memory = candidates.memory                         # `search.memory_bound` makes it
    memory.peak_bytes((0, 1, 1))                       # 21_300_000_000
    memory.peak_bytes((0, 1, 1), keeps_copies=True)    # bf16 weights beside, for bf16 edge steps
    memory.least_bytes()                               # of all choices

Conventions. Bytes, at the scale that a study is priced at. A choice has an option for each group.
Where bf16 weights stay beside the quantized ones (`core.step_policy`, `EdgeMode.BF16`), each
quantized Linear adds its bf16 weight.

What it does not know: what CUDA itself takes, see `latency.memory`. A bound on memory compares this
prediction, and says so.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sensitivity.errors import UserError

Bytes = tuple[tuple[int, ...], ...]
"""(groups, options)"""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChoiceMemory:
    """Predicted bytes of any choice.

    Attributes:
        bf16_peak_bytes: the peak of a run with nothing quantized.
        saved_bytes: (groups, options) what the weights of a group shrink by; 0 for bf16.
        copy_bytes: (groups, options) the bf16 weights of what an option quantizes; 0 for bf16.
    """

    bf16_peak_bytes: int
    saved_bytes: Bytes
    copy_bytes: Bytes

    def peak_bytes(self, choice: Sequence[int], *, keeps_copies: bool = False) -> int:
        """The peak of a run.

        Args:
            choice: one option for each group, in their order.
            keeps_copies: whether the bf16 weights of what is quantized stay beside.
        """
        saved = sum(own[o] for own, o in zip(self.saved_bytes, choice, strict=True))
        if not keeps_copies:
            return self.bf16_peak_bytes - saved
        copies = sum(own[o] for own, o in zip(self.copy_bytes, choice, strict=True))
        return self.bf16_peak_bytes - saved + copies

    def least_bytes(self, *, keeps_copies: bool = False) -> int:
        """The least peak of any choice; with `keeps_copies`, of those that keep bf16 weights."""
        nothing = tuple((0,) * len(own) for own in self.copy_bytes)
        beside = self.copy_bytes if keeps_copies else nothing
        return self.bf16_peak_bytes - sum(
            max(saved - copied for saved, copied in zip(*own, strict=True))
            for own in zip(self.saved_bytes, beside, strict=True)
        )


def check_bound(most_bytes: int | None) -> None:
    """Raise UserError for a bound on memory that makes no sense; None is no bound."""
    if most_bytes is not None and most_bytes <= 0:
        raise UserError(
            f"`max_memory_bytes` is {most_bytes}; expected bytes above 0: choose a peak of GPU"
            " memory, such as 24_000_000_000"
        )


def unknown_memory(model: str) -> UserError:
    """The error of a bound on memory where no peak is known."""
    return UserError(
        f"the peak memory of {model} is not known, since its run was not counted; expected a"
        " pipeline that runs without weights where `max_memory_bytes` is set: leave it out, and"
        " time the winner's run, which measures its peak"
    )
