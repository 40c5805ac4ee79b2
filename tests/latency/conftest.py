"""Predicted models that several test files ask."""

import pytest

from sensitivity.latency import PredictedLatency, get_device


@pytest.fixture
def in_a_run() -> PredictedLatency:
    """Linears inside a compiled run on a B200."""
    return PredictedLatency(get_device("b200"))


@pytest.fixture
def alone() -> PredictedLatency:
    """Linears that stand alone on a B200."""
    return PredictedLatency(get_device("b200"), isolated=True)
