"""Which devices does torch see, is the one that was asked for among them, and how much memory is
free?
"""

import gc
import os
from contextlib import suppress
from pathlib import Path

import torch

from sensitivity.errors import UserError


def release_memory(device: torch.device) -> None:
    """Forget compiled graphs and give unused GPU memory back."""
    torch._dynamo.reset()
    free_memory(device)


def free_memory(device: torch.device) -> None:
    """Give unused GPU memory back.

    Works after a failure too; a broken CUDA context stays as it is.
    """
    gc.collect()
    if device.type == "cuda":
        with suppress(
            RuntimeError
        ):  # the failure that is recovered from was asynchronous: the caller has it already
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()


def check_gpu(device: str) -> None:
    """Raise UserError unless `device` is a CUDA device that torch sees: nothing else is measured."""
    kind, _, index = device.partition(":")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind != "cuda" or not (index or "0").isdigit() or int(index or 0) >= count:
        raise UserError(
            f"--measure was asked for on {device!r}, and torch sees {count} CUDA devices here;"
            " allowed is cuda or cuda:N of one that is there: run it on the GPU, or leave"
            " --measure out for a prediction"
        )


MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def free_bytes(device: str) -> int | None:
    """Memory that may still be used there: what CUDA says, or the machine's available memory within
    its container's limit; None where nobody says.
    """
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(
        (found for found in (_available(), _within_container()) if found is not None), default=None
    )


def _available() -> int | None:
    """What Linux calls available (free, or given back when asked for); free pages where that is not
    said.
    """
    try:
        lines = dict(
            line.split(":", 1)
            for line in MEMINFO.read_text(encoding="ascii").splitlines()
            if ":" in line
        )
        return int(lines["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, LookupError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # not every system says
        return None


def _within_container() -> int | None:
    """What a control group's limit leaves, pages of files not counted as used; None where there is
    none.
    """
    try:
        limit = int((CGROUP / "memory.max").read_text())  # "max" is no number
        used = int((CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(stat.get("file", 0)))
    except (OSError, ValueError):
        return None


def check_device(device: str) -> None:
    """Raise UserError unless torch can run on `device` here."""
    kind = device.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UserError(f"--device is {device!r}; allowed are cpu, cuda and cuda:N")
    if kind == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        index = device.partition(":")[2] or "0"
        if not index.isdigit() or int(index) >= count:
            raise UserError(
                f"--device is {device!r}, and torch sees {count} CUDA devices here; use --device"
                " cpu, or check `nvidia-smi`"
            )
