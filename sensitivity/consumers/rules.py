"""Which names does one entry of a list hit? The matching rules that the tools use, by name.

    hits("glob", "blocks.1.*", names)          # frozenset of those names
    hits("regex", "proj_out.*", names)         # re.match: from the start, open at the end

`RULES` has every rule, each described in one sentence. Names are those of modules. Rules that look
at parameters use the name of the weight, which is the module's name and ".weight".

Regular expressions have a time limit (`consumers.timed_regexes`).

It knows no consumer and no file format.
"""

import fnmatch
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import lru_cache
from types import MappingProxyType
from typing import NamedTuple

from sensitivity.consumers.regex_literals import literals_of
from sensitivity.consumers.seen_names import Names, runs
from sensitivity.consumers.timed_regexes import NameTest, regex_test
from sensitivity.core.patterns import META, check_pattern
from sensitivity.errors import PatternError

MAX_ENTRY = 4096
"""The most characters of one entry."""

LINEAR_CLASSES = ("Linear", "Module")
"""Names of the classes that a Linear is an instance of."""

# A bracket that opens no set of characters is taken for one here, which only shortens runs.
_WILD = re.compile(r"[*?]|\[!?\]?[^\]]*(?:\]|$)", re.DOTALL)


class Rule(NamedTuple):
    """One matching rule.

    Attributes:
        description: what an entry is compared with, in one sentence.
        test: makes the test of a name from an entry.
        only: the names that an entry can hit at all; None where any name is possible.
        part: a text that every name has that an entry hits; "" where there is none. It is looked
            for first, which is many times faster than the test.
        ending: a text that every such name ends with; "" where there is none.
    """

    description: str
    test: Callable[[str], NameTest]
    only: Callable[[str], tuple[str, ...] | None] = lambda _entry: None
    part: Callable[[str], str] = lambda _entry: ""
    ending: Callable[[str], str] = lambda _entry: ""


def hits(rule: str, entry: str, names: Collection[str]) -> frozenset[str]:
    """Those of `names` that `entry` hits under a rule of `RULES`.

    Raises:
        PatternError: the entry is no pattern of this rule, is too long, or takes too long to match.
    """
    if not entry or len(entry) > MAX_ENTRY:
        raise PatternError(
            f"found an entry of {len(entry)} characters; expected 1 to {MAX_ENTRY}; write one name"
            " or pattern an entry"
        )
    possible = _possible(rule, entry, names)
    if "regex" in rule or (rule == "sdnq" and "*" in entry) or entry.startswith("re:"):
        return _hit_by_regex(rule, entry, frozenset(possible))
    test = RULES[rule].test(entry)
    return frozenset(name for name in possible if test(name))


@lru_cache(maxsize=4096)
def _hit_by_regex(rule: str, entry: str, names: frozenset[str]) -> frozenset[str]:
    """`hits` of a regular expression, remembered: a list is matched several times, and a slow
    expression should cost its time once.
    """
    test = RULES[rule].test(entry)
    return frozenset(name for name in names if test(name))


def _possible(rule: str, entry: str, names: Collection[str]) -> Collection[str]:
    """Those of `names` that an entry may hit: most entries need no pass over the whole model."""
    only = RULES[rule].only(entry)
    if only is not None:
        return [name for name in only if name in names]
    if isinstance(names, Names):
        if rule == "path":
            return names.by_run.get(entry.rstrip("."), [])
        if rule == "dotted-substring" and entry.strip(".") == entry:
            return names.with_run_behind(entry.removesuffix(".weight"))
        _, dot, last = RULES[rule].ending(entry).rpartition(".")
        names = names.by_last_part.get(last, []) if dot else names
    part = RULES[rule].part(entry)
    return [name for name in names if part in name] if part else names


def _fqn(entry: str) -> NameTest:
    return entry.__eq__


def _weight_key(entry: str) -> NameTest:
    if entry.startswith("re:"):
        return regex_test("fullmatch", ".weight", "")(entry.removeprefix("re:"))
    return lambda name: entry in (name, f"{name}.weight")


