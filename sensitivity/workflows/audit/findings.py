"""What does an audit find? `Finding`: its kind, how bad it is, and the Linears that it is about."""

from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any


class Severity(StrEnum):
    """How bad a finding is.

    An error is surely not what the author wants. A warning is probable, or predicted. A note is
    worth knowing.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Kind(StrEnum):
    """What is found."""

    FORM = "wrong-form"
    PART = "unknown-part"
    DEAD = "dead-entry"
    OVER = "over-matching"
    REDUNDANT = "redundant-entry"
    REFUSED = "refused-by-format"
    UNMEASURED = "not-measured"
    LOSS = "quantized-at-a-loss"
    HOST = "limited-by-the-host"
    SENSITIVE = "sensitive-quantized"
    FUSED = "fused-conflict"
    STEPS = "step-policy"
    PATTERNS = "too-many-block-patterns"
    SKIPPED = "skipped-for-nothing"
    SMALL = "below-rule-of-thumb"
    MEMORY = "peak-memory"
    VARIES = "depends-on-the-run"
    UNCALLED = "never-called"


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleRow:
    """Linears of one role and shape.

    Attributes:
        role: their role.
        linears: how many there are.
        m, k, n: their shape; 0 if they were never called.
        calls: calls of a run, of all of them.
        gain_s: seconds of a run that they gain together; negative if they lose.
    """

    role: str
    linears: int
    m: int
    k: int
    n: int
    calls: int
    gain_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One fault, or one thing worth knowing.

    Attributes:
        kind, severity: what it is, and how bad.
        message: a sentence, with the next step where there is one.
        entry: the list's entry that it is about; "" if it is about none.
        line: the line of the entry.
        fqns: every Linear that it is about.
        rows: the same by role and shape, where they have a price.
        cost_s: priced seconds of a run that it costs; None if it has no price.
        closest: live names that a dead entry may mean.
    """

    kind: Kind
    severity: Severity
    message: str
    entry: str = ""
    line: int | None = None
    fqns: tuple[str, ...] = ()
    rows: tuple[RoleRow, ...] = ()
    cost_s: float | None = None
    closest: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """An entry of "findings" in the JSON. Of the empty fields only "fqns" is written."""
        data: dict[str, Any] = {
            "kind": self.kind.value,
            "severity": self.severity.value,
            "message": self.message,
        }
        if self.entry:
            data |= {"entry": self.entry, "line": self.line}
        if self.closest:
            data["closest"] = list(self.closest)
        if self.cost_s is not None:
            data["cost_s"] = self.cost_s
        if self.rows:
            data["roles"] = [asdict(row) for row in self.rows]
        return data | {"linears": len(self.fqns), "fqns": list(self.fqns)}
