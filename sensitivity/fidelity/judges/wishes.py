"""What does a caller ask of judges? The record `JudgeWishes`.

    JudgeWishes(asked=("my_metrics:darkest",), max_judge={"flip": 0.05})
    JudgeWishes(asked=("simm",))                    # UserError: ... did you mean 'ssim'?

Names are checked here; whether a judge can run is known to `panel.Panel`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from sensitivity.core.words import did_you_mean
from sensitivity.errors import UserError
from sensitivity.fidelity.judges.known import KNOWN

NONE = "none"
"""Asked for, it leaves out the judges that look by default."""


@dataclass(frozen=True, kw_only=True, slots=True)
class JudgeWishes:
    """What a caller asks of judges.

    Attributes:
        asked: Judges that must look: names of `KNOWN` or "module:function"; "none" leaves out those
            that look by default.
        max_judge: {judge: largest mean that the winner may have}, of judges where lower is better.
        min_judge: {judge: least mean}, of judges where higher is better.

    Raises:
        UserError: A name is no judge, or a bound is no number.
    """

    asked: tuple[str, ...] = ()
    max_judge: Mapping[str, float] = field(default_factory=dict)
    min_judge: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise UserError for what cannot be a judge or a bound."""
        fields = (
            ("judges", self.asked),
            ("max_judge", self.max_judge),
            ("min_judge", self.min_judge),
        )
        for where, names in fields:
            for name in names:
                if name not in KNOWN and ":" not in name and (where, name) != ("judges", NONE):
                    hint = did_you_mean(name, KNOWN)
                    raise UserError(
                        f"`{where}` names {name!r}; expected one of {', '.join(KNOWN)}, or"
                        f" module:function of your own: {hint or 'correct it'}"
                    )
        for where, bounds in fields[1:]:
            for name, bound in dict(bounds).items():
                if not math.isfinite(bound):
                    raise UserError(
                        f"`{where}` of {name} is {bound}; expected a finite number: correct it"
                    )

    @property
    def bounded(self) -> frozenset[str]:
        """Judges that have a bound."""
        return frozenset((*self.max_judge, *self.min_judge))

    @property
    def required(self) -> tuple[str, ...]:
        """Judges that must work, each once."""
        names = (*self.asked, *self.max_judge, *self.min_judge)
        return tuple(name for name in dict.fromkeys(names) if name != NONE)