def _weight_key_names(entry: str) -> tuple[str, ...] | None:
    return None if entry.startswith("re:") else (entry, entry.removesuffix(".weight"))


def _glob(entry: str) -> NameTest:
    return _fnmatch(check_pattern(entry))


def _glob_names(entry: str) -> tuple[str, ...] | None:
    return (entry,) if META.isdisjoint(entry) else None


def _fnmatch(entry: str) -> NameTest:
    # `translate` makes atomic groups of stars, so this expression cannot backtrack.
    pattern = re.compile(fnmatch.translate(entry))
    return lambda name: pattern.match(name) is not None


def _sdnq_part(entry: str) -> str:
    """What every name has that an entry hits, where that is plain."""
    is_plain = "*" not in entry and not entry.startswith(".") and entry != "weight"
    return entry.removesuffix(".weight") if is_plain else ""


def _weight_quantizer(entry: str) -> NameTest:
    matches = _fnmatch(f"*{entry}*")
    return lambda name: matches(f"{name}.weight_quantizer")


def _longest_literal(entry: str) -> str:
    """The longest run of characters in a wildcard that stand for themselves."""
    return max(_WILD.split(entry), key=len)


def _last_literal(entry: str) -> str:
    """What follows the last wildcard."""
    return _WILD.split(entry)[-1]


def _regex_part(entry: str) -> str:
    """The longest run of plain characters in a regular expression."""
    found = literals_of(entry)
    return found.longest if found else ""


def _regex_ending(entry: str) -> str:
    """What a regular expression that is closed at its end ends with."""
    found = literals_of(entry) if entry.endswith("$") else None
    return found.last if found else ""


def _full_ending(entry: str) -> str:
    """What a regular expression ends with that is matched as a whole."""
    found = literals_of(entry)
    return found.last if found else ""


def _regex_names(entry: str) -> tuple[str, ...] | None:
    """The one name that a regular expression without special signs matches, if it is closed."""
    return _full_names(entry) if entry.endswith("$") else None


def _full_names(entry: str) -> tuple[str, ...] | None:
    """The same for a regular expression that is matched as a whole."""
    found = literals_of(entry)
    return (found.whole,) if found and found.whole else None


def _of_target(of_regex: Callable[[str], str]) -> Callable[[str], str]:
    """The same for entries that are regular expressions after `re:`."""
    return lambda entry: of_regex(entry[3:]) if entry.startswith("re:") else ""


def _whole(entry: str) -> str:
    return entry


def _substring(entry: str) -> NameTest:
    return lambda name: entry in name


def _dotted_substring(entry: str) -> NameTest:
    return lambda name: f"{entry}." in f"{name}.weight" or entry == f"{name}.weight"


def _star(entry: str) -> NameTest:
    return _fnmatch(entry.replace("[", "[[]").replace("?", "[?]"))


def _star_names(entry: str) -> tuple[str, ...] | None:
    return None if "*" in entry else (entry,)


def _path(entry: str) -> NameTest:
    inner = f".{entry.rstrip('.')}."
    return lambda name: inner in f".{name}."


def hit_as_parts(entries: Collection[str], names: Iterable[str]) -> frozenset[str]:
    """Those of `names` that any of many entries hits under the rule "path".

    It looks each name's runs of parts up among the entries, so that its time does not grow with
    their number.
    """
    wanted = frozenset(entry.rstrip(".") for entry in entries)
    return frozenset(name for name in names if not wanted.isdisjoint(runs(name)))


def others_hit_as_parts(names: Collection[str]) -> dict[str, frozenset[str]]:
    """{name: the others that it hits under the rule "path"}, for the names that hit others."""
    hit: dict[str, set[str]] = {}
    for name in names:
        for run in runs(name):
            if run != name and run in names:
                hit.setdefault(run, set()).add(name)
    return {name: frozenset(others) for name, others in hit.items()}


def _prefix(entry: str) -> NameTest:
    return lambda name: name == entry or name.startswith(f"{entry}.")


def _part(entry: str) -> NameTest:
    return lambda name: entry in name.split(".")


