"""`check_machine` says what is wrong with a machine, and what mends it."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from sensitivity.workflows import machine_checks
from sensitivity.workflows.machine_checks import Check, State, check_machine


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The current folder and the cache are the test's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def look() -> dict[str, Check]:
    return {check.name: check for check in check_machine("cpu")}


def room(gigabytes: int) -> SimpleNamespace:
    """What `os.statvfs` says of a disk with so much room."""
    return SimpleNamespace(f_bavail=gigabytes * 10**6, f_frsize=1000)


@pytest.mark.usefixtures("elsewhere")
def test_every_state_but_ok_has_a_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    """A laptop without GPU, token or weights is no fault; what is missing is named with a fix."""
    monkeypatch.setattr(machine_checks, "driver_version", lambda: "unknown")
    monkeypatch.setattr(machine_checks, "has_token", lambda: False)
    monkeypatch.setattr(os, "statvfs", lambda _folder: room(100))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: "/nowhere")
    checks = look()
    assert {check.state for check in checks.values()} <= {State.OK, State.NOTE}
    assert "emulated" in checks["GPU"].found
    assert "hf auth login" in checks["Hub token"].fix
    assert "torchvision.models.alexnet" in checks["LPIPS alex"].fix
    assert all(check.fix for check in checks.values() if check.state is State.FAULT)


@pytest.mark.usefixtures("elsewhere")
def test_what_keeps_work_from_being_done_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU that torch does not see, and a full disk."""
    monkeypatch.setattr(machine_checks, "driver_version", lambda: "570.1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(os, "statvfs", lambda _folder: room(0))
    checks = look()
    faults = {name for name, check in checks.items() if check.state is State.FAULT}
    assert faults == {"GPU", "disk, models", "disk, references", "disk, results"}
    assert "sees no GPU" in checks["GPU"].found
    assert "update the driver" in checks["GPU"].fix
    assert "HF_HOME" in checks["disk, models"].fix
    assert checks["GPU"].to_json()["state"] == "fault"
