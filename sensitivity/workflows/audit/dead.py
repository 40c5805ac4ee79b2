"""Which entries of a list hit nothing, and what may they mean?

    for finding in dead_entries(subject):
        finding.entry, finding.message, finding.closest

An entry that hits no Linear may name other modules, a container of Linears, or Linears by a name
that another tool gives them (`understood`). It may be written in another form, or misspelt. The
first of these that fits is the hint. Where all entries are dead, the form of the whole list is
questioned.

Hints speak the consumer's names: what they say can be written into the list as it is. Nothing is
matched by them.
"""

import dataclasses
import difflib
import itertools
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from sensitivity.consumers.lists import ConsumerList, Entry, ModelTree
from sensitivity.consumers.readers.plain import PLAIN_RULES
from sensitivity.consumers.readers.served_lists import ServedList
from sensitivity.consumers.rules import RULES
from sensitivity.core.fqns import role_of
from sensitivity.workflows.audit.findings import Finding, Kind, Severity
from sensitivity.workflows.audit.meanings import found_by, in_another_list
from sensitivity.workflows.audit.renames import renamed_to
from sensitivity.workflows.audit.served import never_quantized
from sensitivity.workflows.audit.subject import Subject
from sensitivity.workflows.audit.understood import (
    DIFFUSERS,
    STARRED,
    WHOSE,
    Interpreter,
    Understood,
)
from sensitivity.workflows.audit.wording import first_names, plural

HINTED = 25
"""Most dead entries that get a hint. A list for another model has hundreds, all dead alike."""
HINT_SECONDS = 3.0
"""What looking for hints may take. Read in another form, a text may be a costly regular expression.
"""
ALIKE, VERY_ALIKE = 0.6, 0.8
"""Similarity (difflib) from which a name is a hint: the first if it shares half of its words, else
the second.
"""

OTHER_MODEL = (
    "the list is for another model, or another part of this one: `sensitivity profile` lists the"
    " names"
)


def dead_entries(subject: Subject) -> Iterator[Finding]:
    """Entries that hit no Linear, with hints; and whether another form would fit the list."""
    dead = [
        entry for entry, hits in zip(subject.listed.entries, subject.hits, strict=True) if not hits
    ]
    interpreter = Interpreter(subject)
    if dead and len(dead) == len(subject.listed.entries) and not _name_others(dead, subject):
        yield _wrong_form(dead, subject, interpreter)
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
        yield _with_hint(plain, entry, subject, interpreter) if has_hint else plain


def _wrong_form(dead: list[Entry], subject: Subject, interpreter: Interpreter) -> Finding:
    """All entries are dead."""
    form = subject.listed.consumer
    hint = fitting_form(subject.listed, subject.model.tree) if form in PLAIN_RULES else ""
    return Finding(
        kind=Kind.FORM,
        severity=Severity.ERROR,
        message=(
            f"none of the entries ({len(dead)}) hits a Linear of {subject.model.spec.name}, read as"
            f" {form}; {hint or _other_names(dead, form, interpreter) or OTHER_MODEL}"
        ),
    )


def _other_names(dead: list[Entry], form: str, interpreter: Interpreter) -> str:
    """Whose names, or parts of whose names, at least half of the entries are; else ""."""
    tried, whose = dead[:HINTED], Counter[str]()
    for entry in tried:
        if (found := interpreter.read(entry)) and (found.whose or found.part):
            whose["parts of" if found.part else found.whose] += 1
    if not whose or whose.most_common(1)[0][1] * 2 < len(tried):
        return ""
    (most, count), which = whose.most_common(1)[0], "its" if len(dead) <= HINTED else "the first"
    if most == "parts of":
        return (
            f"{count} of {which} {len(tried)} are parts of names, and {form} matches others:"
            " `fix` writes the list with whole names"
        )
    return (
        f"{count} of {which} {len(tried)} are {most} names, and {form} matches"
        f" {'its own' if form in WHOSE else DIFFUSERS + ' names'}: `fix` writes the list with these"
    )


def _with_hint(plain: Finding, entry: Entry, subject: Subject, interpreter: Interpreter) -> Finding:
    """The finding with the first hint that fits."""
    hints: tuple[Callable[[], Finding | None], ...] = (
        lambda: _other_modules(plain, entry, subject),
        lambda: _older_name(plain, entry, subject, interpreter, whole=True),
        lambda: _other_name(plain, entry, subject, interpreter),
        lambda: _older_name(plain, entry, subject, interpreter, whole=False),
        lambda: _other_rule(plain, entry, subject),
    )
    for hint in hints:
        if found := hint():
            return found
    closest = closest_names(_literal(entry), subject)
    names = f"closest live names: {', '.join(closest)}" if closest else "nothing is called alike"
    return dataclasses.replace(plain, message=f"hits no Linear; {names}", closest=closest)


def _name_others(dead: list[Entry], subject: Subject) -> bool:
    """Whether all of the entries name modules that hold no Linear."""
    plain = Finding(kind=Kind.DEAD, severity=Severity.NOTE, message="")
    return len(dead) <= HINTED and all(_other_modules(plain, entry, subject) for entry in dead)


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


