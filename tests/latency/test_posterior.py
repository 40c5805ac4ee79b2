"""The fits that are shipped are those that the constants state; without one, much is uncertain."""

import dataclasses
import math
import statistics

import pytest

from sensitivity.latency.constants import FITTED, PRIOR_SDS
from sensitivity.latency.devices import DEVICES, get_device
from sensitivity.latency.posterior import load_fit, samples_for


@pytest.mark.parametrize("chip", sorted(FITTED))
def test_the_constants_are_the_fit_s(chip: str) -> None:
    """The constants in the code are what the fit wrote, its samples lie around them, and it says
    what it was fitted to.
    """
    device, fit = get_device(chip), load_fit(chip)
    samples = samples_for(device, device.kernels)
    assert device.calibrated
    assert device.kernels == FITTED[chip]
    assert {name: getattr(FITTED[chip], name) for name in fit.names} == fit.constants
    assert len(samples) == len(fit.samples) >= 32
    assert fit.fitted_to
    for name in fit.names:
        values = [getattr(sample, name) for sample in samples]
        assert min(values) < getattr(FITTED[chip], name) < max(values), name


def test_every_calibrated_device_has_a_fit() -> None:
    """`calibrated` means that a fit is shipped, and nothing else is."""
    assert {name for name, device in DEVICES.items() if device.calibrated} == set(FITTED)


def test_a_chip_without_a_fit_is_as_uncertain_as_before_one() -> None:
    """Its samples have the priors' deviations around its family's constants."""
    device = get_device("rtx5090")
    samples = samples_for(device, device.kernels)
    for name in ("nvfp4_matmul", "pass_ramp_us"):
        logs = [
            math.log(getattr(sample, name) / getattr(device.kernels, name)) for sample in samples
        ]
        assert statistics.stdev(logs) == pytest.approx(PRIOR_SDS[name], rel=0.35)


def test_other_constants_have_no_samples() -> None:
    """Constants that a caller chose are taken as they are; a device's own samples come first."""
    device = get_device("h100")
    other = dataclasses.replace(device.kernels, pass_ramp_us=1.0)
    assert samples_for(device, other) == ()
    own = dataclasses.replace(device, kernels=other, samples=(device.kernels,))
    (found,) = samples_for(own, other)
    known = {name: getattr(device.kernels, name) for name in device.kernels.unfitted_sds}
    assert dataclasses.replace(found, **known) == device.kernels


@pytest.mark.parametrize("chip", ["b200", "h100", "a100"])
def test_what_no_fit_knows_is_as_uncertain_as_its_family_says(chip: str) -> None:
    """Constants of formats that no fit has vary by their family's deviations, fit or no fit; those
    that a fit knows keep their samples.
    """
    device = get_device(chip)
    samples = samples_for(device, device.kernels)
    for name, sd in device.kernels.unfitted_sds.items():
        logs = [
            math.log(getattr(sample, name) / getattr(device.kernels, name)) for sample in samples
        ]
        assert statistics.stdev(logs) == pytest.approx(sd, rel=0.35)
    measured = dataclasses.replace(
        device,
        samples=tuple(dataclasses.replace(device.kernels, int8_matmul=part) for part in (0.8, 0.9)),
    )
    found = samples_for(measured, measured.kernels)
    assert [sample.int8_matmul for sample in found] == [0.8, 0.9]
