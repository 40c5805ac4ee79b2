"""Which names does one entry of a list hit? The matching rules that tools use, by name.

    hits("glob", "blocks.1.*", names)          # frozenset of those names
    hits("regex", "proj_out.*", names)         # re.match: from the start, open at the end

Rules (`RULES` has a sentence for each): fqn, glob, fnmatch, substring, dotted-substring, prefix,
regex, regex-full, regex-search, weight-key, target. Names are those of modules; the rules that look
at parameters take the weight's, name + ".weight".

A list comes from elsewhere, so regular expressions run in the `regex` module under a limit of time:
a pattern that backtracks for ever is refused, not waited for. What Python's `re` would not compile
is refused as well, since consumers use that one.

It knows no consumer and no file format: see the modules beside it.
"""

import fnmatch
import re
import time
import warnings
from collections.abc import Callable, Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

import regex

from sensitivity.core.patterns import META, check_pattern
from sensitivity.errors import PatternError

MAX_ENTRY = 4096
"""Characters of one entry."""

REGEX_SECONDS = 1.0
"""What one regular expression may take over all names.

An honest one takes milliseconds over 1,400 names.
"""


class Rule(NamedTuple):
    """`words` says the rule in a sentence; `test(entry)` gives the test of one name; `only(entry)`
    the names that it can hit at most, where they are known.
    """

    words: str
    test: Callable[[str], Callable[[str], bool]]
    only: Callable[[str], tuple[str, ...] | None] = lambda _entry: None


def hits(rule: str, entry: str, names: Collection[str]) -> frozenset[str]:
    """Those of `names` that `entry` hits under a rule of `RULES`.

    Raises:
        PatternError: the entry is no pattern of this rule, is too long, or takes too long to match.
    """
    if not entry or len(entry) > MAX_ENTRY:
        raise PatternError(
            f"found an entry of {len(entry)} characters; allowed are 1 to {MAX_ENTRY}; write one"
            " name or pattern an entry"
        )
    test, only = RULES[rule].test(entry), RULES[rule].only(entry)
    if only is not None:  # most lists are names: no walk over the model for each
        names = [name for name in only if name in names]
    return frozenset(name for name in names if test(name))


def _fqn(entry: str) -> Callable[[str], bool]:
    return entry.__eq__


def _weight_key(entry: str) -> Callable[[str], bool]:
    if entry.startswith("re:"):
        return _regex("fullmatch", ".weight", "")(entry.removeprefix("re:"))
    return lambda name: entry in (name, f"{name}.weight")


def _weight_key_names(entry: str) -> tuple[str, ...] | None:
    return None if entry.startswith("re:") else (entry, entry.removesuffix(".weight"))


def _glob(entry: str) -> Callable[[str], bool]:
    return _fnmatch(check_pattern(entry))


def _fnmatch(entry: str) -> Callable[[str], bool]:
    pattern = re.compile(fnmatch.translate(entry))  # stars are atomic groups there: no backtracking
    return lambda name: pattern.match(name) is not None


def _substring(entry: str) -> Callable[[str], bool]:
    return lambda name: entry in name


def _dotted_substring(entry: str) -> Callable[[str], bool]:
    return lambda name: f"{entry}." in f"{name}.weight" or entry == f"{name}.weight"


def _star(entry: str) -> Callable[[str], bool]:
    pattern = re.compile(fnmatch.translate(entry.replace("[", "[[]").replace("?", "[?]")))
    return lambda name: pattern.match(name) is not None


def _path(entry: str) -> Callable[[str], bool]:
    inner = f".{entry.rstrip('.')}."
    return lambda name: inner in f".{name}."


def _prefix(entry: str) -> Callable[[str], bool]:
    return lambda name: name == entry or name.startswith(f"{entry}.")


def _regex(method: str, *endings: str) -> Callable[[str], Callable[[str], bool]]:
    """Tests with a method of a compiled pattern: the name with any of the endings."""

    def make(entry: str) -> Callable[[str], bool]:
        try:
            with (
                warnings.catch_warnings()
            ):  # what a pattern may mean in a later Python is its author's matter
                warnings.simplefilter("ignore")
                re.compile(entry)
                run = getattr(regex.compile(entry), method)
        except (re.error, regex.error, RecursionError, OverflowError) as error:
            raise PatternError(
                f"found the regular expression {entry[:80]!r} ({error}); allowed are those of"
                " Python's re; mend it"
            ) from None
        ends = time.monotonic() + REGEX_SECONDS

        def test(name: str) -> bool:
            try:
                return any(
                    run(name + ending, timeout=max(1e-3, ends - time.monotonic())) is not None
                    for ending in endings or ("",)
                )
            except TimeoutError:
                raise PatternError(
                    f"found the regular expression {entry[:80]!r}, which takes more than"
                    f" {REGEX_SECONDS:g} s on the names of one model; allowed are patterns that do"
                    " not backtrack without end; write it without nested repeats such as (a+)+"
                ) from None

        return test

    return make


LINEAR_CLASSES = ("Linear", "Module")
"""Names of the classes that a Linear is of."""


def _target(entry: str) -> Callable[[str], bool]:
    if entry.startswith("re:"):
        return _regex("match")(entry.removeprefix("re:"))
    return lambda name: entry in (name, *LINEAR_CLASSES)


def _target_names(entry: str) -> tuple[str, ...] | None:
    return None if entry.startswith("re:") or entry in LINEAR_CLASSES else (entry,)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "fqn": Rule("the whole name, letter by letter", _fqn, lambda entry: (entry,)),
        "glob": Rule(
            "the whole name; * and ? and [0-3], as everywhere in this tool",
            _glob,
            lambda entry: (entry,) if META.isdisjoint(entry) else None,
        ),
        "fnmatch": Rule("the whole name, by Python's fnmatch", _fnmatch),
        "star": Rule(
            "the whole name; * is any run of characters, and nothing else is special",
            _star,
            lambda entry: None if "*" in entry else (entry,),
        ),
        "substring": Rule("anywhere in the name", _substring),
        "path": Rule("the name, or whole parts of it between dots that stand together", _path),
        "dotted-substring": Rule(
            'entry + "." anywhere in the name of the weight, or the whole of that',
            _dotted_substring,
        ),
        "prefix": Rule("the name, or a module that it lies in", _prefix),
        "regex": Rule("re.match: from the start of the name, open at its end", _regex("match")),
        "regex-full": Rule("re.fullmatch: the whole name", _regex("fullmatch")),
        "regex-search": Rule("re.search: anywhere in the name", _regex("search")),
        "weight-key": Rule(
            "the whole name of the module or of its weight; behind re:, re.fullmatch of either",
            _weight_key,
            _weight_key_names,
        ),
        "target": Rule(
            "the whole name, or the name of a class (Linear); behind re:, re.match",
            _target,
            _target_names,
        ),
    }
)
