"""Predicted models that several test files ask."""

import gc
from collections.abc import Iterator

import pytest

from sensitivity.latency import PredictedLatency, get_device


@pytest.fixture(scope="module")
def small_heap() -> Iterator[None]:
    """Memory is released after each measurement; what there was before is not searched then."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def in_a_run() -> PredictedLatency:
    """Linears inside a compiled run on a B200."""
    return PredictedLatency(get_device("b200"))


@pytest.fixture
def alone() -> PredictedLatency:
    """Linears that stand alone on a B200."""
    return PredictedLatency(get_device("b200"), isolated=True)
