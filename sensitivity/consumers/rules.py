"""Which names does one entry of a list hit? The matching rules that tools use, by name.

    hits("glob", "blocks.1.*", names)          # frozenset of those names
    hits("regex", "proj_out.*", names)         # re.match: from the start, open at the end

Rules (`RULES` has a sentence for each): fqn, glob, fnmatch, substring, dotted-substring, prefix, regex, regex-full, regex-search.
A list comes from elsewhere, so regular expressions run in the `regex` module (whose default dialect is that of `re`) under a limit of time:
a pattern that backtracks for ever is refused, not waited for.

It knows no consumer and no file format: see the modules beside it.
"""

import fnmatch
import time
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import NamedTuple

import regex

from sensitivity.errors import PatternError
from sensitivity.patterns import check_pattern, match

MAX_ENTRY = 4096
"""Characters of one entry."""

REGEX_SECONDS = 1.0
"""What one regular expression may take over all names. An honest one takes milliseconds over 1,400 names."""


class Rule(NamedTuple):
    """`words` says the rule in a sentence; `test(entry)` gives the test of one name."""

    words: str
    test: Callable[[str], Callable[[str], bool]]


def hits(rule: str, entry: str, names: Iterable[str]) -> frozenset[str]:
    """Those of `names` that `entry` hits under a rule of `RULES`.

    Raises:
        PatternError: the entry is no pattern of this rule, is too long, or takes too long to match.
    """
    if not entry or len(entry) > MAX_ENTRY:
        raise PatternError(f"found an entry of {len(entry)} characters; allowed are 1 to {MAX_ENTRY}; write one name or pattern an entry")
    test = RULES[rule].test(entry)
    return frozenset(name for name in names if test(name))


def _fqn(entry: str) -> Callable[[str], bool]:
    return entry.__eq__


def _glob(entry: str) -> Callable[[str], bool]:
    check_pattern(entry)
    return lambda name: bool(match(entry, (name,)))


def _fnmatch(entry: str) -> Callable[[str], bool]:
    pattern = regex.compile(fnmatch.translate(entry))  # stars are atomic groups there: no backtracking
    return lambda name: pattern.match(name) is not None


def _substring(entry: str) -> Callable[[str], bool]:
    return lambda name: entry in name


def _dotted_substring(entry: str) -> Callable[[str], bool]:
    return lambda name: f"{entry}." in f"{name}.weight"


def _prefix(entry: str) -> Callable[[str], bool]:
    return lambda name: name == entry or name.startswith(f"{entry}.")


def _regex(method: str) -> Callable[[str], Callable[[str], bool]]:
    def make(entry: str) -> Callable[[str], bool]:
        try:
            run = getattr(regex.compile(entry), method)
        except (regex.error, RecursionError, OverflowError) as error:
            raise PatternError(
                f"found the regular expression {entry[:80]!r} ({error}); allowed are those of Python's re; mend it"
            ) from None
        ends = time.monotonic() + REGEX_SECONDS

        def test(name: str) -> bool:
            try:
                return run(name, timeout=max(1e-3, ends - time.monotonic())) is not None
            except TimeoutError:
                raise PatternError(
                    f"found the regular expression {entry[:80]!r}, which takes more than {REGEX_SECONDS:g} s on the names of one model; allowed are "
                    "patterns that do not backtrack without end; write it without nested repeats such as (a+)+"
                ) from None

        return test

    return make


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "fqn": Rule("the whole name, letter by letter", _fqn),
        "glob": Rule("the whole name; * and ? and [0-3], as everywhere in this tool", _glob),
        "fnmatch": Rule("the whole name, by Python's fnmatch", _fnmatch),
        "substring": Rule("anywhere in the name", _substring),
        "dotted-substring": Rule('entry + "." anywhere in the name of the weight', _dotted_substring),
        "prefix": Rule("the name, or a module that it lies in", _prefix),
        "regex": Rule("re.match: from the start of the name, open at its end", _regex("match")),
        "regex-full": Rule("re.fullmatch: the whole name", _regex("fullmatch")),
        "regex-search": Rule("re.search: anywhere in the name", _regex("search")),
    }
)
