r"""Does a regular expression match a name, in bounded time? `regex_test`.

    hits = regex_test("fullmatch")(r"blocks\.\d+\.to_q")       # a test of one name
    hits("blocks.3.to_q")                                     # True

A list comes from elsewhere, and some regular expressions take exponential time. Those that can run
in the `regex` module, under a time limit for all names together; a pattern that exceeds it is
refused. A pattern that Python's `re` does not compile is refused as well, since consumers use `re`.
"""

import re
import time
import warnings
from collections.abc import Callable

import regex

from sensitivity.consumers.regex_literals import literals_of
from sensitivity.errors import PatternError

NameTest = Callable[[str], bool]
"""Whether an entry hits one name."""

REGEX_SECONDS = 1.0
"""The time limit of one regular expression over all names.

A usual one takes milliseconds over 1,400 names.
"""


def regex_test(method: str, *endings: str) -> Callable[[str], NameTest]:
    """What makes the test of a name from a regular expression.

    Args:
        method: match, fullmatch or search.
        endings: what is put behind the name, one after the other; any that matches counts.

    Raises:
        PatternError: by the maker, for a text that is no expression; by its test, for one that
            takes longer than `REGEX_SECONDS` on all names.
    """

    def make(entry: str) -> NameTest:
        literals = literals_of(entry)
        if literals and literals.repeats <= 1:  # it cannot run for long, and needs no time limit
            quick = getattr(_compiled(entry), method)
            return lambda name: any(quick(name + end) is not None for end in endings or ("",))
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
    """A method (match, fullmatch, search) of the compiled regular expression, with a time limit."""
    _compiled(entry)
    try:
        run: Callable[..., object] = getattr(regex.compile(entry), method)
    except (regex.error, RecursionError, OverflowError) as error:
        raise _no_expression(entry, error) from None
    return run


def _compiled(entry: str) -> re.Pattern[str]:
    """The regular expression as consumers compile it."""
    try:
        with warnings.catch_warnings():
            # Warnings about what a pattern means in a later Python are for the list's author.
            warnings.simplefilter("ignore")
            return re.compile(entry)
    except (re.error, RecursionError, OverflowError) as error:
        raise _no_expression(entry, error) from None


def _no_expression(entry: str, error: Exception) -> PatternError:
    return PatternError(
        f"found the regular expression {entry[:80]!r} ({error}); expected one that Python's re"
        " compiles; correct it"
    )
