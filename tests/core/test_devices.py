"""Devices: which are taken, and how much of their memory is free."""

from pathlib import Path

import pytest
import torch

from sensitivity.core import devices
from sensitivity.core.devices import check_device, free_bytes
from sensitivity.errors import UserError


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torch see one CUDA device."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)


@pytest.mark.usefixtures("one_gpu")
def test_devices_that_are_there_are_taken() -> None:
    """The CPU, and a GPU by its kind or its index."""
    for device in ("cpu", "cuda", "cuda:0"):
        check_device(device)
    check_device("cuda:0", gpu_only=True)


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("tpu", "`device` is 'tpu'; expected cpu, cuda or cuda:N"),
        ("cuda:1", "`device` is 'cuda:1', and torch sees 1 CUDA devices here.*`device` to cpu"),
        ("cuda:x", "`device` is 'cuda:x', and torch sees 1 CUDA devices here"),
    ],
)
def test_other_devices_are_refused(device: str, message: str) -> None:
    """The message has the device, how many GPUs torch sees, and the way out."""
    with pytest.raises(UserError, match=message):
        check_device(device)


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize("device", ["cpu", "cuda:1", "tpu"])
def test_times_are_measured_on_a_gpu_that_is_there(device: str) -> None:
    """The CPU is refused like a GPU that is missing."""
    with pytest.raises(UserError, match=rf"`device` is '{device}'.*expected"):
        check_device(device, gpu_only=True)


def test_without_a_gpu_a_prediction_is_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the field to leave out."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"torch sees 0 CUDA devices here.*take a prediction"):
        check_device("cuda", gpu_only=True)


def test_free_memory_is_what_the_machine_and_its_container_leave(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smaller of MemAvailable and of the control group's limit less what it uses, without
    cached files; where neither is known, what the system says of pages.
    """
    monkeypatch.setattr(devices, "MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(devices, "CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal:       64000000 kB\nMemAvailable:   32000000 kB\n")
    assert free_bytes("cpu") == 32_000_000 * 1024
    (tmp_path / "memory.max").write_text("20000000000\n")
    (tmp_path / "memory.current").write_text("15000000000\n")
    (tmp_path / "memory.stat").write_text("anon 5000000000\nfile 9000000000\n")
    assert free_bytes("cpu") == 14_000_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_bytes("cpu") == 32_000_000 * 1024
    (tmp_path / "meminfo").unlink()
    pages = {"SC_AVPHYS_PAGES": 1000, "SC_PAGE_SIZE": 4096}
    monkeypatch.setattr(devices.os, "sysconf", pages.__getitem__)
    assert free_bytes("cpu") == 4_096_000
