"""What may a search choose if consumers are to express it? Groups and formats that keep to their
limits.

    reasons = with_limits(reasons, fixed, limits)        # why a format is out, for each Linear
    groups = bind(groups, limits)                        # what a consumer runs as one is one group

A search "for" consumers proposes only what each of them can express, so that what is found can be
served as it is. `consumers.named_consumers` has what they ask. Here it becomes part of what a
search chooses from:

- A Linear that a consumer always runs in bf16 has no other format. Nor has a Linear that is run as
  one with it, or that an entry for it hits as well.
- Groups become one where a consumer runs a Linear of one and a Linear of the other as one.
"""

from collections.abc import Iterable, Mapping, Sequence

from sensitivity.consumers.limits import Limits
from sensitivity.core.fqns import role_of
from sensitivity.shapes.table import LinearProfile

Reasons = dict[str, list[str | None]]
"""{FQN: for each searched format why the Linear does not take it, or None}"""


def with_limits(reasons: Reasons, fixed: Mapping[str, str], limits: Iterable[Limits]) -> Reasons:
    """The reasons, and those of the consumers, for every Linear; the first reason counts.

    Args:
        reasons: of Linears that are called.
        fixed: {FQN: why it stays bf16 in every choice}.
        limits: what the consumers ask.
    """
    limits = tuple(limits)
    if not limits:
        return reasons
    count = max(map(len, reasons.values()), default=0)
    found = {fqn: list(why) for fqn, why in reasons.items()}
    found |= {fqn: [reason] * count for fqn, reason in fixed.items()}
    for own in limits:
        for fqn, why in own.kept.items():
            reason = f"{own.consumer} always runs it in bf16{f' ({why})' if why else ''}"
            for option in range(count):
                _add(found, fqn, reason, option)
    places = [(own, option) for own in limits for option in range(count)]
    while sum(_spread(found, own, option) for own, option in places):
        pass
    return found


def _spread(reasons: Reasons, limits: Limits, option: int) -> bool:
    """What one Linear does not take, Linears do not that the consumer ties to it.

    Says whether there is a new reason.
    """
    new = False
    for family in limits.fused:
        first = next((fqn for fqn in family if reasons[fqn][option]), None)
        if first is not None:
            reason = f"{limits.consumer} runs it as one with {role_of(first)}, which stays bf16"
            for fqn in family:
                new |= _add(reasons, fqn, reason, option)
    for fqn, others in limits.kept_with.items():
        if reasons[fqn][option]:
            for other in others:
                reason = f"an entry for {fqn} in a list for {limits.consumer} hits it as well"
                new |= _add(reasons, other, reason, option)
    return new


def _add(reasons: Reasons, fqn: str, reason: str, option: int) -> bool:
    """Set the reason if there is none yet; says whether that was so."""
    if reasons[fqn][option] is not None:
        return False
    reasons[fqn][option] = reason
    return True


def bind(
    groups: Mapping[str, Sequence[LinearProfile]], limits: Iterable[Limits]
) -> tuple[dict[str, list[LinearProfile]], frozenset[str]]:
    """The groups, and the names of those that were made of several, because a consumer gives their
    Linears one format.
    """
    group_of = {linear.fqn: name for name, own in groups.items() for linear in own}
    leader = {name: name for name in groups}

    def lead(name: str) -> str:
        while leader[name] != name:
            name = leader[name]
        return name

    order = {name: place for place, name in enumerate(groups)}
    for own in limits:
        for fqns in (*own.fused, *((fqn, *others) for fqn, others in own.kept_with.items())):
            names = {lead(group_of[fqn]) for fqn in fqns if fqn in group_of}
            first = min(names, key=order.__getitem__, default="")
            leader |= dict.fromkeys(names, first)
    parts: dict[str, list[str]] = {}
    for name in groups:
        parts.setdefault(lead(name), []).append(name)
    bound = {_joined(own): [x for name in own for x in groups[name]] for own in parts.values()}
    return bound, frozenset(_joined(own) for own in parts.values() if len(own) > 1)


def _joined(names: Sequence[str]) -> str:
    """The name of groups that became one."""
    if len(names) <= 2:
        return " and ".join(names)
    return f"{names[0]} and {len(names) - 1} more"
