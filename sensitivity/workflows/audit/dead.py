"""Which entries of a list hit nothing, and what may they mean?

    for finding in dead_entries(subject):
        finding.entry, finding.message, finding.closest

An entry that hits no Linear may name other modules, a container of Linears, or a module by the name
that it had before diffusers converted it. It may be written in another form, or misspelt. The first
of these that fits is the hint. Where all entries are dead, the form of the whole list is
questioned.

Hints are for people. Nothing is matched by them.
"""

import dataclasses
import difflib
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator

from sensitivity.consumers.lists import ConsumerList, Entry, ModelTree
from sensitivity.consumers.readers.plain import PLAIN_RULES
from sensitivity.core.fqns import role_of
from sensitivity.workflows.audit.findings import Finding, Kind, Severity
from sensitivity.workflows.audit.meanings import found_by, in_another_list
from sensitivity.workflows.audit.renames import renamed_to
from sensitivity.workflows.audit.subject import Subject
from sensitivity.workflows.audit.wording import first_names

HINTED = 25
"""Most dead entries that get a hint. A list for another model has hundreds, all dead alike."""
HINT_SECONDS = 3.0
"""What looking for hints may take. Read in another form, a text may be a costly regular expression.
"""
ALIKE, VERY_ALIKE = 0.6, 0.8
"""Similarity (difflib) from which a name is a hint: the first if it shares half of its words, else
the second.
"""


def dead_entries(subject: Subject) -> Iterator[Finding]:
    """Entries that hit no Linear, with hints; and whether another form would fit the list."""
    dead = [
        entry for entry, hits in zip(subject.listed.entries, subject.hits, strict=True) if not hits
    ]
    if dead and len(dead) == len(subject.listed.entries):
        yield _wrong_form(len(dead), subject)
    ends = time.monotonic() + HINT_SECONDS
    for number, entry in enumerate(dead):
        plain = Finding(
            kind=Kind.DEAD,
            severity=Severity.ERROR,
            message="hits no Linear",
            entry=entry.text,
            line=entry.line,
        )
        has_hint = number < HINTED and time.monotonic() < ends
        yield _with_hint(plain, entry, subject) if has_hint else plain


def _wrong_form(number: int, subject: Subject) -> Finding:
    """All entries are dead."""
    fitting = fitting_form(subject.listed, subject.model.tree)
    other_model = (
        "the list is for another model, or another part of this one: `sensitivity profile` lists"
        " the names"
    )
    return Finding(
        kind=Kind.FORM,
        severity=Severity.ERROR,
        message=(
            f"none of the entries ({number}) hits a Linear of {subject.model.spec.name},"
            f" read as {subject.listed.consumer}; {fitting or other_model}"
        ),
    )


def _with_hint(plain: Finding, entry: Entry, subject: Subject) -> Finding:
    """The finding with the first hint that fits."""
    hints: tuple[Callable[[Finding, Entry, Subject], Finding | None], ...] = (
        _other_modules,
        _container,
        _older_name,
        _other_rule,
    )
    for hint in hints:
        if found := hint(plain, entry, subject):
            return found
    closest = closest_names(_literal(entry), subject.model.tree)
    names = f"closest live names: {', '.join(closest)}" if closest else "nothing is called alike"
    return dataclasses.replace(plain, message=f"hits no Linear; {names}", closest=closest)


def _other_modules(plain: Finding, entry: Entry, subject: Subject) -> Finding | None:
    """It names modules that hold no Linear, such as norms."""
    model = subject.model
    tree = dataclasses.replace(model.tree, fqns=tuple(model.modules))
    others = found_by(dataclasses.replace(subject.listed, renamed=None), entry, tree)
    if not others:
        return None
    kinds = first_names(sorted({model.modules[name] for name in others}))
    return dataclasses.replace(
        plain,
        severity=Severity.NOTE,
        message=(
            f"hits no Linear, only {first_names(sorted(others), 2)} ({kinds}), which this tool"
            " leaves alone"
        ),
    )