def _other_name(
    plain: Finding, entry: Entry, subject: Subject, interpreter: Interpreter
) -> Finding | None:
    """It is another name of Linears, or the name of a module that holds some."""
    found = interpreter.read(entry)
    if found is None or (found.part and subject.listed.consumer in PLAIN_RULES):
        return None  # plain lists have a rule for parts of names, at which `_other_rule` hints
    form, fqns = subject.listed.consumer, [fqn for fqn in subject.formats if fqn in found.fqns]
    if found.holds and not found.whose:
        what = f"the name of a module that holds {len(fqns)}"
    else:
        names = first_names(called_there(fqns, subject)) or "without a name there"
        whose = found.whose or ("the" if found.part else "more than the")
        which = "names" if len(fqns) > 1 and found.part else "name"
        part = "a part of " if found.part and names != entry.text else ""
        what = f"{part}{whose} {which} of {plural(len(fqns), 'Linear')} ({names})"
    if isinstance(subject.listed, ServedList) and never_quantized(
        subject.listed, subject.model.tree
    ).issuperset(fqns):
        return dataclasses.replace(
            plain,
            severity=Severity.NOTE,
            message=f"hits no Linear: it is {what}, which {form} never quantizes",
        )
    closest, step = _what_to_write(entry, fqns, found, subject)
    return dataclasses.replace(
        plain, message=f"hits no Linear: it is {what}{step}", closest=closest
    )


def _what_to_write(
    entry: Entry, fqns: list[str], found: Understood, subject: Subject
) -> tuple[tuple[str, ...], str]:
    """(names to write instead, the clause that says so) for an entry that means `fqns`."""
    form, names = subject.listed.consumer, called_there(fqns, subject)
    if not names:
        return (), f"; {form} gives them no name, so no list can tell them apart"
    if found.holds and not found.whose:
        glob = f"{entry.text}.*"
        if entry.rule in STARRED:
            return (glob,), f", and {form} matches whole names: write {glob}"
        if form in PLAIN_RULES:
            return (glob,), f", and {form} matches whole names: write glob:{glob}"
        shown = first_names(names)
        return tuple(names[:3]), f", and {form} matches whole names: write {shown}, as `fix` does"
    if found.part:
        whole = _live(entry, names, subject)
        says = f", and {form} compares it with {RULES[entry.rule].description}"
        if not whole:
            return (), f"{says}: no entry can name them alone; `fix` writes a list that does"
        return whole[:3], f"{says}: write {first_names(whole)}, as `fix` does"
    with_others = ""
    if isinstance(subject.listed, ServedList) and (others := _run_with(fqns, names, subject)):
        with_others = f", which {form} runs as one with {first_names(others)}"
    this = "that" if len(names) == 1 else "these"
    return tuple(names[:3]), f"{with_others}: write {this}"


def _live(entry: Entry, names: list[str], subject: Subject) -> tuple[str, ...]:
    """These names, or those of their weights, as far as the rule of an entry hits them; () if it
    hits the first in neither way.
    """
    for end in ("", ".weight"):
        first = dataclasses.replace(entry, text=f"{names[0]}{end}")
        if found_by(subject.listed, first, subject.model.tree, subject.names):
            return tuple(f"{name}{end}" for name in names)
    return ()


def _run_with(fqns: list[str], names: list[str], subject: Subject) -> list[str]:
    """The other Linears of these run-time names, in the components of `fqns`."""
    component_of = subject.model.tree.component_of
    components = set(map(component_of, fqns))
    others = set[str]().union(*(subject.names[name] for name in names)).difference(fqns)
    return [fqn for fqn in subject.formats if fqn in others and component_of(fqn) in components]


def called_there(fqns: Iterable[str], subject: Subject) -> list[str]:
    """What the consumer calls these Linears, each name once; those without a name are left out."""
    return [name for name in dict.fromkeys(map(subject.called, fqns)) if name]


def _older_name(
    plain: Finding, entry: Entry, subject: Subject, interpreter: Interpreter, *, whole: bool
) -> Finding | None:
    """It is, or has in it, a module's name in the original checkpoint.

    A consumer that matches names of its own is told these, not diffusers'. A new name that would
    hit more than the old one means is not offered.
    """
    text = _literal(entry)
    renamed = renamed_to(text, subject.model.tree, whole=whole)
    if renamed is None or isinstance(subject.listed, ServedList):
        return None
    new, source = renamed
    today = dataclasses.replace(entry, text=entry.text.replace(text, new[0]))
    meant = interpreter.read(entry) if whole else None
    if meant and found_by(subject.listed, today, subject.model.tree, subject.names) - meant.fqns:
        return None
    message = f"hits no Linear: {text!r} is called {first_names(new)} in diffusers ({source})"
    return dataclasses.replace(plain, message=message, closest=new)


def _other_rule(plain: Finding, entry: Entry, subject: Subject) -> Finding | None:
    """By another plain rule it would hit Linears."""
    text = _literal(entry)
    for rule in PLAIN_RULES:
        if rule == entry.rule:
            continue
        other = dataclasses.replace(entry, rule=rule)
        hits = found_by(_plain(rule), other, subject.model.tree, subject.names)
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


def closest_names(text: str, subject: Subject) -> tuple[str, ...]:
    """Up to three names that the consumer gives the model's Linears, and that a text may mean.

    They are whole names if the text has an index, else parts of names and roles.
    """
    inside = called_there(subject.formats, subject)
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
