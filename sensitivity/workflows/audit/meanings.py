"""Which Linears does the author of an entry mean? `meanings`, judged from the entry's text.

    meanings(subject)       # {index of an entry that hits more than it means: what it means}

The rules, by kind of entry:

- An entry of letters alone (`embed`, `norm`) means these letters anywhere. So does a fragment that
  is nowhere bounded by dots on both sides (`_embedder`).
- A substring that is a module's whole name (`proj_out`, `transformer_blocks.0`) means that module.
  One that somewhere stands between dots (`attn1.to_q`) means the places where it does. Hits
  elsewhere (`single_transformer_blocks.0`, `audio_attn1.to_q`) are more than it means.
- A name and an index begin at the name. If the model has `transformer_blocks` but no block 19
  there, `transformer_blocks.19.` means nothing, and never `single_transformer_blocks.19`.
- A number means this number: `blocks.1` never means blocks 10 to 19, be it a substring, an open
  glob (`blocks.1*`) or an open regular expression.
- A star in front of a list of blocks and an index (`*transformer_blocks.0.*`) means the list of
  that name, if there is one.
- Exact names and prefixes mean what they say.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import NamedTuple

from sensitivity.consumers.lists import ConsumerList, Entry, ModelTree
from sensitivity.errors import PatternError
from sensitivity.workflows.audit.subject import Subject

SUBSTRINGS, WILDCARDS, REGEXES = (
    ("substring", "dotted-substring"),
    ("glob", "fnmatch"),
    ("regex", "regex-full", "regex-search", "weight-regex-search"),
)
"""Rules by kind of entry; entries of other rules mean what they say."""
_WORD = re.compile(r"[A-Za-z]+")
_OPEN_SEGMENT = re.compile(r"(?:\d|\[!?[^\]]+\])+\*+")
_NUMERAL = re.compile(r"\\.|\[[^\]]*\]|\{[^}]*\}|(?P<numeral>\d+)(?![\d?*+{\[]|\\d)")
_LIST = re.compile(r"(?<![A-Za-z0-9_])([A-Za-z_]\w*)(?:\.|\x00)[\d(\[]")
NAMED, WHOLE, LOOSE, INSIDE_NUMBER = 3, 2, 1, 0
"""How well a text fits into a name: the name begins with it and it ends at a dot; it stands between
dots; it stands elsewhere; it stands only inside a longer number.
"""


class Meaning(NamedTuple):
    """What an entry means.

    Attributes:
        fqns: the Linears that are meant.
        surely: whether the other hits are surely not meant: they have a longer number, or are in
            another list than the one whose whole name the entry has.
    """

    fqns: frozenset[str]
    surely: bool


def meanings(subject: Subject) -> dict[int, Meaning]:
    """{index of an entry: what it means} of the entries that hit more than they mean."""
    found = {}
    for index, (entry, hits) in enumerate(zip(subject.listed.entries, subject.hits, strict=True)):
        meaning = _meaning(entry, hits, subject)
        if meaning.fqns < hits and (meaning.fqns or meaning.surely):
            found[index] = meaning
    return found


def found_by(
    listed: ConsumerList,
    entry: Entry,
    tree: ModelTree,
    names: Mapping[str, set[str]] | None = None,
) -> frozenset[str]:
    """What an entry hits; nothing if it is no pattern of its rule. `names` as in `hits`."""
    try:
        return listed.hits(entry, tree, names)
    except PatternError:
        return frozenset()


def in_another_list(text: str, hits: frozenset[str], subject: Subject) -> bool:
    """Whether a text names a list of blocks and an index, and hits only other lists.

    The names of the other lists end with the text's: `transformer_blocks.19` hits
    `single_transformer_blocks.19`.
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


def _meaning(entry: Entry, hits: frozenset[str], subject: Subject) -> Meaning:
    if entry.rule in SUBSTRINGS:
        return _substring_meaning(entry.text, hits, subject)
    if entry.rule in WILDCARDS:
        closed = _closed_globs(entry.text)
    elif entry.rule in REGEXES or (entry.rule == "weight-key" and entry.text.startswith("re:")):
        closed = (_closed_regex(entry.text),)
    elif entry.rule == "sdnq" and entry.text[0] == "." and entry.text[-1].isdigit():
        closed = (f"{entry.text}.",)
    else:
        return Meaning(hits, surely=False)
    numbered = hits
    if hits and closed != (entry.text,):
        matched = (
            found_by(
                subject.listed,
                dataclasses.replace(entry, text=text),
                subject.model.tree,
                subject.names,
            )
            for text in closed
        )
        numbered = frozenset[str]().union(*matched) & hits
    return Meaning(
        _of_one_list(entry.text, numbered or hits, subject),
        surely=bool(numbered) and numbered < hits,
    )


def _substring_meaning(text: str, hits: frozenset[str], subject: Subject) -> Meaning:
    """The hits that the text fits best; hits inside a longer number are surely not meant."""
    if _WORD.fullmatch(text):
        return Meaning(hits, surely=False)
    if in_another_list(text, hits, subject):
        return Meaning(frozenset(), surely=True)
    levels: dict[int, set[str]] = {}
    for fqn in hits:
        level = max((_fit(text, name) for name in subject.seen[fqn]), default=INSIDE_NUMBER)
        levels.setdefault(level, set()).add(fqn)
    named, whole, loose = (frozenset(levels.get(level, ())) for level in (NAMED, WHOLE, LOOSE))
    one_block = bool(named) and any(part.isdigit() for part in text.split("."))
    return Meaning(named or whole or loose or hits, surely=one_block or INSIDE_NUMBER in levels)


def _fit(text: str, name: str) -> int:
    """How well a text fits into a name, at the best of its places."""
    best = NAMED if text == f"{name}.weight" else INSIDE_NUMBER
    start = name.find(text)
    while start >= 0:
        before, after = name[:start][-1:], name[start + len(text) :][:1]
        begins, ends = before in ("", ".") or text[0] == ".", after in ("", ".") or text[-1] == "."
        runs_on = (text[-1].isdigit() and after.isdigit()) or (
            text[0].isdigit() and before.isdigit()
        )
        if not before and ends:
            best = NAMED
        elif begins and ends:
            best = max(best, WHOLE)
        elif not runs_on:
            best = max(best, LOOSE)
        start = name.find(text, start + 1)
    return best


def _closed_globs(text: str) -> tuple[str, ...]:
    """The glob with each part that is a number and stars closed after the number.

    `blocks.1*` becomes `blocks.1` and `blocks.1.*`.
    """
    parts = text.split(".")
    if not any(_OPEN_SEGMENT.fullmatch(part) for part in parts):
        return (text,)
    closed = [part.rstrip("*") if _OPEN_SEGMENT.fullmatch(part) else part for part in parts]
    deeper = [f"{part.rstrip('*')}.*" if _OPEN_SEGMENT.fullmatch(part) else part for part in parts]
    return ".".join(closed), ".".join(deeper)


def _closed_regex(text: str) -> str:
    """The regular expression with each number closed: no further digit may follow it."""
    return _NUMERAL.sub(lambda found: found[0] + (r"(?!\d)" if found["numeral"] else ""), text)


def _of_one_list(text: str, hits: frozenset[str], subject: Subject) -> frozenset[str]:
    """The hits in the list of blocks that a pattern names with an index; all hits if it names none.

    Hits in lists whose names only end with that name are left out.
    """
    inside = subject.model.tree.inside
    marked = text.replace(r"\.", "\x00")
    lists = subject.lists_of_blocks
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
