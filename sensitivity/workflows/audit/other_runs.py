"""Is a list right for one run only? What other batch sizes and prompt lengths would change.

    others = other_studies(spec)             # {"at batch size 4": study, ...}
    for words, study in others.items():
        depends_on_the_run(subject, words, audited_model(study))

A role counts if it gains in one of two runs only, or if it would be worth quantizing in the other
run only.
"""

from collections.abc import Iterable, Iterator

from sensitivity.core.fqns import role_of
from sensitivity.errors import SensitivityError
from sensitivity.shapes.families import fused_role
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.audit.findings import Finding, Kind, Severity
from sensitivity.workflows.audit.gains import WORTH
from sensitivity.workflows.audit.model import AuditedModel
from sensitivity.workflows.audit.subject import Subject
from sensitivity.workflows.audit.wording import gains, plural, some_roles

VARYING = 0.0005
"""Part of a bf16 run by which gains must differ before that is reported."""
OTHER_BATCH = 4
"""A batch that servers run."""
LONG_PROMPT, SHORT_PROMPT = 512, 16
"""Tokens of a long prompt (what FLUX pads to) and of a short one."""


def other_studies(spec: StudySpec) -> dict[str, StudySpec]:
    """{what is different, in words: the study}: another batch size, other prompt lengths."""
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
    """Linears that gain in this run or in the other one only.

    Args:
        subject: the list on the model.
        words: what is different in the other run.
        other: the model at the other settings.
    """
    for (quantized, _), fqns in _changed(subject, other).items():
        here_s, there_s = subject.gain_s(fqns), _gain_s(other, subject, fqns)
        if abs(there_s / other.bf16_s - here_s / subject.model.bf16_s) < VARYING:
            continue
        yield Finding(
            kind=Kind.VARIES,
            severity=Severity.NOTE,
            fqns=tuple(fqns),
            rows=other.rows(fqns, subject.judged),
            message=(
                f"{plural(len(fqns), 'Linear')} that the list"
                f" {'quantizes' if quantized else 'skips'}"
                f" {'' if quantized else 'would '}{gains(here_s)} here and {gains(there_s)}"
                f" {words} ({abs(there_s) / other.bf16_s:.1%} of that bf16 run):"
                f" {some_roles(role_of(fqn) for fqn in fqns)}"
            ),
        )


def _changed(subject: Subject, other: AuditedModel) -> dict[tuple[bool, bool], list[str]]:
    """{(whether quantized, whether they gain in the other run): FQNs} of the roles that change."""
    found: dict[tuple[bool, bool], list[str]] = {}
    for (_, quantized), fqns in _by_role(subject, other).items():
        here = subject.gain_s(fqns) / subject.model.bf16_s
        there = _gain_s(other, subject, fqns) / other.bf16_s
        other_sign = (here < 0) != (there < 0)
        worth_there = not quantized and here < WORTH <= there and there - here >= WORTH / 2
        if other_sign or worth_there:
            found.setdefault((quantized, there > 0), []).extend(fqns)
    return found


def _by_role(subject: Subject, other: AuditedModel) -> dict[tuple[str, bool], list[str]]:
    """{(role, whether quantized): FQNs} of families that both runs call and the format takes."""
    model, found = subject.model, dict[tuple[str, bool], list[str]]()
    for family in model.families:
        if all(
            fqn in model.linears
            and fqn in other.linears
            and not model.refusal(fqn, subject.judged[fqn])
            for fqn in family
        ):
            role = fused_role(role_of(family[0]), model.spec.search.fused)
            quantized = any(subject.formats[fqn].is_quantized for fqn in family)
            found.setdefault((role, quantized), []).extend(family)
    return found


def _gain_s(other: AuditedModel, subject: Subject, fqns: Iterable[str]) -> float:
    """Seconds of the other run that these Linears save."""
    return sum(other.gain_s(fqn, subject.judged[fqn]) for fqn in fqns)


def unprofiled(words: str, error: SensitivityError) -> Finding:
    """The finding for settings at which the model could not be profiled."""
    return Finding(
        kind=Kind.VARIES,
        severity=Severity.NOTE,
        message=(
            f"not looked at {words}, where the pipeline does not run:"
            f" {str(error).partition('; ')[0]:.160}"
        ),
    )