def _last_part(entry: str) -> NameTest:
    return lambda name: name.rpartition(".")[2] == entry


def _bitsandbytes(entry: str) -> NameTest:
    inner = f"{entry}."
    return lambda name: entry in (name, name.rpartition(".")[2]) or inner in name


def _sdnq(entry: str) -> NameTest:
    if entry.startswith("."):
        return lambda name: f"{name}.weight".startswith(entry[1:])
    starred: NameTest | None = None
    if "*" in entry:  # the package's own translation, which leaves other signs as `re` has them
        expression = entry.replace(".*", r"\.*").replace("*", ".*")
        starred = regex_test("match", ".weight")(expression)
    return lambda name: (
        entry == f"{name}.weight"
        or entry == "weight"
        or entry in name.split(".")
        or (starred is not None and starred(name))
    )


def _target(entry: str) -> NameTest:
    if entry.startswith("re:"):
        return regex_test("match")(entry.removeprefix("re:"))
    return lambda name: entry in (name, *LINEAR_CLASSES)


def _target_names(entry: str) -> tuple[str, ...] | None:
    return None if entry.startswith("re:") or entry in LINEAR_CLASSES else (entry,)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "fqn": Rule("the whole name, letter by letter", _fqn, lambda entry: (entry,)),
        "glob": Rule(
            "the whole name; * and ? and [0-3], as everywhere in this tool",
            _glob,
            _glob_names,
            _longest_literal,
            _last_literal,
        ),
        "fnmatch": Rule(
            "the whole name, by Python's fnmatch",
            _fnmatch,
            part=_longest_literal,
            ending=_last_literal,
        ),
        "weight-quantizer": Rule(
            "the name of the weight's quantizer, by Python's fnmatch with * on both sides",
            _weight_quantizer,
        ),
        "star": Rule(
            "the whole name; * is any run of characters, and nothing else is special",
            _star,
            _star_names,
            lambda entry: max(entry.split("*"), key=len),
            lambda entry: entry.rpartition("*")[2],
        ),
        "substring": Rule("anywhere in the name", _substring, part=_whole),
        "path": Rule(
            "whole parts of the name between dots, one or several in a row",
            _path,
            part=lambda entry: entry.rstrip("."),
        ),
        "dotted-substring": Rule(
            'entry + "." anywhere in the name of the weight, or the whole name of the weight',
            _dotted_substring,
        ),
        "prefix": Rule("the name, or the name of a module around it", _prefix, part=_whole),
        "part": Rule("one part of the name between dots", _part, part=_whole),
        "last-part": Rule("the last part of the name", _last_part, part=_whole),
        "bitsandbytes": Rule(
            'the last part of the name, the whole name, or entry + "." anywhere in it',
            _bitsandbytes,
            part=_whole,
        ),
        "sdnq": Rule(
            "one part of the name, or the whole name of the weight; after a dot its beginning; with"
            " * a re.match of it, in which * is any run of characters",
            _sdnq,
            part=_sdnq_part,
        ),
        "regex": Rule(
            "re.match: from the start of the name, open at its end",
            regex_test("match"),
            _regex_names,
            part=_regex_part,
            ending=_regex_ending,
        ),
        "regex-full": Rule(
            "re.fullmatch: the whole name",
            regex_test("fullmatch"),
            _full_names,
            part=_regex_part,
            ending=_full_ending,
        ),
        "regex-search": Rule(
            "re.search: anywhere in the name",
            regex_test("search"),
            part=_regex_part,
            ending=_regex_ending,
        ),
        "weight-regex-search": Rule(
            "re.search: anywhere in the name of the weight", regex_test("search", ".weight")
        ),
        "weight-key": Rule(
            "the whole name of the module or of its weight; after re:, re.fullmatch of either",
            _weight_key,
            _weight_key_names,
        ),
        "target": Rule(
            "the whole name, or the name of a class (Linear); after re:, re.match",
            _target,
            _target_names,
            _of_target(_regex_part),
            _of_target(_regex_ending),
        ),
    }
)
"""{name of the rule: rule}."""
