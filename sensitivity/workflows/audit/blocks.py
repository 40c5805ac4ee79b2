"""Do the formats of a list fit together?

Fused Linears with different formats, block patterns beyond torch's limit, and sensitive Linears
that are quantized.

Fused groups are those of the study (`search.fused`) that read one input: diffusers and torchao run
them apart, servers that fuse them refuse the list or quantize all alike. Block patterns count the
graphs of regional compilation. Sensitivities are read from the study's database, where `calibrate`
or a search has put them; nothing is measured here.

Sensitive are the Linears that together carry `HALF` of the calibrated damage (the sum of squared
errors, as independent errors add up), averaged over all calibrations in the database that cover the
format; harmless those that together carry the last `LITTLE` of it.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import role_of
from sensitivity.errors import FormatError, SensitivityError
from sensitivity.recipes.parts import count_stack_patterns
from sensitivity.search.block_patterns import RECOMPILE_LIMIT
from sensitivity.search.calibration.jobs import BROKEN, jobs_of
from sensitivity.search.candidates import make_candidates
from sensitivity.search.store import Store, assignment_key
from sensitivity.workflows.audit.subject import (
    AuditedModel,
    Finding,
    Kind,
    Severity,
    Subject,
    counted,
    milliseconds,
    some_roles,
)

SERVERS = ("vllm-omni", "sglang")
"""Forms of servers that run fused Linears as one, so that a conflict is an error there."""
HALF, LITTLE = 0.5, 0.2
COVERED = 0.5
"""Part of the best calibration's Linears that another must cover to be averaged with it."""


def fused_conflicts(subject: Subject) -> Iterator[Finding]:
    """Fused Linears of one block with different formats."""
    torn = [
        family
        for family in subject.model.fused
        if len({subject.formats[fqn] for fqn in family}) > 1
    ]
    if torn:
        severity = Severity.ERROR if subject.listed.consumer in SERVERS else Severity.WARNING
        first = ", ".join(f"{fqn} {subject.formats[fqn]}" for fqn in torn[0])
        yield Finding(
            kind=Kind.FUSED,
            severity=severity,
            fqns=tuple(fqn for family in torn for fqn in family),
            message=(
                f"{counted(len(torn), 'group')} of Linears that servers fuse"
                f" {'has' if len(torn) == 1 else 'have'} different formats: {first}; give each"
                " group one format"
            ),
        )


def too_many_patterns(subject: Subject) -> Iterator[Finding]:
    """Lists of blocks with more distinct patterns than torch compiles."""
    for stack, count in count_stack_patterns(subject.formats).items():
        if count > RECOMPILE_LIMIT:
            yield Finding(
                kind=Kind.PATTERNS,
                severity=Severity.WARNING,
                message=(
                    f"the blocks of {stack} have {count} distinct patterns of formats, and torch"
                    f" compiles {RECOMPILE_LIMIT} graphs of a block class by default"
                    " (torch._dynamo.config.recompile_limit): treat blocks alike, or raise the"
                    " limit"
                ),
            )


def stored_damage(model: AuditedModel, name: FormatName, storage: Path) -> dict[str, float]:
    """{FQN: part of the calibrated damage in a format}, from a study's database; {} where there is
    none.

    Raises:
        StoreError, OutputError: the database is in use, damaged, or cannot be opened.
    """
    if not storage.is_file():
        return {}
    with Store.open(storage) as store:
        calibrations = store.find_calibrations()
    jobs: dict[str, tuple[str, ...]] = {
        assignment_key({fqn: name}): (fqn,) for fqn in model.tree.fqns
    }
    try:  # some estimators measure whole groups
        groups = make_candidates(
            model.pricer.table, model.spec, formats=(name,), latency=model.pricer.latency
        )
        jobs |= {job.key: job.fqns for job in jobs_of(groups).values()}
    except FormatError:
        pass
    found = [
        own
        for rows in calibrations.values()
        if (own := _shares({jobs[key]: error for key, error in rows.items() if key in jobs}))
    ]
    most = max(map(len, found), default=0)
    counted_in = [own for own in found if len(own) >= COVERED * most]
    totals: dict[str, list[float]] = {}
    for own in counted_in:
        for fqn, share in own.items():
            totals.setdefault(fqn, []).append(share)
    return {fqn: sum(shares) / len(shares) for fqn, shares in totals.items()}


def _shares(errors: Mapping[tuple[str, ...], float]) -> dict[str, float]:
    """{FQN: its part of the sum of squared errors}; of a group measured whole, each Linear has an
    equal part. Broken outputs count as the largest error there is.
    """
    squares = {
        fqns: min(error, BROKEN) ** 2 for fqns, error in errors.items() if math.isfinite(error)
    }
    total = sum(squares.values())
    shares: dict[str, float] = {}
    for fqns in sorted(squares, key=len):  # a Linear's own number before its group's
        for fqn in fqns:
            shares.setdefault(fqn, squares[fqns] / len(fqns) / total if total else 0.0)
    return shares


def carriers(damage: Mapping[str, float], part: float) -> frozenset[str]:
    """The fewest Linears that together carry this part of the damage."""
    total, chosen, carried = sum(damage.values()), list[str](), 0.0
    for fqn in sorted(damage, key=lambda fqn: -damage[fqn]):
        if carried >= part * total:
            break
        chosen.append(fqn)
        carried += damage[fqn]
    return frozenset(chosen)


def sensitive_quantized(subject: Subject, damage: Mapping[str, float]) -> Iterator[Finding]:
    """Quantized Linears that carry much of the calibrated damage."""
    sensitive = carriers(damage, HALF)
    hit = tuple(
        fqn
        for fqn in sorted(sensitive, key=lambda fqn: -damage[fqn])
        if subject.formats[fqn] is not FormatName.BF16
    )
    if hit:
        share, gain_s = sum(damage[fqn] for fqn in hit) / sum(damage.values()), subject.gain_s(hit)
        yield Finding(
            kind=Kind.SENSITIVE,
            severity=Severity.WARNING,
            fqns=hit,
            rows=subject.model.rows(hit, subject.judged),
            message=(
                f"{len(hit)} of the {len(sensitive)} most sensitive of {len(damage)} calibrated"
                f" Linears are quantized: {share:.0%} of the damage for {milliseconds(gain_s)}"
                f" ({some_roles(role_of(fqn) for fqn in hit)})"
            ),
        )


def harmless(damage: Mapping[str, float]) -> frozenset[str] | None:
    """Linears that together carry the last of the damage; None where nothing is calibrated."""
    return frozenset(damage) - carriers(damage, 1 - LITTLE) if damage else None


def unreadable(storage: Path, error: SensitivityError) -> Finding:
    """What is said where the database cannot be read."""
    return Finding(
        kind=Kind.SENSITIVE,
        severity=Severity.NOTE,
        message=f"layer sensitivities in {storage} were not looked at: {error}",
    )