def _container(plain: Finding, entry: Entry, subject: Subject) -> Finding | None:
    """It is the whole name of a module that holds Linears, in a form that matches whole names."""
    held = [
        fqn
        for fqn, names in subject.seen.items()
        if any(name.startswith(f"{entry.text}.") for name in names)
    ]
    if not held:
        return None
    return dataclasses.replace(
        plain,
        message=(
            f"hits no Linear: it is the name of a module that holds {len(held)}, and"
            f" {subject.listed.consumer} matches whole names: write {entry.text}.*"
        ),
        closest=(f"{entry.text}.*",),
    )


def _older_name(plain: Finding, entry: Entry, subject: Subject) -> Finding | None:
    """It is a module's name in the original checkpoint."""
    text = _literal(entry)
    renamed = renamed_to(text, subject.model.tree)
    if renamed is None:
        return None
    new, source = renamed
    message = f"hits no Linear: {text!r} is called {first_names(new)} in diffusers ({source})"
    return dataclasses.replace(plain, message=message, closest=new)


def _other_rule(plain: Finding, entry: Entry, subject: Subject) -> Finding | None:
    """By another plain rule it would hit Linears."""
    text = _literal(entry)
    for rule in PLAIN_RULES:
        if rule == entry.rule:
            continue
        other = dataclasses.replace(entry, rule=rule)
        hits = found_by(_plain(rule), other, subject.model.tree)
        if hits and not in_another_list(text, hits, subject):
            message = f"hits no Linear as {entry.rule}; as {rule} it would hit {len(hits)}"
            return dataclasses.replace(plain, message=message)
    return None


def _plain(rule: str) -> ConsumerList:
    """An empty list in a plain form."""
    return ConsumerList(consumer=rule, entries=(), either_name=True)


def _literal(entry: Entry) -> str:
    """The longest run of an entry's text that can be a name."""
    text = entry.text.removeprefix("re:").replace(r"\.", ".")
    runs = re.findall(r"[A-Za-z_][\w-]*(?:\.[\w-]+)*", text)
    return max(runs, key=len, default=entry.text).removesuffix(".weight")


def closest_names(text: str, tree: ModelTree) -> tuple[str, ...]:
    """Up to three names of a model that a text may mean.

    They are whole FQNs if the text has an index, else parts of names and roles.
    """
    inside = [tree.inside(fqn) for fqn in tree.fqns]
    roles = list(dict.fromkeys(map(role_of, inside)))
    names = [
        *dict.fromkeys(part for role in roles for part in role.split(".") if not part.isdigit()),
        *roles,
    ]
    if any(part.isdigit() for part in text.split(".")):
        names = inside
    close = difflib.get_close_matches(text, dict.fromkeys(names), n=9, cutoff=ALIKE)
    return tuple(
        name
        for name in close
        if _shared_words(text, name) >= 0.5
        or difflib.SequenceMatcher(a=text, b=name).ratio() >= VERY_ALIKE
    )[:3]


def _shared_words(text: str, name: str) -> float:
    """The part of two names' words that they share: `to_add_out` and `to_out` 2 of 3."""
    one, other = (set(re.split(r"[._]", x)) for x in (text, name))
    return len(one & other) / max(len(one), len(other))


def fitting_form(listed: ConsumerList, tree: ModelTree) -> str:
    """The plain form that would make at least half of a list's entries live, as a clause; else "".

    The first `HINTED` entries are tried.
    """
    entries, live, ends = listed.entries[:HINTED], Counter[str](), time.monotonic() + HINT_SECONDS
    for entry, rule in itertools.product(entries, PLAIN_RULES):
        if time.monotonic() < ends:
            tried = dataclasses.replace(entry, rule=rule, component="")
            live[rule] += bool(found_by(_plain(rule), tried, tree))
    best = max(PLAIN_RULES, key=lambda rule: live[rule])
    if live[best] * 2 < len(entries):
        return ""
    which = "its" if len(listed.entries) <= HINTED else "the first"
    return f"read as {best}, {live[best]} of {which} {len(entries)} would: pass `form` {best}"
