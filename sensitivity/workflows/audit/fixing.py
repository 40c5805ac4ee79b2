"""What would the list be without its faults? `fix`: a format for every Linear.

    fixed = fix(subject)
    text = plain_list(fixed, subject, name="my.txt", speedup=1.4)    # globs, with reasons

Dead and redundant entries go. What is over-matched is made exact. Linears that their format
refuses, and families that are quantized at a loss, stay bf16. Fused Linears with different formats
stay bf16 together.

Two things are left as they are, since they are choices about pictures, which prices do not see:
what the list skips for nothing stays skipped, and sensitive Linears stay quantized.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sensitivity.core.format_name import FormatName, quantized, skipped
from sensitivity.core.pattern_cover import compress
from sensitivity.core.words import printable
from sensitivity.errors import PatternError
from sensitivity.workflows.audit.gains import losing
from sensitivity.workflows.audit.meanings import meanings
from sensitivity.workflows.audit.over_matching import exact_formats
from sensitivity.workflows.audit.subject import Subject
from sensitivity.workflows.audit.wording import plural

KEPT = "skipped by the list"


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """A list without its faults.

    Attributes:
        formats: {FQN: format} of every Linear.
        causes: {FQN: why it stays bf16}.
        changes: what was changed, a sentence each; () if nothing was wrong.
    """

    formats: Mapping[str, FormatName]
    causes: Mapping[str, str]
    changes: tuple[str, ...]


def fix(subject: Subject) -> Fixed:
    """The list without the faults that can be mended."""
    formats = exact_formats(subject, meanings(subject))
    released = [fqn for fqn, name in formats.items() if name is not subject.formats[fqn]]
    causes = dict.fromkeys(skipped(formats), KEPT)
    dead = sum(not hits for hits in subject.hits)

    def leave(fqns: list[str], cause: str) -> int:
        """Leave these in bf16 too; the number that was quantized until now."""
        added = [fqn for fqn in fqns if formats[fqn].is_quantized]
        formats.update(dict.fromkeys(added, FormatName.BF16))
        causes.update(dict.fromkeys(added, cause))
        return len(added)

    refused = leave(
        [fqn for fqn, name in formats.items() if subject.model.refusal(fqn, name)],
        "the format refuses its shape",
    )
    torn = [
        fqn
        for family in subject.model.fused
        if len({formats[fqn] for fqn in family}) > 1
        for fqn in family
    ]
    fused = leave(torn, "servers fuse it with a Linear that stays bf16")
    lost = leave(list(losing(subject, formats)[0]), "slower quantized, predicted")
    changes = (
        (dead, f"{plural(dead, 'dead entry')} dropped"),
        (
            len(released),
            f"{plural(len(released), 'Linear')} released from entries that over-match",
        ),
        (refused, f"{plural(refused, 'Linear')} that the format refuses left in bf16"),
        (fused, f"{plural(fused, 'Linear')} left in bf16, as what they are fused with"),
        (lost, f"{plural(lost, 'Linear')} that would lose left in bf16"),
    )
    return Fixed(
        formats=formats, causes=causes, changes=tuple(words for number, words in changes if number)
    )


def plain_list(fixed: Fixed, subject: Subject, *, name: str, speedup: float) -> str:
    """The fixed list as globs with reasons, exact on this model.

    Raises:
        PatternError: the list quantizes to several formats, which a skip-list cannot say.
    """
    used = sorted({fmt.value for fmt in quantized(fixed.formats).values()})
    if len(used) > 1:
        raise PatternError(
            f"found a list with the formats {', '.join(used)}; expected one, since a plain list has"
            " one: give `fix` a path that ends in .json"
        )
    model = subject.model
    lines = [
        (
            f"# {printable(name)}, as {subject.listed.consumer}, for {model.spec.name}: fixed by"
            " `sensitivity audit`. Stays bf16:"
        ),
        (
            f"# {len(fixed.causes)} of {len(fixed.formats)} Linears; the others"
            f" {used[0] if used else subject.format}. Predicted for {model.pricer.latency.target},"
            f" batch {model.pricer.table.batch_size}: {speedup:.3f}x. No picture was"
            " generated."
        ),
        (
            f"# Changed: {'; '.join(fixed.changes) or 'nothing'}. One glob a line, on whole names"
            " (the form glob)."
        ),
    ]
    for cause in dict.fromkeys(fixed.causes.values()):
        lines += ["", f"# {cause}"]
        chosen = compress(
            [fqn for fqn, why in fixed.causes.items() if why == cause], model.tree.fqns
        )
        lines += [f"{pattern.pattern}  # {pattern.reason}" for pattern in chosen]
    return "\n".join(lines) + "\n"
