"""Is a list that somebody wrote right for a model? It is read as its consumer reads it, matched,
priced and fixed, without a weight.

    source = read_source("mine.txt", form="substring")
    audit = audit_list(resolve_spec("ltx2"), AuditRequest(source=source))

The files, in the order in which a list passes them:

    reading.py         a file, or code that may be run, becomes a list
    bare_lists.py      lists that stand alone, without their consumer's config
    model.py           the model that is audited, profiled without weights
    subject.py         the list on the model
    dead.py            entries that hit nothing; renames.py has older names for hints
    meanings.py        what an entry means
    over_matching.py   entries that hit more than they mean, or nothing new
    gains.py           what quantizing gains and loses
    sensitive.py       sensitive Linears that are quantized
    blocks.py          fused Linears and block patterns
    other_runs.py      what other batch sizes and prompts change
    understood.py      what dead entries mean by other names of the same Linears
    served.py          what a list for a server with names of its own cannot say
    fixing.py          the list without its faults
    own_form.py        that list in such a server's form
    auditing.py        runs all of it
    result.py          what it gives
    findings.py        the record of a finding; wording.py has the words of their messages
"""

from sensitivity.workflows.audit.auditing import AuditRequest, audit_list
from sensitivity.workflows.audit.reading import Source, read_source
from sensitivity.workflows.audit.result import Audit, fixed_recipe, fixed_text, keeps_its_form

__all__ = [
    "Audit",
    "AuditRequest",
    "Source",
    "audit_list",
    "fixed_recipe",
    "fixed_text",
    "keeps_its_form",
    "read_source",
]
