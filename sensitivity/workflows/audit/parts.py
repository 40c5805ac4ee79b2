"""Which parts of a list are for the model's denoisers? A list may have one part a component.

    listed, unknown = denoiser_parts(listed, tree)      # without parts for other components
    list(unknown_parts(subject))                        # a finding for each misspelt part

A part for a text encoder or the VAE is not looked at, which is said in a note. A part that names no
component, or that its consumer applies to no Linear, is an error: what it should quantize stays in
bf16, or what it should skip is quantized.
"""

import dataclasses
from collections.abc import Iterator

from sensitivity.consumers.lists import ConsumerList, ModelTree
from sensitivity.core.words import and_more, did_you_mean, printable
from sensitivity.workflows.audit.findings import Finding, Kind, Severity
from sensitivity.workflows.audit.subject import Subject
from sensitivity.workflows.audit.wording import plural


def denoiser_parts(listed: ConsumerList, tree: ModelTree) -> ConsumerList:
    """A list without its parts for other components of the pipeline; a note names them."""
    unknown = set(listed.unknown_parts(tree))
    applied = {listed.part_of(fqn, tree) for fqn in tree.fqns}
    others = [part for part in listed.parts if part not in unknown | applied]
    if not others:
        return listed
    note = (
        f"parts for other components of the pipeline are not looked at: {and_more(others, most=5)}"
    )
    return dataclasses.replace(listed.without_parts(others), notes=(*listed.notes, note))


def unknown_parts(subject: Subject) -> Iterator[Finding]:
    """Parts that apply to no Linear and are for no other component."""
    listed, tree = subject.listed, subject.model.tree
    for part in subject.unknown_parts:
        number = sum(entry.component == part for entry in subject.left_out)
        known = (*tree.classes, *tree.others)
        if part in tree.classes:
            what = f"{listed.consumer} applies it to no Linear of this model"
            hint = f"its parts are compared with names such as {_some_name(subject)}"
        else:
            what = f"no component is called so; expected one of {', '.join(known)}"
            close = did_you_mean(part[:80], known)
            hint = close or "take it out"
        entries = f" ({plural(number, 'entry')} in it not looked at)" if number else ""
        yield Finding(
            kind=Kind.PART,
            severity=Severity.ERROR,
            entry=printable(part[:80]),
            closest=tuple(tree.classes) if part in tree.classes else (),
            message=f"is a part of the list{entries}, and {what}; {hint}",
        )


def _some_name(subject: Subject) -> str:
    return next(iter(subject.listed.names(subject.model.tree)), "transformer_blocks.0")
