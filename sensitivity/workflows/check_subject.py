"""What does a gate check: a recipe, or a list that somebody wrote? `read_subject` gives a recipe of
either.

    recipe = read_subject("recipe.json", spec)
    recipe = read_subject("skip.txt", spec, form="substring")     # unverified, priced

A list is read as `audit` reads it, and matched with the study's model, which is run without
weights. It becomes an unverified recipe, whose notice says how many faults an audit finds. Linears
that their format or the target's kernel refuses stay bf16. Standard input ("-") is always a list.
"""

from pathlib import Path

from sensitivity.core.format_name import FormatName
from sensitivity.core.words import printable
from sensitivity.errors import PatternError
from sensitivity.recipes.recipe import Recipe, load_recipe
from sensitivity.recipes.unverified import priced_recipe
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.audit.auditing import AuditRequest, audit_list
from sensitivity.workflows.audit.findings import Severity
from sensitivity.workflows.audit.reading import RECIPE, read_source
from sensitivity.workflows.audit.wording import plural


def read_subject(
    path: str,
    spec: StudySpec,
    *,
    form: str | None = None,
    format: FormatName = FormatName.NVFP4,
) -> Recipe:
    """A recipe file as it is, or the recipe of a list.

    Args:
        path: of the file; "-" is standard input.
        spec: the study.
        form: how a list is read (`audit.reading.read_source`); None guesses, and knows a recipe.
        format: what Linears become that the list quantizes without saying to what.

    Raises:
        RecipeError: it is a recipe that cannot be read.
        PatternError: the file cannot be read, is no list, or is in a format that this tool lacks.
        UserError: and its kinds, for a model that cannot be run without weights.
    """
    source = read_source(path, form=form, format=format)
    if source.form == RECIPE and path != "-":
        return load_recipe(path)
    audit = audit_list(spec, AuditRequest(source=source, format=format, vary=False))
    model, subject = audit.subject.model, audit.subject
    if not subject.is_priced:
        names = printable(", ".join(subject.other_formats)[:200])
        raise PatternError(
            f"found a list in the format {names}, which this tool does not have; expected one of"
            f" {', '.join(FormatName)}: name another list"
        )
    errors = audit.count(Severity.ERROR)
    faults = f", in which `sensitivity audit` finds {plural(errors, 'error')}" if errors else ""
    return priced_recipe(
        audit.priced[0],
        model.run,
        model.spec,
        name=Path(source.name).name,
        notice=f"a list, read as {source.form}{faults}: it states no LPIPS",
    )
