"""Do the entries of a list name what their author means?

Dead, over-matching and redundant entries, and lists read in the wrong form.

What an entry means is judged from its text, by its rule:

- An entry of letters alone (`embed`, `norm`) means these letters anywhere, and so does a fragment
  that is nowhere bounded by dots on both sides (`_embedder`).
- A substring that is a module's whole name (`proj_out`, `transformer_blocks.0`) means that module;
  one that somewhere stands between dots (`attn1.to_q`) means the places where it does. Hits
  elsewhere (`single_transformer_blocks.0`, `audio_attn1.to_q`) are more than it means.
- A name and an index begin at the name: where the model has `transformer_blocks` but no block 19
  there, `transformer_blocks.19.` means nothing, and never `single_transformer_blocks.19`.
- A number means this number: `blocks.1` never means blocks 10 to 19, whether substring, open glob
  (`blocks.1*`) or open regular expression.
- A star in front of a list of blocks and an index (`*transformer_blocks.0.*`) means the list of
  that name where there is one.
- Exact names and prefixes say what they mean.

Over-matching counts only where it changes a Linear's format: what other entries, or a least width,
would decide alike is no fault.

    meanings(subject)       # {index of an over-matching entry: what it means}
"""

import dataclasses
import difflib
import itertools
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from sensitivity.consumers.lists import ConsumerList, Entry, ModelTree
from sensitivity.consumers.readers.plain import PLAIN_RULES
from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import role_of, stack_of
from sensitivity.core.pattern_cover import compress
from sensitivity.core.patterns import META
from sensitivity.errors import PatternError
from sensitivity.workflows.audit.renames import renamed_to
from sensitivity.workflows.audit.subject import (
    Finding,
    Kind,
    Severity,
    Subject,
    assigned,
    counted,
    place,
    some,
)

SUBSTRINGS, WILDCARDS, REGEXES = (
    ("substring", "dotted-substring"),
    ("glob", "fnmatch"),
    ("regex", "regex-full", "regex-search"),
)
HINTED = 25
"""Dead entries that are looked into; a list for another model has hundreds, and one hint fits them
all.
"""
HINT_SECONDS = 3.0
"""What looking for hints may take; a text may be a regular expression without end in another form.
"""
SHOWN_GLOBS = 3
ALIKE, VERY_ALIKE = 0.6, 0.8
"""Similarity (difflib) from which a name is looked at, and from which it is named though it shares
few words.
"""
COSTLY = 0.005
"""Part of a bf16 run that over-matching must cost to be an error where the text alone does not make
it one.
"""
_WORD = re.compile(r"[A-Za-z]+")
_OPEN_SEGMENT = re.compile(r"(?:\d|\[!?[^\]]+\])+\*+")
_NUMERAL = re.compile(r"\\.|\[[^\]]*\]|\{[^}]*\}|(?P<numeral>\d+)(?![\d?*+{\[]|\\d)")
_LIST = re.compile(r"(?<![A-Za-z0-9_])([A-Za-z_]\w*)(?:\.|\x00)[\d(\[]")


# --- dead entries ---------------------------------------------------------------------------------


def dead_entries(subject: Subject) -> Iterator[Finding]:
    """Entries that hit no Linear, with what they may mean; and whether another form would fit the
    list.
    """
    dead = [
        entry for entry, hits in zip(subject.listed.entries, subject.hits, strict=True) if not hits
    ]
    if dead and len(dead) == len(subject.listed.entries):
        hint = fitting_form(subject.listed, subject.model.tree)
        yield Finding(
            kind=Kind.FORM,
            severity=Severity.ERROR,
            message=(
                f"none of the entries ({len(dead)}) hits a Linear of {subject.model.spec.name},"
                f" read as {subject.listed.consumer}; "
            )
            + (
                hint
                or "the list is for another model, or another part of this one: `sensitivity profile --json -` lists the names"
            ),
        )
    ends = time.monotonic() + HINT_SECONDS
    for number, entry in enumerate(dead):
        yield (
            _dead(entry, subject)
            if number < HINTED and time.monotonic() < ends
            else _plainly_dead(entry)
        )


def _plainly_dead(entry: Entry) -> Finding:
    return Finding(
        kind=Kind.DEAD,
        severity=Severity.ERROR,
        message="hits no Linear",
        entry=entry.text,
        line=entry.line,
    )


