"""Which groups carry most of the damage, and what would skipping them cost? `rank`, `long_tail`.

Damage is the square of an error: independent errors add in quadrature, so squares add up (LOG.md
shows how far that holds). A share is a group's damage over that of all groups in the same format,
each quantized alone. The shares of one format add up to 1.

    rows = rank(candidates, errors)             # worst first
    long_tail(rows, FormatName.NVFP4)           # the few that carry 40 %
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sensitivity.core.format_name import FormatName
from sensitivity.search.calibration.jobs import Errors
from sensitivity.search.candidates import Candidates

TAIL_SHARE = 0.4


@dataclass(frozen=True, kw_only=True, slots=True)
class Sensitivity:
    """One group in one format.

    Attributes:
        group: its name.
        fqns: the Linears that take the format.
        format: the format.
        error: as the estimator gives it.
        share: of the damage of its format, 0 to 1.
        saved_s: priced seconds of one pipeline run that the format saves here; negative where it is
            slower.
    """

    group: str
    fqns: tuple[str, ...]
    format: FormatName
    error: float
    share: float
    saved_s: float

    @property
    def share_per_ms(self) -> float | None:
        """Share of the damage for each priced ms saved; None where nothing is saved.

        Groups with a large value are the first to skip.
        """
        return self.share / (self.saved_s * 1e3) if self.saved_s > 0 else None

    def to_json(self) -> dict[str, Any]:
        """The row as a calibration's JSON has it."""
        return {
            "group": self.group,
            "fqns": list(self.fqns),
            "format": str(self.format),
            "error": self.error,
            "share": self.share,
            "saved_ms": self.saved_s * 1e3,
            "share_per_ms": self.share_per_ms,
        }


def rank(candidates: Candidates, errors: Errors) -> tuple[Sensitivity, ...]:
    """Every (group, option) of `errors`, the largest error first."""
    total: dict[int, float] = {}
    for (_, option), error in errors.items():
        total[option] = total.get(option, 0.0) + error**2
    rows = [
        Sensitivity(
            group=candidates.groups[g].name,
            fqns=candidates.groups[g].members[option],
            format=candidates.formats[option],
            error=error,
            share=error**2 / total[option] if total[option] else 0.0,
            saved_s=candidates.groups[g].gains_s[option],
        )
        for (g, option), error in errors.items()
    ]
    return tuple(sorted(rows, key=lambda row: -row.error))


def long_tail(
    rows: Sequence[Sensitivity], name: FormatName, *, share: float = TAIL_SHARE
) -> tuple[Sensitivity, ...]:
    """The fewest groups that carry at least `share` of the damage of a format, the worst first."""
    tail: list[Sensitivity] = []
    carried = 0.0
    for row in sorted((row for row in rows if row.format is name), key=lambda row: -row.share):
        if carried >= share:
            break
        tail.append(row)
        carried += row.share
    return tuple(tail)
