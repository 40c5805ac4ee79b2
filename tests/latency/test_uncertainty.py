"""Intervals hold what is not known, and no more than that."""

import dataclasses

import pytest

from sensitivity.latency import PredictedLatency
from sensitivity.latency.devices import Device, get_device
from sensitivity.latency.uncertainty import DRAWS, interval90, shape_draws

from support.latency import BF16, FP8, NVFP4, flux, flux_published_list

SHAPE = {"m": 4096, "k": 3072, "n": 3072}


def certain(device: Device, **deviations: float) -> Device:
    """The device with constants that are known, and only these deviations."""
    none = dict.fromkeys(("linear_sd", "rest_sd", "shape_sd", "saving_sd"), 0.0)
    kernels = dataclasses.replace(device.kernels, **none | deviations)
    return dataclasses.replace(device, kernels=kernels, samples=(kernels,))


def test_quantiles() -> None:
    """Of 0 to 100, 5 % lie below 5 and 5 % above 95, in any order."""
    assert interval90(reversed(range(101))) == (5, 95)


def test_what_is_certain_has_no_width() -> None:
    """Without a deviation, the interval is the prediction."""
    model = PredictedLatency(certain(get_device("h100")))
    us, gain_us = model.row_intervals90(**SHAPE, format=FP8)
    bf16_us, fp8_us = (model.linear_us(**SHAPE, format=fmt) for fmt in (BF16, FP8))
    assert us == pytest.approx((fp8_us, fp8_us))
    assert gain_us == pytest.approx((bf16_us - fp8_us, bf16_us - fp8_us))
    table = flux(1)
    estimate = model.estimate(table, flux_published_list(table, FP8))
    assert estimate.interval90 == pytest.approx((estimate.speedup, estimate.speedup))


def test_a_shape_s_errors() -> None:
    """They are standard normal, the same for a shape each time, others for another, and bf16 and
    quantized go together in part.
    """
    draws = shape_draws(512, 3072, 3072)
    assert draws == shape_draws(512, 3072, 3072) != shape_draws(512, 3072, 3073)
    pairs = [pair for k in range(64, 96) for pair in shape_draws(1, k, k)]
    count = 32 * DRAWS
    for of in (0, 1):
        assert sum(pair[of] for pair in pairs) / count == pytest.approx(0, abs=0.05)
        assert sum(pair[of] ** 2 for pair in pairs) / count == pytest.approx(1, abs=0.05)
    assert sum(a * b for a, b in pairs) / count == pytest.approx(0.4, abs=0.05)


def test_a_shape_s_error_widens_its_gain_more_than_its_time() -> None:
    """5 % of a time are much more of a gain, since a gain is a small difference of two times."""
    model = PredictedLatency(certain(get_device("h100"), shape_sd=0.05))
    us, gain_us = model.row_intervals90(**SHAPE, format=FP8)
    fp8_us = model.linear_us(**SHAPE, format=FP8)
    gain = model.linear_us(**SHAPE, format=BF16) - fp8_us
    assert (us[1] - us[0]) / fp8_us == pytest.approx(2 * 1.64 * 0.05, rel=0.25)
    assert (gain_us[1] - gain_us[0]) / gain > 2 * (us[1] - us[0]) / fp8_us
    assert model.row_intervals90(**SHAPE, format=BF16)[1] == (0.0, 0.0)


def test_errors_of_many_shapes_average_out() -> None:
    """A run of many shapes is known better, relative to its saving, than one of its shapes."""
    model = PredictedLatency(certain(get_device("h100"), shape_sd=0.05))
    table = flux(1)
    estimate = model.estimate(table, flux_published_list(table, FP8))
    assert estimate.interval90 is not None
    low, high = estimate.interval90
    _, (least, most) = model.row_intervals90(**SHAPE, format=FP8)
    gain = model.linear_us(**SHAPE, format=BF16) - model.linear_us(**SHAPE, format=FP8)
    assert (high - low) / (estimate.speedup - 1) < 0.7 * (most - least) / gain
    assert low < estimate.speedup < high


def test_a_chip_without_a_fit_has_a_wide_interval() -> None:
    """The B200's interval is narrower than the same prediction for a chip that nobody measured."""
    table = flux(1)
    formats = flux_published_list(table, NVFP4)
    widths = {}
    for name in ("b200", "gb200", "rtx5090"):
        estimate = PredictedLatency(get_device(name)).estimate(table, formats)
        assert estimate.interval90 is not None
        low, high = estimate.interval90
        assert low < estimate.speedup < high
        widths[name] = (high - low) / (estimate.speedup - 1)
    assert widths["gb200"] > 1.3 * widths["b200"]
    assert widths["rtx5090"] > 1.3 * widths["b200"]
