"""The LPIPS of another seed is measured once a study, and kept."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sensitivity.errors import MeasurementError, OutputError
from sensitivity.fidelity.typical import typical
from sensitivity.search.anchor import another_seed
from sensitivity.search.store import Store

VALUES = (0.2, 0.4, 0.8)


def fake(values: tuple[float, ...] = VALUES, error: Exception | None = None) -> Any:
    """An evaluator that draws nothing, and counts how often it is asked."""

    class Fake:
        distance = SimpleNamespace(name="tiny")
        asked = 0

        def evaluation_key(self, split: str) -> str:
            return f"key of {split}"

        def recover(self) -> None: ...

        @property
        def other_seeds(self) -> tuple[float, ...]:
            Fake.asked += 1
            if error is not None:
                raise error
            return values

    return Fake()


def test_it_is_drawn_once_and_said(tmp_path: Path) -> None:
    """The first time it is said and kept; then it is read, also where nothing may be drawn."""
    said: list[str] = []
    with Store.open(tmp_path / "s.db") as store:
        evaluator = fake()
        assert another_seed(evaluator, store, compute=False) is None
        first = another_seed(evaluator, store, compute=True, say=said.append)
        assert first == typical(VALUES, None)
        assert len(said) == evaluator.asked == 1
        for compute in (True, False):
            assert another_seed(evaluator, store, compute=compute, say=said.append) == first
        assert len(said) == evaluator.asked == 1


def test_pictures_that_ignore_the_seed_are_no_anchor(tmp_path: Path) -> None:
    """A distance of 0 would make every picture a flip."""
    with Store.open(tmp_path / "s.db") as store:
        assert another_seed(fake((0.0, 0.0)), store, compute=True) is None


def test_a_failure_is_logged_and_decides_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The search ends without the anchor; a full disk is another matter."""
    with Store.open(tmp_path / "s.db") as store:
        broken = fake(error=MeasurementError("NaN"))
        assert another_seed(broken, store, compute=True) is None
        assert "the LPIPS of another seed is not known: " in caplog.text
        with pytest.raises(OutputError):
            another_seed(fake(error=OutputError("full")), store, compute=True)