def _dead(entry: Entry, subject: Subject) -> Finding:
    """Why an entry is dead: it names other modules, a container, or an older name; else what is
    called alike.
    """
    model = subject.model
    plain = _plainly_dead(entry)
    others = _found(
        dataclasses.replace(subject.listed, renamed=None),
        entry,
        dataclasses.replace(model.tree, fqns=tuple(model.modules)),
    )
    if others:
        kinds = some(sorted({model.modules[name] for name in others}))
        word = (
            f"hits no Linear, only {some(sorted(others), 2)} ({kinds}), which this tool leaves"
            " alone"
        )
        return dataclasses.replace(plain, severity=Severity.NOTE, message=word)
    held = [
        fqn
        for fqn, names in subject.seen.items()
        if any(name.startswith(f"{entry.text}.") for name in names)
    ]
    if held:
        word = (
            f"hits no Linear: it is the name of a module that holds {len(held)}, and"
            f" {subject.listed.consumer} matches whole names: write {entry.text}.*"
        )
        return dataclasses.replace(plain, message=word, closest=(f"{entry.text}.*",))
    text = _literal(entry)
    renamed = renamed_to(text, model.tree)
    if renamed:
        new, source = renamed
        word = f"hits no Linear: {text!r} is called {some(new)} in diffusers ({source})"
        return dataclasses.replace(plain, message=word, closest=new)
    found = (
        (rule, _found(_plain(rule), dataclasses.replace(entry, rule=rule), model.tree))
        for rule in PLAIN_RULES
        if rule != entry.rule
    )
    other, hits = next(
        (
            (rule, hits)
            for rule, hits in found
            if hits and not _in_another_list(text, hits, subject)
        ),
        ("", frozenset[str]()),
    )
    if other:
        word = f"hits no Linear as {entry.rule}; as {other} it would hit {len(hits)}"
        return dataclasses.replace(plain, message=word)
    closest = closest_names(text, model.tree)
    return dataclasses.replace(
        plain,
        message="hits no Linear"
        + (
            f"; closest live names: {', '.join(closest)}"
            if closest
            else "; nothing is called alike"
        ),
        closest=closest,
    )


def _plain(rule: str) -> ConsumerList:
    return ConsumerList(consumer=rule, entries=(), either_name=True)


def _found(listed: ConsumerList, entry: Entry, tree: ModelTree) -> frozenset[str]:
    """What an entry hits; nothing where it is no pattern of this rule."""
    try:
        return listed.hits(entry, tree)
    except PatternError:
        return frozenset()


def closest_names(text: str, tree: ModelTree) -> tuple[str, ...]:
    """Up to three names of this model that a text may mean: parts of names and roles; whole names
    where the text has an index.
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


def _literal(entry: Entry) -> str:
    """The longest run of an entry's text that can be a name."""
    text = entry.text.removeprefix("re:").replace(r"\.", ".")
    runs = re.findall(r"[A-Za-z_][\w-]*(?:\.[\w-]+)*", text)
    return max(runs, key=len, default=entry.text).removesuffix(".weight")


def fitting_form(listed: ConsumerList, tree: ModelTree) -> str:
    """Which plain form would make at least half of a list's entries live, as a clause; "" where
    none would.
    """
    entries, live, ends = listed.entries[:HINTED], Counter[str](), time.monotonic() + HINT_SECONDS
    for entry, rule in itertools.product(entries, PLAIN_RULES):
        if time.monotonic() < ends:
            live[rule] += bool(
                _found(_plain(rule), dataclasses.replace(entry, rule=rule, component=""), tree)
            )
    best = max(PLAIN_RULES, key=lambda rule: live[rule])
    if live[best] * 2 < len(entries):
        return ""
    return (
        f"read as {best}, {live[best]} of {'its' if len(listed.entries) <= HINTED else 'the first'}"
        f" {len(entries)} would: pass --as {best}"
    )


# --- over-matching --------------------------------------------------------------------------------


class Meaning(NamedTuple):
    """What an entry means:

    `fqns`, and whether what it hits besides is `surely` not meant (a longer number, or another list
    where the whole name of one stands).
    """

    fqns: frozenset[str]
    surely: bool


