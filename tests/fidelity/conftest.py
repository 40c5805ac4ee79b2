"""The distance that several test files ask."""

import pytest

from sensitivity.fidelity.lpips import LpipsDistance

from support.paths import TRUNK


@pytest.fixture(scope="session")
def tiny() -> LpipsDistance:
    """Net tiny with the trunk that ships."""
    return LpipsDistance("tiny", weights=TRUNK, device="cpu")
