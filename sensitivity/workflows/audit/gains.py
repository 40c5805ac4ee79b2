"""Does a list quantize what gains, and leave alone what does not?

Checks of priced seconds, and of what formats and the target's kernels refuse.

Gains are judged by family (see `audit.model`). If q gains more than k and v lose, and the study
keeps the three together, quantizing them is no loss. What is predicted is a warning at most.

Skipping is said to be for nothing only if a role would gain at least `WORTH` of a run. That is a
note, since a Linear may be skipped for the sake of the pictures, which prices do not see. It is a
warning if the Linear was calibrated and matters little.

Nothing is measured here, and a gain below the uncertainty of the price model is not marked.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers.served_lists import ServedList
from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import role_of
from sensitivity.core.patterns import expand
from sensitivity.latency import batch_rows
from sensitivity.latency.refusals import REFUSED
from sensitivity.shapes.families import fused_role
from sensitivity.workflows.audit.findings import Finding, Kind, Severity
from sensitivity.workflows.audit.served import never_quantized
from sensitivity.workflows.audit.subject import Subject
from sensitivity.workflows.audit.wording import first_names, gains, milliseconds, plural, some_roles

WORTH = 0.005
"""Part of a bf16 run that a role must gain before skipping it is reported."""


def refused_by_format(subject: Subject) -> Iterator[Finding]:
    """Quantized Linears whose shape or dtype their format does not take, or whose shape the
    target's kernel refuses.
    """
    model, formats = subject.model, subject.formats
    reasons = {
        fqn: model.refusal(fqn, formats[fqn])
        for fqn in subject.quantized
        if not model.unmeasured(fqn, formats[fqn])
    }
    for reason in dict.fromkeys(why for why in reasons.values() if why):
        fqns = tuple(fqn for fqn, why in reasons.items() if why == reason)
        name = formats[fqns[0]]
        if reason.startswith(REFUSED):
            does = "a run stops there"
        elif name is FormatName.FP8:
            does = "torchao leaves it in bf16 without a word"
        else:
            does = "quantizing fails"
        yield Finding(
            kind=Kind.REFUSED,
            severity=Severity.ERROR,
            fqns=fqns,
            rows=model.rows(fqns, subject.judged),
            message=(
                f"{plural(len(fqns), 'Linear')} cannot be {name}: {reason}; {does}: skip"
                f" {first_names(fqns)}"
            ),
        )


def not_measured(subject: Subject) -> Iterator[Finding]:
    """Quantized Linears that could not be timed, so that nothing is known of their gain."""
    reasons = {
        fqn: subject.model.unmeasured(fqn, subject.formats[fqn]) for fqn in subject.quantized
    }
    for reason in dict.fromkeys(why for why in reasons.values() if why):
        fqns = tuple(fqn for fqn, why in reasons.items() if why == reason)
        yield Finding(
            kind=Kind.UNMEASURED,
            severity=Severity.WARNING,
            fqns=fqns,
            rows=subject.model.rows(fqns, subject.judged),
            message=(
                f"{plural(len(fqns), 'quantized Linear')} could not be measured: {reason}; whether"
                f" {'it runs' if len(fqns) == 1 else 'they run'} is not known, and bf16 is priced:"
                f" {first_names(fqns)}"
            ),
        )


def quantized_at_a_loss(subject: Subject) -> Iterator[Finding]:
    """Quantized Linears that are slower than in bf16."""
    fqns, cost_s = losing(subject, subject.formats)
    if fqns:
        rows = subject.model.rows(fqns, subject.judged)
        together = (
            "; what the study keeps together is judged together"
            if any(row.gain_s > 0 for row in rows)
            else ""
        )
        yield Finding(
            kind=Kind.LOSS,
            severity=Severity.WARNING,
            fqns=fqns,
            rows=rows,
            cost_s=cost_s,
            message=(
                f"{plural(len(fqns), 'Linear')} {'is' if len(fqns) == 1 else 'are'} slower"
                f" quantized than in bf16, {milliseconds(cost_s)} a run"
                f" ({cost_s / subject.model.bf16_s:.2%} of bf16's):"
                f" {some_roles(row.role for row in rows)}{together}"
            ),
        )


def losing(subject: Subject, formats: Mapping[str, ListedFormat]) -> tuple[tuple[str, ...], float]:
    """The Linears of families that are slower with these formats than in bf16, and their loss.

    Linears that the format refuses are not among them, nor families with a format that has no
    price.

    Returns:
        The FQNs, and the seconds of a run that they lose together.
    """
    fqns, lost_s = list[str](), 0.0
    for family in subject.model.families:
        if not all(isinstance(formats[fqn], FormatName) for fqn in family):
            continue
        quantized = [
            fqn
            for fqn in family
            if formats[fqn].is_quantized and not subject.model.refusal(fqn, formats[fqn])
        ]
        gain_s = subject.gain_with(formats, quantized)
        if gain_s < 0:
            fqns += quantized
            lost_s -= gain_s
    return tuple(fqns), lost_s


def nothing_quantized(subject: Subject) -> Iterator[Finding]:
    """A list that leaves every Linear in bf16."""
    if subject.quantized:
        return
    gains_something = any(
        not subject.model.refusal(fqn, subject.format) and subject.gain_s([fqn]) > 0
        for fqn in subject.formats
    )
    none_would = "" if gains_something else f", and none would gain as {subject.format}"
    listed, tree = subject.listed, subject.model.tree
    if isinstance(listed, ServedList) and len(never_quantized(listed, tree)) == len(tree.fqns):
        kinds = ", ".join(dict.fromkeys(tree.classes.values()))
        none_would = f", as {listed.consumer} quantizes no Linear of {kinds}, whatever a list says"
    yield Finding(
        kind=Kind.SKIPPED,
        severity=Severity.WARNING if gains_something else Severity.NOTE,
        fqns=tuple(subject.formats),
        message=(f"nothing is quantized: all {len(subject.formats)} Linears stay bf16{none_would}"),
    )


def skipped_for_nothing(subject: Subject, harmless: Collection[str] | None) -> Iterator[Finding]:
    """Linears in bf16 that would gain, and that the study does not always skip.

    Args:
        subject: the list.
        harmless: Linears that are calibrated and matter little; None if nothing is calibrated.
    """
    by_reason: dict[str, list[str]] = {}
    for fqn in _worth_quantizing(subject):
        by_reason.setdefault(_why_skipped(fqn, harmless), []).append(fqn)
    model = subject.model
    for reason, fqns in by_reason.items():
        gain_s = subject.gain_s(fqns)
        yield Finding(
            kind=Kind.SKIPPED,
            severity=Severity.WARNING if fqns[0] in (harmless or ()) else Severity.NOTE,
            fqns=tuple(fqns),
            cost_s=gain_s,
            rows=model.rows(fqns, subject.judged),
            message=(
                f"{plural(len(fqns), 'Linear')} in bf16 would gain {gain_s / model.bf16_s:.1%} of"
                f" a bf16 run as {subject.format}; {reason}"
            ),
        )


def _worth_quantizing(subject: Subject) -> list[str]:
    """The skipped Linears whose role would gain at least `WORTH` of a run."""
    model, search = subject.model, subject.model.spec.search
    always = expand(
        [entry.pattern for entry in search.always_skip],
        model.tree.fqns,
        model.run.table.components,
    ).matched

    def could_gain(family: tuple[str, ...]) -> bool:
        return (
            all(
                not subject.formats[fqn].is_quantized
                and fqn not in always
                and fqn in model.linears
                and not model.refusal(fqn, subject.format)
                for fqn in family
            )
            and subject.gain_s(family) > 0
        )

    by_role: dict[str, list[str]] = {}
    for family in filter(could_gain, model.families):
        by_role.setdefault(fused_role(role_of(family[0]), search.fused), []).extend(family)
    return [
        fqn
        for fqns in by_role.values()
        if subject.gain_s(fqns) >= WORTH * model.bf16_s
        for fqn in fqns
    ]


def _why_skipped(fqn: str, harmless: Collection[str] | None) -> str:
    """What is known of the pictures' part in it, as a clause."""
    if harmless is None:
        return "no sensitivity of them is known: they may be skipped for the pictures' sake"
    if fqn in harmless:
        return "calibrated, and they matter little"
    return "some of them matter, or are not calibrated"


