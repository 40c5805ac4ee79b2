"""How much of its damage does a group do in which part of a run? `StepTable`: group x part.

Damages add over the steps of a run as they add over groups. A run is cut into parts where step
policies cut it: after the first step, after the second, before the last. A table has, of each
(group, option), the part of its damage that it does when it is quantized in that part of the run
alone. These add up to 1. So what a policy leaves of the damage is a sum:

    table.weight((group, option), policy)       # 1.0 under the plain policy

At edge steps in A16 the weights are rounded still. A group's part of the damage is then multiplied
by what its weight-only form does of the damage of its format (`a16`).

`uniform` is the table where nothing was measured: each step does as much as any other. `tempered`
is one between that and what was measured: trials may show that the profile is overdrawn.
`search.calibration.by_step` measures one. A table is kept with its study as JSON, so that whatever
reads the study has it without a model.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from pydantic import TypeAdapter

from sensitivity.core.step_policy import EdgeMode, StepPolicy

Item = tuple[int, int]
"""(group index, option)"""
Part = tuple[int, int]
"""(first step of it, step before which it ends)"""
UNIFORM_A16 = 0.35
"""What weights alone do of the damage of a format, where nothing was measured: two equal and
independent errors, of weights and of activations, at the power of `calibration.by_step`.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class StepTable:
    """See the module.

    Attributes:
        steps: of a run.
        parts: cover the run, in its order.
        shares: {item: its part of the damage in each of `parts`}.
        a16: {option: damage of its weight-only form over that of its format}.
    """

    steps: int
    parts: tuple[Part, ...]
    shares: Mapping[Item, tuple[float, ...]]
    a16: Mapping[int, float]

    def weight(self, item: Item, policy: StepPolicy) -> float:
        """The damage of an item under a policy over that of every step quantized."""
        if policy.is_plain:
            return 1.0
        weight, edge = 0.0, 0.0
        if policy.mode is EdgeMode.A16:
            edge = self.a16.get(item[1], UNIFORM_A16)
        for (start, stop), share in zip(self.parts, self.shares[item], strict=True):
            inside = sum(policy.quantizes(step, steps=self.steps) for step in range(start, stop))
            part = inside / (stop - start)
            weight += share * (part + edge * (1 - part))
        return weight

    def tempered(self, power: float) -> Self:
        """The same table with each step's damage to this power; 0: each step does as much as any
        other, 1: the table itself. The shares of an item add up to what they did.
        """
        if power == 1.0:
            return self
        lengths = [stop - start for start, stop in self.parts]

        def of(shares: tuple[float, ...]) -> tuple[float, ...]:
            parts = [
                length * (share / length) ** power
                for share, length in zip(shares, lengths, strict=True)
            ]
            scale = sum(shares) / sum(parts) if any(parts) else 0.0
            return tuple(scale * part for part in parts)

        return replace(self, shares={item: of(shares) for item, shares in self.shares.items()})

    @classmethod
    def uniform(cls, items: Sequence[Item], *, steps: int) -> Self:
        """Each step does as much as any other."""
        return cls(steps=steps, parts=((0, steps),), shares=dict.fromkeys(items, (1.0,)), a16={})

    def to_json(self) -> dict[str, Any]:
        """As JSON can hold it."""
        return {
            "steps": self.steps,
            "parts": [list(part) for part in self.parts],
            "shares": [[*item, *shares] for item, shares in self.shares.items()],
            "a16": [[option, part] for option, part in self.a16.items()],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The table of `to_json`. Raises ValueError where it is none."""
        data = _OBJECT.validate_python(data)
        rows = _ROWS.validate_python(data.get("shares"))
        parts = tuple(_PARTS.validate_python(data.get("parts")))
        if any(len(row) != len(parts) + 2 for row in rows):
            raise ValueError(f"a row of the step table has not {len(parts)} parts")
        return cls(
            steps=_COUNT.validate_python(data.get("steps")),
            parts=parts,
            shares={(int(row[0]), int(row[1])): tuple(row[2:]) for row in rows},
            a16={int(option): part for option, part in _ROWS.validate_python(data.get("a16"))},
        )


_ROWS = TypeAdapter(list[list[float]])
_PARTS = TypeAdapter(list[Part])
_COUNT = TypeAdapter(int)
_OBJECT = TypeAdapter(dict[str, Any])


def parts_of_run(policies: Sequence[StepPolicy], *, steps: int) -> tuple[Part, ...]:
    """The parts into which policies cut a run."""
    cuts = {0, steps}
    for policy in policies:
        cuts |= {min(policy.first_steps, steps), max(steps - policy.last_steps, 0)}
    ordered = sorted(cuts)
    return tuple(itertools.pairwise(ordered))
