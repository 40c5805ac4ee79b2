"""Is a list that somebody wrote right for a model?

Read as its consumer reads it, matched, priced, and fixed, without a weight.

`_base.py` has the records: the model that is audited, a list on it, and a finding. `names.py` looks
at what entries name, `renames.py` has older names for hints; `prices.py` looks at what quantizing
gains, loses and depends on; `blocks.py` at fused Linears, block patterns and stored sensitivities.
`fixing.py` makes the list without its faults, `reading.py` reads one, and `auditing.py` runs it
all.

    audit = audit_list(resolve_spec("ltx2"), AuditRequest(source=read_source("mine.txt", form="substring")))
"""

from sensitivity.workflows.audit.auditing import (
    Audit,
    AuditRequest,
    audit_list,
    audit_on,
    fixed_recipe,
    fixed_text,
)
from sensitivity.workflows.audit.blocks import stored_damage
from sensitivity.workflows.audit.fixing import Fixed
from sensitivity.workflows.audit.reading import Source, read_source
from sensitivity.workflows.audit.subject import (
    AuditedModel,
    Finding,
    Kind,
    RoleRow,
    Severity,
    Subject,
    audited_model,
    some_roles,
)

__all__ = [
    "Audit",
    "AuditRequest",
    "AuditedModel",
    "Finding",
    "Fixed",
    "Kind",
    "RoleRow",
    "Severity",
    "Source",
    "Subject",
    "audit_list",
    "audit_on",
    "audited_model",
    "fixed_recipe",
    "fixed_text",
    "read_source",
    "some_roles",
    "stored_damage",
]