def over_matching(subject: Subject) -> Iterator[Finding]:
    """Entries that hit more than they mean, where that changes a format."""
    meant = meanings(subject)
    exact = exact_formats(subject, meant)
    for index, (means, surely) in meant.items():
        entry, hits = subject.listed.entries[index], subject.hits[index]
        more = [
            fqn
            for fqn in subject.formats
            if fqn in hits - means and exact[fqn] is not subject.formats[fqn]
        ]
        if not more:
            continue
        cost_s = subject.gain_with(exact, more) - subject.gain_with(subject.formats, more)
        severe = surely or cost_s >= COSTLY * subject.model.bf16_s
        globs, surplus = (_globs(fqns, subject) for fqns in (means, more))
        names = (
            f"names {some(globs)} ({counted(len(means), 'Linear')}) and"
            if means
            else "names no Linear of that list of blocks, and"
        )
        yield Finding(
            kind=Kind.OVER,
            severity=Severity.ERROR if severe else Severity.WARNING,
            entry=entry.text,
            line=entry.line,
            fqns=tuple(more),
            cost_s=cost_s,
            message=(
                f"{names} as {entry.rule} {'also ' if means else ''}hits {some(surplus)}"
                f" ({len(more)}{' more' if means else ''}); if these are not meant,"
                f" {_precise(globs, subject.listed.consumer)}"
            ),
        )


def _globs(fqns: Iterable[str], subject: Subject) -> list[str]:
    return [pattern.pattern for pattern in compress(fqns, subject.model.tree.fqns)]


def _precise(globs: list[str], form: str) -> str:
    """What to write instead, where the form has room for it."""
    if not globs:
        return "take it out"
    if form not in PLAIN_RULES or len(globs) > SHOWN_GLOBS:
        return "take the exact list that --fix writes"
    rules = [
        "" if form == "glob" else "fqn:" if META.isdisjoint(glob) else "glob:" for glob in globs
    ]
    return f"write {', '.join(rule + glob for rule, glob in zip(rules, globs, strict=True))}"


def exact_formats(subject: Subject, meant: Mapping[int, Meaning]) -> dict[str, FormatName]:
    """{FQN: format} if each over-matching entry hit what it means and no more."""
    if not meant:
        return dict(subject.formats)
    rest = dataclasses.replace(
        subject.listed,
        entries=tuple(e for i, e in enumerate(subject.listed.entries) if i not in meant),
    )
    without = assigned(rest, subject.model.tree, subject.format)
    kept = frozenset[str]().union(*(means for means, _ in meant.values()))
    return {fqn: name if fqn in kept else without[fqn] for fqn, name in subject.formats.items()}


def meanings(subject: Subject) -> dict[int, Meaning]:
    """{index of an entry: what it means} of the entries that hit more than these."""
    found = {}
    for index, (entry, hits) in enumerate(zip(subject.listed.entries, subject.hits, strict=True)):
        meaning = _meaning(entry, hits, subject)
        if meaning.fqns < hits and (meaning.fqns or meaning.surely):
            found[index] = meaning
    return found


def _meaning(entry: Entry, hits: frozenset[str], subject: Subject) -> Meaning:
    if entry.rule in SUBSTRINGS:
        return _substring_meaning(entry.text, hits, subject)
    if entry.rule in WILDCARDS:
        closed = _closed_globs(entry.text)
    elif entry.rule in REGEXES or (entry.rule == "weight-key" and entry.text.startswith("re:")):
        closed = (
            _NUMERAL.sub(
                lambda found: found[0] + (r"(?!\d)" if found["numeral"] else ""), entry.text
            ),
        )
    else:
        return Meaning(hits, surely=False)
    numbered = hits
    if hits and closed != (entry.text,):
        matched = (
            _found(subject.listed, dataclasses.replace(entry, text=text), subject.model.tree)
            for text in closed
        )
        numbered = frozenset[str]().union(*matched) & hits
    return Meaning(
        _of_one_list(entry.text, numbered or hits, subject),
        surely=bool(numbered) and numbered < hits,
    )


