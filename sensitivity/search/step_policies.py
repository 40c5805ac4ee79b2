"""Which step policies may a search choose from? `EdgeSteps`: what is asked for; `policies_of`.

A policy is how many first and last steps of a run are edge steps, and what runs there
(`core.step_policy`). A search weighs a few counts of each against one another.

    policies_of(EdgeSteps(mode=EdgeMode.BF16), steps=8)
    # plain; last 1; last 2; first 1; first 1 and last 1; ... first 4 and last 2
    policies_of(EdgeSteps(mode=EdgeMode.A16, first_steps=(2,), last_steps=(1,)), steps=8)
    # this one alone

Where nobody says which counts, these are weighed: 0, 1, and eighths of the steps up to a half at
the beginning, where an error still changes what the picture becomes, and up to a quarter at the
end. All pairs are, as long as a quarter of the steps runs quantized. In NVFP4 on tiny-flux, 8
steps, the best lists at half of the savings had 3 and 1 edge steps, at a fifth 4 and 2 (LOG.md).

Counts that are given are taken as they are. One count of each is one policy, which then holds for
every skip-list.

What it does not do: free sets of steps, or policies that differ by Linear. No consumer has these.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from sensitivity.consumers.named_consumers import policy_refusals
from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import PLAIN, EdgeMode, StepPolicy
from sensitivity.errors import FormatError, UserError
from sensitivity.latency.step_mix import steps_of
from sensitivity.shapes.table import ShapeTable

FIRST, LAST = (1 / 8, 1 / 4, 3 / 8, 1 / 2), (1 / 8, 1 / 4)
"""Parts of the steps that are weighed as first and as last steps where nobody says how many, beside
no step and one.
"""
LEAST_SHARE = 0.25
"""Share of the steps that run quantized, at least, under a policy that nobody named."""
MOST_POLICIES = 64
"""A proposal weighs all of them."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EdgeSteps:
    """What is asked of step policies.

    Attributes:
        mode: what a quantized Linear computes in at edge steps.
        first_steps: how many first steps may be edge steps; None is chosen by the length of a run.
        last_steps: the same for the last steps.

    Raises:
        UserError: a count is negative, or there are too many pairs.
    """

    mode: EdgeMode
    first_steps: tuple[int, ...] | None = None
    last_steps: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Check the counts."""
        for name in ("first_steps", "last_steps"):
            counts = getattr(self, name)
            if counts is not None and (not counts or min(counts) < 0):
                raise UserError(
                    f"`{name}` is {list(counts)}; expected counts of denoising steps, each 0 or"
                    " more: name those that are to be weighed, such as 0, 1 and 2"
                )
        pairs = len(self.first_steps or (0,)) * len(self.last_steps or (0,))
        if pairs > MOST_POLICIES:
            raise UserError(
                f"`first_steps` and `last_steps` make {pairs} step policies; expected at most"
                f" {MOST_POLICIES}: name fewer counts"
            )


def asked_steps(
    edge_steps: EdgeMode | None,
    first_steps: tuple[int, ...] | None,
    last_steps: tuple[int, ...] | None,
) -> EdgeSteps | None:
    """What these fields of a request ask for; None is the plain policy alone.

    Raises UserError as `EdgeSteps`, and where counts are given without a mode.
    """
    if edge_steps is not None:
        return EdgeSteps(mode=edge_steps, first_steps=first_steps, last_steps=last_steps)
    for name, counts in (("first_steps", first_steps), ("last_steps", last_steps)):
        if counts is not None:
            raise UserError(
                f"`{name}` is {_words(counts)} without `edge_steps`; expected bf16 or a16 there:"
                " say what these steps run in, or leave the counts out"
            )
    return None


def policies_of(asked: EdgeSteps | None, *, steps: int) -> tuple[StepPolicy, ...]:
    """The policies that may be chosen, the plain one first where it is among them.

    Args:
        asked: what is asked for; None is the plain one alone.
        steps: denoising steps of a run.

    Raises:
        UserError: no policy leaves a quantized step.
    """
    if asked is None:
        return (PLAIN,)
    own = asked.first_steps is not None, asked.last_steps is not None
    first = dict.fromkeys(asked.first_steps if asked.first_steps else _counts(FIRST, steps))
    last = dict.fromkeys(asked.last_steps if asked.last_steps else _counts(LAST, steps))
    least = 1 / steps if all(own) else LEAST_SHARE
    found = [
        StepPolicy(first_steps=a, last_steps=b, mode=asked.mode) if a or b else PLAIN
        for a, b in itertools.product(first, last)
        if (steps - a - b) / steps >= least
    ]
    if not found:
        raise UserError(
            f"`first_steps` {_words(first)} and `last_steps` {_words(last)} leave no quantized step"
            f" in a run of {steps}; expected at least one: name smaller counts"
        )
    return tuple(sorted(found, key=lambda policy: not policy.is_plain))


def policies_for(
    asked: EdgeSteps | None,
    table: ShapeTable,
    consumers: Sequence[str],
    formats: Sequence[FormatName],
    classes: Mapping[str, str],
) -> tuple[tuple[StepPolicy, ...], int | None]:
    """The policies that may be chosen for a model, and the denoising steps of a run, as
    `grouping.make_candidates` takes them.

    Args:
        asked: what is asked for; None is the plain policy alone.
        table: of a run.
        consumers: tools that must be able to run every choice; policies that one of them does not
            run are left out.
        formats: that are searched.
        classes: {component: class} of the denoisers.

    Raises:
        UserError: as `policies_of`; the steps are not known, or several denoisers share them:
            seconds of a policy would then depend on which of them an edge step calls.
        FormatError: the consumers run no policy of these.
    """
    if asked is None:
        return (PLAIN,), None
    if table.components:
        raise UserError(
            f"`edge_steps` was given, and the steps of {table.model} are shared by"
            f" {' and '.join(table.components)}; expected a model with one denoiser: leave"
            " `edge_steps` out"
        )
    steps = steps_of(table)
    found = policies_of(asked, steps=steps)
    why = {own: policy_refusals(consumers, own, formats, classes=classes) for own in found}
    left = tuple(own for own in found if not why[own])
    reasons = [reason for refused in why.values() for reason in refused]
    if reasons and all(own.is_plain for own in left):
        raise FormatError(reasons[0])
    return left, steps


def _counts(parts: Sequence[float], steps: int) -> list[int]:
    """Counts of steps that are weighed where nobody says which, ascending."""
    return sorted({0, 1, *(int(part * steps) for part in parts)})


def _words(counts: Sequence[int] | dict[int, None]) -> str:
    return " or ".join(map(str, counts))
