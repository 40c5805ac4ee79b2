"""Does a list quantize the Linears that the pictures depend on most?

The damage of each Linear is read from the study's database (`workflows.stored_damage`). Sensitive
are the fewest Linears that together carry `HALF` of it; harmless are those that together carry the
last `LITTLE` of it.
"""

from collections.abc import Iterator, Mapping

from sensitivity.core.fqns import role_of
from sensitivity.core.storage_url import Storage
from sensitivity.errors import SensitivityError
from sensitivity.workflows.audit.findings import Finding, Kind, Severity
from sensitivity.workflows.audit.subject import Subject
from sensitivity.workflows.audit.wording import milliseconds, some_roles

HALF, LITTLE = 0.5, 0.2
"""Parts of the calibrated damage."""


def carriers(damage: Mapping[str, float], part: float) -> frozenset[str]:
    """The fewest Linears that together carry this part of the damage."""
    total, chosen, carried = sum(damage.values()), list[str](), 0.0
    for fqn in sorted(damage, key=lambda fqn: -damage[fqn]):
        if carried >= part * total:
            break
        chosen.append(fqn)
        carried += damage[fqn]
    return frozenset(chosen)


def harmless(damage: Mapping[str, float]) -> frozenset[str] | None:
    """The Linears that carry the last `LITTLE` of the damage; None if nothing is calibrated."""
    return frozenset(damage) - carriers(damage, 1 - LITTLE) if damage else None


def sensitive_quantized(subject: Subject, damage: Mapping[str, float]) -> Iterator[Finding]:
    """Quantized Linears that carry much of the calibrated damage; none if nothing is calibrated."""
    sensitive = carriers(damage, HALF)
    hit = tuple(
        fqn
        for fqn in sorted(sensitive, key=lambda fqn: -damage[fqn])
        if subject.formats[fqn].is_quantized
    )
    if hit:
        share = sum(damage[fqn] for fqn in hit) / sum(damage.values())
        yield Finding(
            kind=Kind.SENSITIVE,
            severity=Severity.WARNING,
            fqns=hit,
            rows=subject.model.rows(hit, subject.judged),
            message=(
                f"{len(hit)} of the {len(sensitive)} most sensitive of {len(damage)} calibrated"
                f" Linears are quantized: {share:.0%} of the damage for"
                f" {milliseconds(subject.gain_s(hit))}"
                f" ({some_roles(role_of(fqn) for fqn in hit)})"
            ),
        )


def unreadable(storage: Storage, error: SensitivityError) -> Finding:
    """The finding for a database that cannot be read."""
    return Finding(
        kind=Kind.SENSITIVE,
        severity=Severity.NOTE,
        message=f"layer sensitivities in {storage} were not looked at: {error}",
    )
