"""Options that name judges, bound them, or replace LPIPS, and how a bound is read.

--judge my_metrics:darkest --max-judge flip=0.05 --min-judge ssim=0.9
judge_bounds(["flip=0.05"], "max_judge")        # {"flip": 0.05}
"""

from collections.abc import Sequence
from typing import Annotated

import typer

from sensitivity.errors import UserError

JudgeNames = Annotated[
    list[str] | None,
    typer.Option(
        "--judge",
        help=(
            "A judge that must look at the held-out pictures: psnr, ssim, flip, cvvdp, text, or"
            " module:function of your own; may be given several times. Default: those that are"
            " installed; 'none' leaves these out."
        ),
    ),
]
MaxJudge = Annotated[
    list[str] | None,
    typer.Option(
        help=(
            "Pass over skip-lists of which a judge's mean over the held-out prompts is larger, as"
            " flip=0.05; may be given several times."
        )
    ),
]
MinJudge = Annotated[
    list[str] | None,
    typer.Option(
        help="The same for judges where higher is better, as ssim=0.9, if the mean is smaller."
    ),
]
Objective = Annotated[
    str | None,
    typer.Option(
        help=(
            "Minimise this module:function instead of LPIPS: a distance of pictures from bf16's,"
            " one number a prompt."
        )
    ),
]
StatedObjective = Annotated[
    str | None,
    typer.Option("--objective", help="The module:function that was minimised instead of LPIPS."),
]


def judge_bounds(texts: Sequence[str] | None, field: str) -> dict[str, float]:
    """{judge: bound} of texts "judge=bound"; `field` is where they were given.

    Raises:
        UserError: a text is no such thing, or a judge is bounded twice.
    """
    found: dict[str, float] = {}
    for text in texts or ():
        name, separator, bound = text.rpartition("=")
        try:
            value = float(bound)
        except ValueError:
            separator = ""
        if not separator or not name:
            raise UserError(
                f"`{field}` is {text!r}; expected JUDGE=NUMBER, such as flip=0.05: correct it"
            )
        if name in found:
            raise UserError(f"`{field}` bounds {name} twice; expected one bound: leave one out")
        found[name] = value
    return found
