"""Why does each Linear stay bf16? Patterns of the bf16 Linears, each with its reason.

    patterns = patterns_with_reasons(formats, fixed={"norm": "always skipped: norms"}, worth=worth)
    patterns[0].pattern, patterns[0].reason         # "*.ff.net.2", "18 % of the damage for 0.3 ms"

There are two kinds of reasons. A Linear may not be quantized at all: its K is no multiple of what
the format needs, the study always skips it, a consumer always runs it in bf16. Or a search left it
in bf16, because quantizing it does more damage than the time is worth. Then the reason says which
part of the damage of quantizing everything it is, and how much time it would save (`Worth`).

Method. Linears with one reason are covered together (`core.pattern_cover`), so no pattern mixes
reasons. Reasons that differ in block numbers only are one reason.
"""

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from sensitivity.core.format_name import FormatName, skipped
from sensitivity.core.pattern_cover import compress
from sensitivity.core.patterns import Pattern, match

_BLOCK = re.compile(r"\.\d+(?=\.)")


class Worth(NamedTuple):
    """What quantizing a Linear does.

    Attributes:
        share: its part of the damage that quantizing everything does; None is not known.
        saved_s: seconds of a run that it saves; negative where it is slower.
    """

    share: float | None
    saved_s: float


def patterns_with_reasons(
    formats: Mapping[str, FormatName],
    *,
    fixed: Mapping[str, str] | None = None,
    worth: Mapping[str, Worth] | None = None,
) -> tuple[Pattern, ...]:
    """Globs that together match exactly the bf16 Linears, in the order of their first matches.

    A Linear that neither mapping has gets a reason that says what the pattern covers.

    Args:
        formats: {FQN: format} of every Linear.
        fixed: {FQN: why it cannot be quantized}.
        worth: {FQN: what quantizing it would do} of Linears that could be.
    """
    fixed, worth = fixed or {}, worth or {}
    alike: dict[str, list[str]] = {}  # {reason without block numbers: its Linears}
    chosen, others = list[str](), list[str]()
    for fqn in skipped(formats):
        if fqn in fixed:
            alike.setdefault(_BLOCK.sub("", fixed[fqn]), []).append(fqn)
        else:
            (chosen if fqn in worth else others).append(fqn)
    found = [*compress(others, formats)] if others else []
    for reason, fqns in alike.items():
        found += _covering(fqns, formats, reason)
    for entry in compress(chosen, formats) if chosen else ():
        own = [worth[fqn] for fqn in match(entry.pattern, chosen)]
        found.append(Pattern(pattern=entry.pattern, reason=_in_words(own)))
    places = {fqn: place for place, fqn in enumerate(formats)}
    return tuple(sorted(found, key=lambda e: min(places[x] for x in match(e.pattern, formats))))


def _covering(fqns: list[str], formats: Mapping[str, FormatName], reason: str) -> list[Pattern]:
    return [Pattern(pattern=e.pattern, reason=reason) for e in compress(fqns, formats)]


def _in_words(own: Iterable[Worth]) -> str:
    """ "18 % of the damage for 0.3 ms": what is avoided, and what that costs."""
    own = list(own)
    saved_ms = 1e3 * sum(one.saved_s for one in own)
    time = f"for {saved_ms:.2g} ms" if saved_ms > 0 else f"and {-saved_ms:.2g} ms slower quantized"
    if any(one.share is None for one in own):
        return (
            f"kept by the search {time}" if saved_ms > 0 else f"{-saved_ms:.2g} ms slower quantized"
        )
    share = sum(one.share or 0.0 for one in own)
    part = "under 1 %" if share < 0.01 else f"{share:.0%}".replace("%", " %")
    return f"{part} of the damage {time}"
