"""How well are kernel constants known? Samples of them, from a fit or from before one.

`benchmarks/calibrate_latency.py` fits the constants of a chip and writes `fit_b200.json` and
`fit_h100.json`: what was fitted, the values, samples around them, and to what. A target file holds
its own fit (`targets.target_fit`). A chip without a fit takes its family's constants, and samples
as wide as the priors of a fit. So does a constant that a fit left out, because nothing that was
fitted depends on it (`KernelConstants.unfitted_sds`).

    samples_for(get_device("b200"))[0].pass_ramp_us

What it does not do: turn samples into intervals (`uncertainty`).
"""

import dataclasses
import math
import random
from collections.abc import Sequence
from functools import cache
from importlib import resources

from pydantic import BaseModel, ConfigDict

from sensitivity.latency.constants import FITTED, PRIOR_SDS, KernelConstants
from sensitivity.latency.devices import Device

PRIOR_SAMPLES = 48


class Fit(BaseModel):
    """What a fit wrote.

    Attributes:
        names: The constants that were fitted.
        constants: Their values, as `constants.py` states them.
        samples: Samples of the posterior, each in the order of `names`.
        fitted_to: The measurements, one line each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    names: tuple[str, ...]
    constants: dict[str, float]
    samples: tuple[tuple[float, ...], ...]
    fitted_to: tuple[str, ...]


@cache
def load_fit(chip: str) -> Fit:
    """Read the fit of a chip in `FITTED`."""
    return Fit.model_validate_json(
        resources.files("sensitivity.latency").joinpath(f"fit_{chip}.json").read_bytes()
    )


def samples_for(device: Device, constants: KernelConstants) -> tuple[KernelConstants, ...]:
    """Samples of the constants of a device: its own fit's, a shipped fit's, or those of a prior.

    () for other constants than the device's own, which a caller chose.
    """
    if constants != device.kernels:
        return ()
    if device.samples:
        return _with_unfitted(device.samples)
    if device.calibrated:
        return _with_unfitted(_fitted_samples(constants))
    return _with_unfitted(_prior_samples(constants))


def around(
    constants: KernelConstants, names: Sequence[str], samples: Sequence[Sequence[float]]
) -> tuple[KernelConstants, ...]:
    """The constants with each sample of some of them."""
    return tuple(
        dataclasses.replace(constants, **dict(zip(names, values, strict=True)))
        for values in samples
    )


@cache
def _fitted_samples(constants: KernelConstants) -> tuple[KernelConstants, ...]:
    for chip, fitted in FITTED.items():
        if fitted == constants:
            fit = load_fit(chip)
            return around(constants, fit.names, fit.samples)
    return ()


@cache
def _prior_samples(constants: KernelConstants) -> tuple[KernelConstants, ...]:
    noise = random.Random(0)
    return tuple(
        dataclasses.replace(
            constants,
            **{
                name: getattr(constants, name) * math.exp(noise.gauss(0, sd))
                for name, sd in PRIOR_SDS.items()
            },
        )
        for _ in range(PRIOR_SAMPLES)
    )


@cache
def _with_unfitted(samples: tuple[KernelConstants, ...]) -> tuple[KernelConstants, ...]:
    """The samples with those constants varied that no fit has: they are the same in all of them."""
    noise = random.Random(1)
    unfitted = {
        name: sd
        for sample in samples[:1]
        for name, sd in sample.unfitted_sds.items()
        if len({getattr(other, name) for other in samples}) == 1
    }
    return tuple(
        dataclasses.replace(
            sample,
            **{
                name: getattr(sample, name) * math.exp(noise.gauss(0, sd))
                for name, sd in unfitted.items()
            },
        )
        for sample in samples
    )
