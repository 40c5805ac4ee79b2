"""How are step policies asked for? `--edge-steps bf16 --first-steps 0-4 --last-steps 0,1`.

counts_of("0-4", "first_steps")      # (0, 1, 2, 3, 4)
counts_of("0,2", "first_steps")      # (0, 2)
counts_of("2", "first_steps")        # (2,): this many, and no other number
"""

import re
from enum import StrEnum
from typing import Annotated

import typer

from sensitivity.core.step_policy import EdgeMode
from sensitivity.errors import UserError

MOST_STEPS = 10_000
"""More than any run has."""


class EdgeStepsChoice(StrEnum):
    """What `--edge-steps` takes."""

    OFF = "off"
    BF16 = EdgeMode.BF16.value
    A16 = EdgeMode.A16.value


EdgeStepsOption = Annotated[
    EdgeStepsChoice,
    typer.Option(
        "--edge-steps",
        help=(
            "Search how many first and last denoising steps run at higher precision, together with"
            " the skip-list. What is quantized computes there in bf16 (its bf16 weights are kept"
            " beside), or with its quantized weight and bf16 activations (a16, no second copy)."
        ),
    ),
]
FirstSteps = Annotated[
    str | None,
    typer.Option(
        "--first-steps",
        metavar="COUNTS",
        help=(
            "With --edge-steps: how many first steps may run so, such as 2, 0,2 or 0-4. Default: 0,"
            " 1, and eighths of the steps up to a half."
        ),
    ),
]
LastSteps = Annotated[
    str | None,
    typer.Option(
        "--last-steps",
        metavar="COUNTS",
        help="The same for the last steps. Default: 0, 1, and eighths up to a quarter.",
    ),
]


def edge_mode(choice: EdgeStepsChoice) -> EdgeMode | None:
    """The mode of a choice; None for off."""
    return None if choice is EdgeStepsChoice.OFF else EdgeMode(choice.value)


def counts_of(text: str | None, field: str) -> tuple[int, ...] | None:
    """Counts of steps as they are typed: numbers and ranges, with commas between; None for None.

    Args:
        text: what was typed.
        field: what it is called in messages.

    Raises:
        UserError: it is no such list.
    """
    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        ends = re.fullmatch(r"\s*(\d{1,5})\s*(?:-\s*(\d{1,5})\s*)?", part, flags=re.ASCII)
        first, last = (0, -1) if ends is None else (int(ends[1]), int(ends[2] or ends[1]))
        if not first <= last <= MOST_STEPS:
            raise UserError(
                f"`{field}` is {text[:40]!r}; expected counts of steps, such as 2, 0,2 or 0-4:"
                " correct it"
            )
        found += range(first, last + 1)
    return tuple(dict.fromkeys(found))
