"""The stamp that says where a number was made."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sensitivity.core import environment
from sensitivity.core.environment import describe_environment, driver_version


def test_the_stamp_is_text_and_names_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every value is text and survives JSON; a package that is missing is "not installed"."""
    monkeypatch.setattr(environment, "PACKAGES", ("torch", "no-such-package"))
    stamp = describe_environment("cpu")
    assert json.loads(json.dumps(stamp)) == stamp
    assert stamp["device_type"] == "cpu"
    assert stamp["torch"][0].isdigit()
    assert stamp["no-such-package"] == "not installed"


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Writes a fake nvidia-smi, alone on the path."""
    driver_version.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(environment, "DRIVER_TIMEOUT_S", 0.5)

    def write(script: str) -> None:
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    yield write
    driver_version.cache_clear()


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo 580.95.05; echo 580.95.05", "580.95.05"),
        ("echo NVIDIA-SMI has failed", "unknown"),
        ("exit 9", "unknown"),
        ("exec /bin/sleep 20", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_drivers_version_is_a_version_or_unknown(
    smi: Callable[[str], None], script: str | None, version: str
) -> None:
    """Whatever nvidia-smi does, the stamp holds a version number or "unknown", soon."""
    if script is not None:
        smi(script)
    assert driver_version() == version
