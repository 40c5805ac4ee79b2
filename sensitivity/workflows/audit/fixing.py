"""What would the list be without its faults? `fix`: a format for every Linear.

    fixed = fix(subject)
    text = plain_list(fixed, subject, name="my.txt", speedup=1.4)    # globs, with reasons

What dead entries mean by another name of the same Linears, or by a part of it (`understood`), is
kept. The other dead entries go, and so do redundant ones. What is over-matched is made exact.
Linears that their format or the target's kernel refuses, and families that are quantized at a loss,
stay bf16. Fused Linears with different formats stay bf16 together, also what a server cannot tell
apart.

Two things are left as they are, since they are choices about pictures, which prices do not see:
what the list skips for nothing stays skipped, and sensitive Linears stay quantized.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers.served_lists import ServedList
from sensitivity.core.format_name import FormatName, quantized, skipped
from sensitivity.core.pattern_cover import compress
from sensitivity.core.words import printable
from sensitivity.errors import PatternError
from sensitivity.latency.refusals import REFUSED
from sensitivity.workflows.audit.blocks import torn_families
from sensitivity.workflows.audit.gains import losing
from sensitivity.workflows.audit.meanings import meanings
from sensitivity.workflows.audit.over_matching import exact_formats
from sensitivity.workflows.audit.served import settled
from sensitivity.workflows.audit.subject import Subject
from sensitivity.workflows.audit.understood import Interpreter
from sensitivity.workflows.audit.wording import first_names, plural

BF16 = FormatName.BF16
KEPT = "skipped by the list"
MEANT = "meant by an entry that hits nothing"
READ_SECONDS = 5.0
"""What reading dead entries by other names may take."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Fixed:
    """A list without its faults.

    Attributes:
        formats: {FQN: format} of every Linear.
        causes: {FQN: why it stays bf16}.
        changes: what was changed, a sentence each; () if nothing was wrong.
        given_up: the entries that name nothing of the model, and so are left out.
    """

    formats: Mapping[str, ListedFormat]
    causes: Mapping[str, str]
    changes: tuple[str, ...]
    given_up: tuple[str, ...] = ()

    @property
    def is_priced(self) -> bool:
        """Whether all of its formats are this tool's. An entry that was dead may name another."""
        return all(isinstance(name, FormatName) for name in self.formats.values())


def fix(subject: Subject) -> Fixed:
    """The list without the faults that can be mended."""
    exact = exact_formats(subject, meanings(subject))
    released = sum(name is not subject.formats[fqn] for fqn, name in exact.items())
    formats, read, given_up = _with_dead_entries(exact, subject)
    causes = {fqn: KEPT if exact[fqn] is BF16 else MEANT for fqn in skipped(formats)}

    def leave(fqns: Iterable[str], cause: str) -> int:
        """Leave these in bf16 too; the number that was quantized until now."""
        added = [fqn for fqn in fqns if formats[fqn].is_quantized]
        formats.update(dict.fromkeys(added, BF16))
        causes.update(dict.fromkeys(added, cause))
        return len(added)

    model = subject.model
    reasons = {
        fqn: ("" if model.unmeasured(fqn, name) else model.refusal(fqn, name)) or ""
        for fqn, name in formats.items()
    }
    by_kernel = [fqn for fqn, why in reasons.items() if why.startswith(REFUSED)]
    stopped = leave(by_kernel, "the target's kernel refuses its shape")
    refused = leave([fqn for fqn, why in reasons.items() if why], "the format refuses its shape")
    torn = [fqn for family in torn_families(subject, formats) for fqn in family]
    fused = leave(torn, "servers fuse it with a Linear that stays bf16")
    lost = leave(
        losing(subject, formats)[0], f"slower quantized, {subject.model.pricer.latency.source}"
    )
    together, unnamed = _as_served(formats, subject)
    fused += leave(together, f"{subject.listed.consumer} cannot keep others in bf16 without it")
    for fqn in unnamed:
        formats[fqn] = subject.formats[fqn]
        causes.pop(fqn, None)
    unknown = subject.unknown_parts
    changes = (
        (len(unknown), f"{plural(len(unknown), 'unknown part')} dropped: {first_names(unknown)}"),
        (len(read), f"{plural(len(read), 'dead entry')} read as meant: {first_names(read)}"),
        (
            len(given_up),
            f"{plural(len(given_up), 'dead entry')} dropped: {first_names(given_up)}",
        ),
        (released, f"{plural(released, 'Linear')} released from entries that over-match"),
        (refused, f"{plural(refused, 'Linear')} that the format refuses left in bf16"),
        (stopped, f"{plural(stopped, 'Linear')} that the target's kernel refuses left in bf16"),
        (fused, f"{plural(fused, 'Linear')} left in bf16, as what they are fused with"),
        (lost, f"{plural(lost, 'Linear')} that would lose left in bf16"),
        (
            len(unnamed),
            f"{plural(len(unnamed), 'Linear')} without a name in {subject.listed.consumer} cannot"
            f" be kept in bf16: {first_names(unnamed)}",
        ),
    )
    return Fixed(
        formats=formats,
        causes=causes,
        changes=tuple(words for number, words in changes if number),
        given_up=given_up,
    )


def _with_dead_entries(
    exact: Mapping[str, ListedFormat], subject: Subject
) -> tuple[dict[str, ListedFormat], tuple[str, ...], tuple[str, ...]]:
    """The formats with what dead entries mean; the entries that were understood, and the others.

    Such an entry decides where no other does, and what it keeps in bf16 is kept in any case.
    """
    formats, read, given_up = dict(exact), list[str](), list[str]()
    entries = list(zip(subject.listed.entries, subject.hits, strict=True))
    decided = frozenset[str]().union(*(hits for _, hits in entries))
    interpreter, ends = Interpreter(subject), time.monotonic() + READ_SECONDS
    for entry, hits in entries:
        if hits:
            continue
        meant = interpreter.read(entry) if time.monotonic() < ends else None
        if meant is None:
            given_up.append(entry.text)
            continue
        read.append(entry.text)
        becomes = entry.format or subject.format
        for fqn in meant.fqns:
            if not becomes.is_quantized or fqn not in decided:
                formats[fqn] = becomes
    return formats, tuple(read), tuple(given_up)


def _as_served(
    formats: Mapping[str, ListedFormat], subject: Subject
) -> tuple[frozenset[str], tuple[str, ...]]:
    """What a consumer with names of its own cannot say otherwise.

    Returns:
        The Linears that stay in bf16 with others, and those that cannot be kept in bf16.
    """
    listed, tree = subject.listed, subject.model.tree
    return settled(listed, tree, formats) if isinstance(listed, ServedList) else (frozenset(), ())


def plain_list(fixed: Fixed, subject: Subject, *, name: str, speedup: float | None) -> str:
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
    price = (
        "No price: this tool does not have that format."
        if speedup is None
        else f"Predicted for {model.pricer.latency.target}, batch {model.pricer.table.batch_size}:"
        f" {speedup:.3f}x."
    )
    lines = [
        (
            f"# {printable(name)}, as {subject.listed.consumer}, for {model.spec.name}: fixed by"
            " `sensitivity audit`. Stays bf16:"
        ),
        (
            f"# {len(fixed.causes)} of {len(fixed.formats)} Linears; the others"
            f" {used[0] if used else subject.format}. {price} No picture was generated."
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
