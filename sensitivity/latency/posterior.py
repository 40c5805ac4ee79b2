"""How well are the fitted constants known?

Draws from their posterior, as `benchmarks/calibrate_latency.py` wrote them.

`fit_b200.json` holds the fitted names, the constants, and draws around them; `draws_for` gives the
draws as constants. Constants that were changed by the user have none.
"""

import dataclasses
import json
from functools import cache
from importlib import resources

from sensitivity.latency.constants import BLACKWELL, KernelConstants


def draws_for(constants: KernelConstants) -> tuple[KernelConstants, ...]:
    """The draws around `constants`; () where these are not the fitted ones."""
    return _blackwell_draws() if constants == BLACKWELL else ()


@cache
def _blackwell_draws() -> tuple[KernelConstants, ...]:
    fit = json.loads(
        resources.files("sensitivity.latency").joinpath("fit_b200.json").read_text(encoding="utf-8")
    )
    return tuple(
        dataclasses.replace(BLACKWELL, **dict(zip(fit["names"], draw, strict=True)))
        for draw in fit["draws"]
    )
