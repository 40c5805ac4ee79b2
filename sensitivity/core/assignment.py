"""What runs in which format, and at which steps? `Assignment`.

It is the whole of what a trial chooses: {FQN: format}, and a step policy beside it. It reads as the
mapping that it holds, so whatever only asks for formats takes it as it takes a dict. A copy made by
`dict(...)` is the formats alone; what must know the policy asks for an `Assignment`.

    assignment = Assignment({"proj_out": FormatName.NVFP4}, StepPolicy(first_steps=2))
    assignment["proj_out"], assignment.policy.first_steps      # nvfp4, 2
    Assignment.of({"proj_out": FormatName.NVFP4}).policy       # the plain one
"""

from collections.abc import Iterator, Mapping

from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import PLAIN, StepPolicy


class Assignment(Mapping[str, FormatName]):
    """Formats of Linears, by FQN, and the policy by which steps run in them. Immutable.

    Args:
        formats: {FQN: format}; Linears left out are bf16.
        policy: Which steps run at higher precision.

    Attributes:
        policy: As given; the plain one where nothing is quantized, since it changes nothing there.
    """

    __slots__ = ("_formats", "policy")

    def __init__(self, formats: Mapping[str, FormatName], policy: StepPolicy = PLAIN) -> None:
        self._formats = dict(formats)
        quantizes = any(FormatName(name).is_quantized for name in self._formats.values())
        self.policy = policy if quantizes and not policy.is_plain else PLAIN

    @classmethod
    def of(cls, formats: Mapping[str, FormatName]) -> "Assignment":
        """`formats` itself where it is an Assignment; else it with the plain policy."""
        return formats if isinstance(formats, Assignment) else cls(formats)

    def __getitem__(self, fqn: str) -> FormatName:
        return self._formats[fqn]

    def __iter__(self) -> Iterator[str]:
        return iter(self._formats)

    def __len__(self) -> int:
        return len(self._formats)

    def __eq__(self, other: object) -> bool:
        """Equal formats and policy; a plain mapping has the plain policy."""
        if not isinstance(other, Mapping):
            return NotImplemented
        return self._formats == dict(other) and self.policy == Assignment.of(other).policy

    def __hash__(self) -> int:
        return hash((frozenset(self._formats.items()), self.policy))

    def __repr__(self) -> str:
        policy = "" if self.policy.is_plain else f", {self.policy.words}"
        return f"Assignment({len(self)} Linears{policy})"