def below_rule_of_thumb(subject: Subject) -> Iterator[Finding]:
    """Quantized Linears with min(M, K, N) below the study's rule of thumb."""
    model, least = subject.model, subject.model.spec.rule_of_thumb.min_dim
    fqns = tuple(
        fqn
        for fqn in subject.quantized
        if (x := model.linears.get(fqn)) and min(x.m, x.k, x.n) < least
    )
    if not fqns:
        return
    axis = batch_rows(model.pricer.table)
    by_m = Counter(model.linears[fqn].m for fqn in fqns)
    words = [
        f"{number} with M = {m}{' (the batch axis: modulation, embeddings)' if m == axis else ''}"
        for m, number in sorted(by_m.items())
    ]
    yield Finding(
        kind=Kind.SMALL,
        severity=Severity.NOTE,
        fqns=fqns,
        rows=model.rows(fqns, subject.judged),
        message=(
            f"{plural(len(fqns), 'quantized Linear')} of {len(subject.quantized)} with min(M, K,"
            f" N) < {least}, which the rule of thumb skips: {first_names(words)}; together they"
            f" {gains(subject.gain_s(fqns))}"
        ),
    )


def never_called(subject: Subject) -> Iterator[Finding]:
    """Quantized Linears that the profiled run never called, so that they have no price."""
    fqns = tuple(fqn for fqn in subject.quantized if fqn not in subject.model.linears)
    if fqns:
        yield Finding(
            kind=Kind.UNCALLED,
            severity=Severity.NOTE,
            fqns=fqns,
            message=(
                f"{plural(len(fqns), 'quantized Linear')} never called in the profiled run: no"
                " price"
            ),
        )