def _substring_meaning(text: str, hits: frozenset[str], subject: Subject) -> Meaning:
    """The module of that name, else the places between dots, else all but those inside a longer
    number.
    """
    if _WORD.fullmatch(text):
        return Meaning(hits, surely=False)
    if _in_another_list(text, hits, subject):
        return Meaning(frozenset(), surely=True)
    levels: dict[int, set[str]] = {}
    for fqn in hits:
        levels.setdefault(
            max((_fit(text, name) for name in subject.seen[fqn]), default=0), set()
        ).add(fqn)
    named, whole, loose = (frozenset(levels.get(level, ())) for level in (3, 2, 1))
    one_block = bool(named) and any(part.isdigit() for part in text.split("."))
    return Meaning(named or whole or loose or hits, surely=one_block or 0 in levels)


def _in_another_list(text: str, hits: frozenset[str], subject: Subject) -> bool:
    """Whether a text begins with a list of blocks of this model and an index, and hits only lists
    whose names end so.
    """
    inside = subject.model.tree.inside
    name, _, rest = text.partition(".")
    lists = {inside(fqn).partition(".")[0] for fqn in hits}
    return (
        rest[:1].isdigit()
        and name not in lists
        and any(inside(fqn).startswith(f"{name}.") for fqn in subject.formats)
        and all(x.endswith(name) for x in lists)
    )


def _fit(text: str, name: str) -> int:
    """How well a text fits into a name: 3 it is a module that the name begins with, 2 it stands
    between dots, 1 it stands elsewhere, 0 only inside a longer number.
    """
    best = 3 if text == f"{name}.weight" else 0
    start = name.find(text)
    while start >= 0:
        before, after = name[:start][-1:], name[start + len(text) :][:1]
        begins, ends = before in ("", ".") or text[0] == ".", after in ("", ".") or text[-1] == "."
        runs_on = (text[-1].isdigit() and after.isdigit()) or (
            text[0].isdigit() and before.isdigit()
        )
        best = max(
            best, 3 if not before and ends else 2 if begins and ends else 0 if runs_on else 1
        )
        start = name.find(text, start + 1)
    return best


def _closed_globs(text: str) -> tuple[str, ...]:
    """The glob with `1*` closed where a whole part of a name is a number and stars:

    `blocks.1*` -> `blocks.1`, `blocks.1.*`.
    """
    parts = text.split(".")
    if not any(_OPEN_SEGMENT.fullmatch(part) for part in parts):
        return (text,)
    closed = [part.rstrip("*") if _OPEN_SEGMENT.fullmatch(part) else part for part in parts]
    deeper = [f"{part.rstrip('*')}.*" if _OPEN_SEGMENT.fullmatch(part) else part for part in parts]
    return ".".join(closed), ".".join(deeper)


def _of_one_list(text: str, hits: frozenset[str], subject: Subject) -> frozenset[str]:
    """Those of a pattern's hits that are in lists of blocks called exactly as the pattern says,
    where it names one with an index; else all of them.
    """
    inside = subject.model.tree.inside
    marked = text.replace(r"\.", "\x00")
    lists = {inside(fqn).partition(".")[0] for fqn in subject.formats if stack_of(inside(fqn))}
    for found in _LIST.finditer(marked):
        name, before = found[1], marked[: found.start()][-1:]
        if name not in lists or before in (".", "\x00"):
            continue
        others = {
            other
            for other in lists
            if other != name and other.endswith(name) and other not in marked
        }
        means = frozenset(fqn for fqn in hits if inside(fqn).partition(".")[0] not in others)
        if means:
            hits = means
    return hits


# --- redundant entries ----------------------------------------------------------------------------


def redundant_entries(subject: Subject) -> Iterator[Finding]:
    """Entries without which the list would say the same, in plain lists whose entries all say one
    thing.
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
    for index in sorted(range(len(entries)), key=lambda i: (len(subject.hits[i]), -i)):
        hits, entry = subject.hits[index], entries[index]
        if hits and all(covers[fqn] > 1 for fqn in hits):
            for fqn in hits:
                covers[fqn] -= 1
            one = next(
                (
                    other
                    for other, theirs in zip(entries, subject.hits, strict=True)
                    if other is not entry and hits <= theirs
                ),
                None,
            )
            by = f"{place(one)}{one.text}" if one else "other entries together"
            yield Finding(
                kind=Kind.REDUNDANT,
                severity=Severity.NOTE,
                entry=entry.text,
                line=entry.line,
                fqns=tuple(sorted(hits)),
                message=f"says nothing that is not said by {by}",
            )
