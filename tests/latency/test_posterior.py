"""The fit that is shipped is the one that the constants state."""

import dataclasses

from sensitivity.latency.constants import BLACKWELL, HOPPER
from sensitivity.latency.posterior import load_fit, posterior_samples


def test_the_constants_are_the_fit_s() -> None:
    """The constants in the code are what the fit wrote, and its samples lie around them; other
    constants have no samples.
    """
    fit, samples = load_fit(), posterior_samples(BLACKWELL)
    assert {name: getattr(BLACKWELL, name) for name in fit.names} == fit.constants
    assert len(samples) == len(fit.samples) >= 32
    gaps_us = [sample.gap_us for sample in samples]
    assert min(gaps_us) < BLACKWELL.gap_us < max(gaps_us)
    assert posterior_samples(HOPPER) == ()
    assert posterior_samples(dataclasses.replace(BLACKWELL, gap_us=1.0)) == ()
