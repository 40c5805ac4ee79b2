"""Which entries of a list hit more than they mean, and which could be left out?

`meanings` says what an entry means. Over-matching is a fault only where it changes a Linear's
format: what other entries, or a least width, would decide alike is not reported.

    for finding in over_matching(subject):
        finding.entry, finding.fqns          # the surplus
    exact_formats(subject, meanings(subject))    # the formats without it
"""

import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping

from sensitivity.consumers.lists import ConsumerList
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers.plain import PLAIN_RULES
from sensitivity.consumers.readers.served_lists import ServedList
from sensitivity.core.pattern_cover import compress
from sensitivity.core.patterns import META
from sensitivity.workflows.audit.findings import Finding, Kind, Severity
from sensitivity.workflows.audit.meanings import Meaning, meanings
from sensitivity.workflows.audit.subject import Subject, assigned
from sensitivity.workflows.audit.wording import first_names, place, plural

SHOWN_GLOBS = 3
"""Most globs that a message proposes."""
GLOB_SECONDS = 3.0
"""What gathering names into globs may take; later messages name Linears one by one."""
COSTLY = 0.005
"""Part of a bf16 run from which over-matching is an error if the text alone does not make it one.
"""


def over_matching(subject: Subject) -> Iterator[Finding]:
    """Entries that hit more than they mean, where that changes a format."""
    meant = meanings(subject)
    exact = exact_formats(subject, meant)
    ends = time.monotonic() + GLOB_SECONDS
    for index, meaning in meant.items():
        more = subject.hits[index] - meaning.fqns
        if all(exact[fqn] is subject.formats[fqn] for fqn in more):
            continue
        surplus = [
            fqn for fqn in subject.formats if fqn in more and exact[fqn] is not subject.formats[fqn]
        ]
        cost_s = subject.gain_with(exact, surplus) - subject.gain_with(subject.formats, surplus)
        as_globs = time.monotonic() < ends
        yield _over_matching(index, meaning, surplus, cost_s, subject, as_globs=as_globs)


def _over_matching(
    index: int,
    meaning: Meaning,
    surplus: list[str],
    cost_s: float,
    subject: Subject,
    *,
    as_globs: bool,
) -> Finding:
    """The finding of one entry; `as_globs` says whether names are gathered into globs."""
    entry = subject.listed.entries[index]
    severe = meaning.surely or cost_s >= COSTLY * subject.model.bf16_s
    meant, more = sorted(meaning.fqns), surplus
    if as_globs:
        meant, more = (_globs(fqns, subject) for fqns in (meaning.fqns, surplus))
    names, also, besides = (
        (
            f"names {first_names(meant)} ({plural(len(meaning.fqns), 'Linear')}) and",
            "also ",
            " more",
        )
        if meaning.fqns
        else ("names no Linear of that list of blocks, and", "", "")
    )
    return Finding(
        kind=Kind.OVER,
        severity=Severity.ERROR if severe else Severity.WARNING,
        entry=entry.text,
        line=entry.line,
        fqns=tuple(surplus),
        cost_s=cost_s if subject.is_priced else None,
        message=(
            f"{names} as {entry.rule} {also}hits {first_names(more)} ({len(surplus)}{besides}); if"
            f" these are not meant, {_precise(meant, subject.listed.consumer)}"
        ),
    )


def _globs(fqns: Iterable[str], subject: Subject) -> list[str]:
    """Globs on the consumer's own names, where it has such names, else on FQNs."""
    universe = list(subject.model.tree.fqns)
    if isinstance(subject.listed, ServedList):
        fqns, universe = map(subject.called, fqns), [subject.called(fqn) for fqn in universe]
        fqns, universe = filter(None, fqns), list(filter(None, universe))
    return [pattern.pattern for pattern in compress(fqns, universe)]


def _precise(globs: list[str], form: str) -> str:
    """What to write instead, if the form can say it briefly."""
    if not globs:
        return "take it out"
    if form not in PLAIN_RULES or len(globs) > SHOWN_GLOBS:
        return "take the exact list that `fix` writes"
    rules = [
        "" if form == "glob" else "fqn:" if META.isdisjoint(glob) else "glob:" for glob in globs
    ]
    return f"write {', '.join(rule + glob for rule, glob in zip(rules, globs, strict=True))}"


def exact_formats(subject: Subject, meant: Mapping[int, Meaning]) -> dict[str, ListedFormat]:
    """{FQN: format} if each over-matching entry hit what it means and no more."""
    if not meant:
        return dict(subject.formats)
    entries = tuple(e for i, e in enumerate(subject.listed.entries) if i not in meant)
    without = assigned(
        dataclasses.replace(subject.listed, entries=entries), subject.model.tree, subject.format
    )
    kept = frozenset[str]().union(*(meaning.fqns for meaning in meant.values()))
    return {fqn: name if fqn in kept else without[fqn] for fqn, name in subject.formats.items()}


def redundant_entries(subject: Subject) -> Iterator[Finding]:
    """Entries without which the list would say the same.

    Only plain lists are looked at, whose entries all give one format to one component.
    """
    entries = subject.listed.entries
    if (
        type(subject.listed) is not ConsumerList
        or len({(entry.format, entry.component) for entry in entries}) > 1
    ):
        return
    covers: dict[str, int] = {}
    for hits in subject.hits:
        for fqn in hits:
            covers[fqn] = covers.get(fqn, 0) + 1
    by_fqn = _entries_of(subject)
    for index in sorted(range(len(entries)), key=lambda i: (len(subject.hits[i]), -i)):
        hits, entry = subject.hits[index], entries[index]
        if hits and all(covers[fqn] > 1 for fqn in hits):
            for fqn in hits:
                covers[fqn] -= 1
            yield Finding(
                kind=Kind.REDUNDANT,
                severity=Severity.NOTE,
                entry=entry.text,
                line=entry.line,
                fqns=tuple(sorted(hits)),
                message=f"says nothing that is not said by {_covering(index, subject, by_fqn)}",
            )


def _entries_of(subject: Subject) -> dict[str, list[int]]:
    """{FQN: the indices of the entries that hit it, in order}."""
    found: dict[str, list[int]] = {}
    for index, hits in enumerate(subject.hits):
        for fqn in hits:
            found.setdefault(fqn, []).append(index)
    return found


def _covering(index: int, subject: Subject, by_fqn: Mapping[str, list[int]]) -> str:
    """The first other entry that hits all that an entry hits, in words."""
    own = subject.hits[index]
    rarest = min((by_fqn[fqn] for fqn in own), key=len)
    for other in rarest:
        if other != index and own <= subject.hits[other]:
            entry = subject.listed.entries[other]
            return f"{place(entry)}{entry.text}"
    return "other entries together"
