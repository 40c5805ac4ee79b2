"""Do the formats of a block's Linears fit together?

Fused Linears (`audit.model`) read one input. diffusers and torchao run them one by one; servers
that fuse them refuse a list that gives them different formats, or quantize all of them alike. A
list in a server's own form cannot tear what that server fuses: its names are those of the fused
Linears. Block patterns count the graphs that regional compilation makes.
"""

from collections.abc import Iterator, Mapping

from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers.served_lists import ServedList
from sensitivity.recipes.parts import count_stack_patterns
from sensitivity.search.block_patterns import RECOMPILE_LIMIT
from sensitivity.workflows.audit.findings import Finding, Kind, Severity
from sensitivity.workflows.audit.subject import Subject
from sensitivity.workflows.audit.wording import plural


def fused_conflicts(subject: Subject) -> Iterator[Finding]:
    """Fused Linears of one block with different formats."""
    torn = torn_families(subject, subject.formats)
    if torn:
        first = ", ".join(f"{fqn} {subject.formats[fqn]}" for fqn in torn[0])
        yield Finding(
            kind=Kind.FUSED,
            severity=Severity.WARNING,
            fqns=tuple(fqn for family in torn for fqn in family),
            message=(
                f"{plural(len(torn), 'group')} of Linears that servers fuse"
                f" {'has' if len(torn) == 1 else 'have'} different formats: {first}; give each"
                " group one format"
            ),
        )


def torn_families(subject: Subject, formats: Mapping[str, ListedFormat]) -> list[tuple[str, ...]]:
    """The families that servers fuse, and that have several formats; none in a server's own form,
    whose names say what it fuses.
    """
    if isinstance(subject.listed, ServedList):
        return []
    return [family for family in subject.model.fused if len({formats[fqn] for fqn in family}) > 1]


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
