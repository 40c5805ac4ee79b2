"""Which names does one entry of a list hit? The matching rules that the tools use, by name.

    hits("glob", "blocks.1.*", names)          # frozenset of those names
    hits("regex", "proj_out.*", names)         # re.match: from the start, open at the end

`RULES` has every rule, each described in one sentence. Names are those of modules. Rules that look
at parameters use the name of the weight, which is the module's name and ".weight".

Safety. A list comes from elsewhere, and some regular expressions take exponential time. They run in
the `regex` module under a time limit, and a pattern that exceeds it is refused. A pattern that
Python's `re` does not compile is refused as well, since consumers use `re`.

It knows no consumer and no file format.
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
"""The most characters of one entry."""

REGEX_SECONDS = 1.0
"""The time limit of one regular expression over all names.

A usual one takes milliseconds over 1,400 names.
"""

LINEAR_CLASSES = ("Linear", "Module")
"""Names of the classes that a Linear is an instance of."""

NameTest = Callable[[str], bool]
"""Whether an entry hits one name."""


class Rule(NamedTuple):
    """One matching rule.

    Attributes:
        description: what an entry is compared with, in one sentence.
        test: makes the test of a name from an entry.
        only: the names that an entry can hit at all; None where any name is possible.
    """

    description: str
    test: Callable[[str], NameTest]
    only: Callable[[str], tuple[str, ...] | None] = lambda _entry: None


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
    test, only = RULES[rule].test(entry), RULES[rule].only(entry)
    if only is not None:  # most entries are names: they need no pass over the model
        names = [name for name in only if name in names]
    return frozenset(name for name in names if test(name))


def _fqn(entry: str) -> NameTest:
    return entry.__eq__


def _weight_key(entry: str) -> NameTest:
    if entry.startswith("re:"):
        return _regex("fullmatch", ".weight", "")(entry.removeprefix("re:"))
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


def _prefix(entry: str) -> NameTest:
    return lambda name: name == entry or name.startswith(f"{entry}.")


def _regex(method: str, *endings: str) -> Callable[[str], NameTest]:
    """A rule that calls a method of the compiled pattern on the name, with any of `endings`."""

    def make(entry: str) -> NameTest:
        run = _compiled_method(entry, method)
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
                    f" {REGEX_SECONDS:g} s on the names of one model; expected a pattern that does"
                    " not backtrack without end; write it without nested repeats such as (a+)+"
                ) from None

        return test

    return make


def _compiled_method(entry: str, method: str) -> Callable[..., object]:
    """A method (match, fullmatch, search) of the compiled regular expression."""
    try:
        with warnings.catch_warnings():
            # Warnings about what a pattern means in a later Python are for the list's author.
            warnings.simplefilter("ignore")
            re.compile(entry)
            run: Callable[..., object] = getattr(regex.compile(entry), method)
            return run
    except (re.error, regex.error, RecursionError, OverflowError) as error:
        raise PatternError(
            f"found the regular expression {entry[:80]!r} ({error}); expected one that Python's re"
            " compiles; correct it"
        ) from None


def _target(entry: str) -> NameTest:
    if entry.startswith("re:"):
        return _regex("match")(entry.removeprefix("re:"))
    return lambda name: entry in (name, *LINEAR_CLASSES)


def _target_names(entry: str) -> tuple[str, ...] | None:
    return None if entry.startswith("re:") or entry in LINEAR_CLASSES else (entry,)


RULES: Mapping[str, Rule] = MappingProxyType(
    {
        "fqn": Rule("the whole name, letter by letter", _fqn, lambda entry: (entry,)),
        "glob": Rule(
            "the whole name; * and ? and [0-3], as everywhere in this tool", _glob, _glob_names
        ),
        "fnmatch": Rule("the whole name, by Python's fnmatch", _fnmatch),
        "star": Rule(
            "the whole name; * is any run of characters, and nothing else is special",
            _star,
            _star_names,
        ),
        "substring": Rule("anywhere in the name", _substring),
        "path": Rule("whole parts of the name between dots, one or several in a row", _path),
        "dotted-substring": Rule(
            'entry + "." anywhere in the name of the weight, or the whole name of the weight',
            _dotted_substring,
        ),
        "prefix": Rule("the name, or the name of a module around it", _prefix),
        "regex": Rule("re.match: from the start of the name, open at its end", _regex("match")),
        "regex-full": Rule("re.fullmatch: the whole name", _regex("fullmatch")),
        "regex-search": Rule("re.search: anywhere in the name", _regex("search")),
        "weight-key": Rule(
            "the whole name of the module or of its weight; after re:, re.fullmatch of either",
            _weight_key,
            _weight_key_names,
        ),
        "target": Rule(
            "the whole name, or the name of a class (Linear); after re:, re.match",
            _target,
            _target_names,
        ),
    }
)
"""{name of the rule: rule}."""
