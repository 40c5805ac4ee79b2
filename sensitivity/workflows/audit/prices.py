"""Does a list quantize what gains, and leave alone what does not?

Checks of predicted seconds, of what formats refuse, and of how both depend on the run.

Gains are judged by family (see `_base`): where q gains more than k and v lose, and the study keeps
all three together, quantizing them is no loss. What is predicted is a warning at most. Skipping is
said to be for nothing only from `WORTH` of a run on, by role; that is a note, since a Linear may be
skipped for the pictures' sake, which prices do not see, and a warning where the Linear was
calibrated and matters little.

What it does not do: measure, or say that a gain below the model's uncertainty is real.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import role_of
from sensitivity.core.patterns import expand
from sensitivity.errors import SensitivityError
from sensitivity.latency import batch_rows
from sensitivity.shapes.families import fused_role
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.audit.subject import (
    AuditedModel,
    Finding,
    Kind,
    Severity,
    Subject,
    counted,
    milliseconds,
    some,
    some_roles,
)

WORTH = 0.005
"""Part of a bf16 run that quantizing a role must gain before skipping it is worth a word."""
VARYING = 0.0005
"""Part of a bf16 run by which gains must differ under other settings before that is worth a word.
"""
OTHER_BATCH, LONG_PROMPT, SHORT_PROMPT = 4, 512, 16
"""A batch that servers run, the tokens of a long prompt (what FLUX pads to), and those of a short
one.
"""


def refused_by_format(subject: Subject) -> Iterator[Finding]:
    """Quantized Linears whose shape or dtype their format does not take."""
    reasons = {fqn: subject.model.refusal(fqn, subject.formats[fqn]) for fqn in subject.quantized}
    for reason in dict.fromkeys(why for why in reasons.values() if why):
        fqns = tuple(fqn for fqn, why in reasons.items() if why == reason)
        name = subject.formats[fqns[0]]
        does = (
            "torchao leaves it in bf16 without a word"
            if name is FormatName.FP8
            else "quantizing fails"
        )
        yield Finding(
            kind=Kind.REFUSED,
            severity=Severity.ERROR,
            fqns=fqns,
            rows=subject.model.rows(fqns, subject.judged),
            message=(
                f"{counted(len(fqns), 'Linear')} cannot be {name}: {reason}; {does}: skip"
                f" {some(fqns)}"
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
                f"{counted(len(fqns), 'Linear')} {'is' if len(fqns) == 1 else 'are'} slower"
                f" quantized than in bf16, {milliseconds(cost_s)} a run"
                f" ({cost_s / subject.model.bf16_s:.2%} of bf16's):"
                f" {some_roles(row.role for row in rows)}{together}"
            ),
        )


def losing(subject: Subject, formats: Mapping[str, FormatName]) -> tuple[tuple[str, ...], float]:
    """The Linears of families that are slower with these formats than in bf16, and the seconds of a
    run that they lose; those that the format refuses not among them.
    """
    fqns, lost_s = list[str](), 0.0
    for family in subject.model.families:
        quantized = [
            fqn
            for fqn in family
            if formats[fqn] is not FormatName.BF16 and not subject.model.refusal(fqn, formats[fqn])
        ]
        gain_s = subject.gain_with(formats, quantized)
        if gain_s < 0:
            fqns += quantized
            lost_s -= gain_s
    return tuple(fqns), lost_s


def skipped_for_nothing(subject: Subject, harmless: Iterable[str] | None) -> Iterator[Finding]:
    """Linears in bf16 that would gain, and that the study does not skip always.

    `harmless`: those that are calibrated and matter little; None, nothing is.

    A list that quantizes nothing is told so.
    """
    if not subject.quantized:
        gains = any(
            not subject.model.refusal(fqn, subject.format) and subject.gain_s([fqn]) > 0
            for fqn in subject.formats
        )
        yield Finding(
            kind=Kind.SKIPPED,
            severity=Severity.WARNING if gains else Severity.NOTE,
            fqns=tuple(subject.formats),
            message=f"nothing is quantized: all {len(subject.formats)} Linears stay bf16"
            + ("" if gains else f", and none would gain as {subject.format}"),
        )
    model, spec = subject.model, subject.model.spec
    always = expand(
        [entry.pattern for entry in spec.search.always_skip],
        model.tree.fqns,
        model.run.table.components,
    ).matched
    by_role: dict[str, list[str]] = {}
    for family in model.families:
        stay = all(
            subject.formats[fqn] is FormatName.BF16 and fqn not in always and fqn in model.linears
            for fqn in family
        )
        if (
            stay
            and not any(model.refusal(fqn, subject.format) for fqn in family)
            and subject.gain_s(family) > 0
        ):
            by_role.setdefault(fused_role(role_of(family[0]), spec.search.fused), []).extend(family)
    worth = [
        fqn
        for fqns in by_role.values()
        if subject.gain_s(fqns) >= WORTH * model.bf16_s
        for fqn in fqns
    ]
    known = None if harmless is None else frozenset(harmless)
    unknown = "no sensitivity of them is known: they may be skipped for the pictures' sake"
    reasons = [
        (
            fqn,
            (
                unknown
                if known is None
                else (
                    "calibrated, and they matter little"
                    if fqn in known
                    else "some of them matter, or are not calibrated"
                )
            ),
        )
        for fqn in worth
    ]
    for reason in dict.fromkeys(reason for _, reason in reasons):
        fqns = tuple(fqn for fqn, own in reasons if own == reason)
        gain_s = subject.gain_s(fqns)
        yield Finding(
            kind=Kind.SKIPPED,
            severity=Severity.WARNING if known and fqns[0] in known else Severity.NOTE,
            fqns=fqns,
            cost_s=gain_s,
            rows=model.rows(fqns, subject.judged),
            message=(
                f"{counted(len(fqns), 'Linear')} in bf16 would gain {gain_s / model.bf16_s:.1%} of"
                f" a bf16 run as {subject.format}; {reason}"
            ),
        )


def below_rule_of_thumb(subject: Subject) -> Iterator[Finding]:
    """Quantized Linears with min(M, K, N) below the study's rule of thumb, which people skip by
    hand.
    """
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
    gain_s = subject.gain_s(fqns)
    yield Finding(
        kind=Kind.SMALL,
        severity=Severity.NOTE,
        fqns=fqns,
        rows=model.rows(fqns, subject.judged),
        message=(
            f"{counted(len(fqns), 'quantized Linear')} of {len(subject.quantized)} with min(M, K,"
            f" N) < {least}, which the rule of thumb skips: {some(words)}; together they"
            f" {_gains(gain_s)}"
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
                f"{counted(len(fqns), 'quantized Linear')} never called in the profiled run: no"
                " price"
            ),
        )


# --- other runs -----------------------------------------------------------------------------------


def other_studies(spec: StudySpec) -> dict[str, StudySpec]:
    """{what is different, in words: the study}: another batch size, a longer and a shorter prompt."""
    priced = spec.pricing
    batch = OTHER_BATCH if priced.batch_size != OTHER_BATCH else 1
    longer = max(LONG_PROMPT, 2 * priced.prompt_tokens)
    changes = {
        f"at batch size {batch}": {"batch_size": batch},
        f"with a prompt of {longer} tokens": {"prompt_tokens": longer},
    }
    if priced.prompt_tokens > 2 * SHORT_PROMPT:
        changes[f"with a prompt of {SHORT_PROMPT} tokens"] = {"prompt_tokens": SHORT_PROMPT}
    return {
        words: spec.model_copy(update={"pricing": priced.model_copy(update=change)})
        for words, change in changes.items()
    }


def depends_on_the_run(subject: Subject, words: str, other: AuditedModel) -> Iterator[Finding]:
    """By role:

    Linears that the list quantizes and that gain in one run only, and Linears that it skips and
    that would be worth quantizing in the other run only.
    """
    model, by_role = subject.model, dict[tuple[str, bool], list[str]]()
    for family in model.families:
        if all(
            fqn in model.linears
            and fqn in other.linears
            and not model.refusal(fqn, subject.judged[fqn])
            for fqn in family
        ):
            quantized = any(subject.formats[fqn] is not FormatName.BF16 for fqn in family)
            by_role.setdefault(
                (fused_role(role_of(family[0]), model.spec.search.fused), quantized), []
            ).extend(family)
    changed: dict[tuple[bool, bool], list[str]] = {}
    for (_, quantized), fqns in by_role.items():
        here, there = (
            subject.gain_s(fqns) / model.bf16_s,
            _gain_s(other, subject, fqns) / other.bf16_s,
        )
        if (here < 0) != (there < 0) or (
            not quantized and here < WORTH <= there and there - here >= WORTH / 2
        ):
            changed.setdefault((quantized, there > 0), []).extend(fqns)
    for (quantized, _), fqns in changed.items():
        here_s, there_s = subject.gain_s(fqns), _gain_s(other, subject, fqns)
        if abs(there_s / other.bf16_s - here_s / model.bf16_s) >= VARYING:
            yield Finding(
                kind=Kind.VARIES,
                severity=Severity.NOTE,
                fqns=tuple(fqns),
                rows=other.rows(fqns, subject.judged),
                message=(
                    f"{counted(len(fqns), 'Linear')} that the list"
                    f" {'quantizes' if quantized else 'skips'}"
                    f" {'' if quantized else 'would '}{_gains(here_s)} here and {_gains(there_s)}"
                    f" {words} ({abs(there_s) / other.bf16_s:.1%} of that bf16 run):"
                    f" {some_roles(role_of(fqn) for fqn in fqns)}"
                ),
            )


def _gain_s(other: AuditedModel, subject: Subject, fqns: Iterable[str]) -> float:
    return sum(other.gain_s(fqn, subject.judged[fqn]) for fqn in fqns)


def _gains(seconds: float) -> str:
    return f"{'gain' if seconds >= 0 else 'lose'} {milliseconds(abs(seconds))}"


def unprofiled(words: str, error: SensitivityError) -> Finding:
    """What is said where the model could not be profiled under other settings."""
    return Finding(
        kind=Kind.VARIES,
        severity=Severity.NOTE,
        message=(
            f"not looked at {words}, where the pipeline does not run:"
            f" {str(error).partition('; ')[0]:.160}"
        ),
    )
