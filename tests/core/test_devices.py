"""Devices: which are taken, and how much of their memory is free."""

from pathlib import Path

import pytest
import torch

from sensitivity.core import devices
from sensitivity.core.devices import check_device, free_bytes, poisons_the_device
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


@pytest.mark.parametrize(
    "words",
    [
        "CUDA error: an illegal memory access was encountered\nCUDA kernel errors might be ...",
        "CUDA error: device-side assert triggered",
        "CUDA error: unspecified launch failure",
        "CUDA error: uncorrectable ECC error encountered",
        "CUDA driver error: 700",
        "Triton Error [CUDA]: misaligned address",
        "cuDNN error: the launch timed out and was terminated",
    ],
)
def test_an_error_that_cuda_keeps_poisons_the_device(words: str) -> None:
    """Also where another error was raised from it."""
    error = RuntimeError(words)
    assert poisons_the_device(error)
    outer = ValueError("a block failed")
    outer.__cause__ = error
    assert poisons_the_device(outer)


class OutOfMemoryError(RuntimeError):
    """Is called as torch's own."""


@pytest.mark.parametrize(
    "error",
    [
        OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (3x4 and 5x6)"),
        ValueError("CUDA"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_other_errors_leave_the_device_as_it_is(error: Exception) -> None:
    """Being out of memory may pass, and a wrong shape is no fault of the GPU's."""
    assert not poisons_the_device(error)


@pytest.mark.usefixtures("one_gpu")
@pytest.mark.parametrize("answers", [True, False])
def test_after_an_error_of_cudas_the_gpu_is_asked(
    monkeypatch: pytest.MonkeyPatch, answers: bool
) -> None:
    """An error of a library may or may not have broken the context: a number tells."""

    def ones(*_shape: int, device: str) -> torch.Tensor:
        assert device == "cuda:0"
        if not answers:
            raise RuntimeError("CUDA error")
        return torch.tensor([1.0])

    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _index: 1)
    monkeypatch.setattr(torch, "ones", ones)
    assert poisons_the_device(RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED")) is not answers
