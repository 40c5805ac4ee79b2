"""Texts, audited as lists on models that are profiled already."""

from pathlib import Path
from typing import Any

from sensitivity.consumers.readers import get_reader
from sensitivity.core.format_name import FormatName
from sensitivity.workflows.audit import Audit, AuditRequest, Source
from sensitivity.workflows.audit.auditing import audit_on
from sensitivity.workflows.audit.findings import Finding, Kind, Severity
from sensitivity.workflows.audit.model import AuditedModel

PUBLISHED = Path(__file__).parents[2] / "recipes" / "published"
NVFP4, BF16 = FormatName.NVFP4, FormatName.BF16


def audited(
    model: AuditedModel, text: str, form: str = "substring", others: Any = None, **request: Any
) -> Audit:
    """A text as a list on a model; the database is not there unless it is given."""
    source = Source(name="mine.txt", form=form, guessed=False, listed=get_reader(form).read(text))
    return audit_on(
        model, AuditRequest(source=source, **{"storage": Path("/none.db"), **request}), others or {}
    )


def of(audit: Audit, kind: Kind) -> list[Finding]:
    """The findings of one kind."""
    return [finding for finding in audit.findings if finding.kind is kind]


def bad(audit: Audit) -> set[Kind]:
    """Kinds of the findings that are more than notes."""
    return {finding.kind for finding in audit.findings if finding.severity is not Severity.NOTE}
