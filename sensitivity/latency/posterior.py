"""How well are the fitted kernel constants known? Samples from their posterior.

`benchmarks/calibrate_latency.py` fits the constants of Blackwell and writes `fit_b200.json`: the
names of the fitted constants, their values, and samples around them. `posterior_samples` gives
these samples as `KernelConstants`. Constants that were not fitted have none.

    posterior_samples(BLACKWELL)[0].gap_us
"""

import dataclasses
from functools import cache
from importlib import resources

from pydantic import BaseModel, ConfigDict

from sensitivity.latency.constants import BLACKWELL, KernelConstants


class Fit(BaseModel):
    """What the fit wrote.

    Attributes:
        names: The constants that were fitted.
        constants: Their values, as `constants.py` states them.
        samples: Samples of the posterior, each in the order of `names`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    constants: dict[str, float]
    samples: tuple[tuple[float, ...], ...]


@cache
def load_fit() -> Fit:
    """Read `fit_b200.json`."""
    return Fit.model_validate_json(
        resources.files("sensitivity.latency").joinpath("fit_b200.json").read_bytes()
    )


def posterior_samples(constants: KernelConstants) -> tuple[KernelConstants, ...]:
    """Samples around `constants`; () if these are not the fitted ones."""
    return _blackwell_samples() if constants == BLACKWELL else ()


@cache
def _blackwell_samples() -> tuple[KernelConstants, ...]:
    fit = load_fit()
    return tuple(
        dataclasses.replace(BLACKWELL, **dict(zip(fit.names, values, strict=True)))
        for values in fit.samples
    )
