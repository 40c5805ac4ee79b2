"""Can torch run on this device, how much of its memory is free, and does it still answer?

    check_device("cuda:1")                # UserError unless torch sees two CUDA devices
    check_device("cpu", gpu_only=True)    # UserError: times are measured on a GPU
    free_bytes("cpu")                     # 12884901888
    poisons_the_device(error)             # True after a failed assertion in a kernel

Method. CUDA says how much of a GPU's memory is free. For the CPU it is what Linux calls available,
within the memory limit of the container (cgroup v2) that the process runs in.

What this module does not do: choose a device, or reserve memory.
"""

import gc
import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sensitivity.errors import UserError

if TYPE_CHECKING:
    import torch

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")

POISONING = (
    "illegal memory access",
    "device-side assert",
    "unspecified launch failure",
    "launch timed out",
    "hardware stack error",
    "illegal instruction",
    "misaligned address",
    "operation not supported on global/shared address space",
    "invalid program counter",
    "uncorrectable ECC error",
    "uncorrectable NVLink error",
    "Invalid access of peer GPU memory",
    "no CUDA-capable device",
    "CUDA driver error",
    "CUDA error: unknown error",
)
"""What CUDA says of errors after which "the process must be terminated and relaunched" (CUDA
Runtime API, `cudaError_t`: 214, 220, 226, 700, 702, 710, 714 to 719), of a GPU that is gone (100),
and of errors that it has no words for.
"""
_OF_CUDA = ("CUDA", "CUBLAS", "CUDNN", "Triton Error")


def check_device(device: str, *, gpu_only: bool = False) -> None:
    """Raise UserError unless torch can run on `device` here: cpu, cuda or cuda:N.

    Args:
        device: the device's name.
        gpu_only: refuse the CPU as well, for what is only measured on a GPU.
    """
    import torch

    kind, _, index = device.partition(":")
    if kind == "cpu" and not gpu_only:
        return
    if kind not in ("cpu", "cuda"):
        raise UserError(f"`device` is {device!r}; expected cpu, cuda or cuda:N: correct it")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if kind == "cuda" and (index or "0").isdigit() and int(index or 0) < count:
        return
    found = f"`device` is {device!r}, and torch sees {count} CUDA devices here"
    if gpu_only:
        raise UserError(
            f"{found}; expected cuda or cuda:N, since times are measured on a GPU: run it where"
            " there is one (`nvidia-smi` lists them), or take a prediction, which needs none"
        )
    raise UserError(f"{found}; expected one of them: check `nvidia-smi`, or set `device` to cpu")


def release_memory(device: "torch.device") -> None:
    """Forget all compiled graphs, and give unused GPU memory back."""
    import torch

    torch._dynamo.reset()
    free_memory(device)


def free_memory(device: "torch.device") -> None:
    """Give unused GPU memory back.

    It may be called after a failure: a CUDA context that is broken stays as it is.
    """
    import torch

    gc.collect()
    if device.type == "cuda":
        # CUDA reports failures late: the one that surfaces here is the caller's, who knows of it
        with suppress(RuntimeError):
            torch.cuda.synchronize(device)
            torch.cuda.empty_cache()


def poisons_the_device(error: BaseException) -> bool:
    """Whether no later call of this process can use its GPU, after this error.

    CUDA keeps such an error: each later call of the process fails with it. Errors that say so by
    their words are known (`POISONING`), also where others were raised from them. After another
    error of CUDA's the GPUs that this process uses are asked; being out of memory is no such error.
    """
    seen: list[BaseException] = []
    found: BaseException | None = error
    while found is not None and found not in seen:
        if any(words in str(found) for words in POISONING):
            return True
        seen.append(found)
        found = found.__cause__ or found.__context__
    if any(type(own).__name__ == "OutOfMemoryError" for own in seen):
        return False
    return any(words in str(own) for own in seen for words in _OF_CUDA) and not _answer()


def _answer() -> bool:
    """Whether a number can be written to each GPU that this process uses, and read back."""
    import torch

    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return True
    used = [i for i in range(torch.cuda.device_count()) if torch.cuda.memory_reserved(i)]
    try:
        return all(torch.ones(1, device=f"cuda:{i}").item() == 1 for i in used)
    except RuntimeError as error:
        return type(error).__name__ == "OutOfMemoryError"


def free_bytes(device: str) -> int | None:
    """Memory of `device` that can still be allocated, in bytes; None where it is not known."""
    import torch

    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    limits = (_available(), _within_container())
    return min((limit for limit in limits if limit is not None), default=None)


def _available() -> int | None:
    """MemAvailable of Linux: bytes that are free, or can be reclaimed. Elsewhere, free pages."""
    try:
        lines = MEMINFO.read_text(encoding="ascii").splitlines()
        fields = dict(line.split(":", 1) for line in lines if ":" in line)
        return int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, ValueError, LookupError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):  # the system has no such setting
        return None


def _within_container() -> int | None:
    """Bytes that the control group's limit leaves, where there is a limit.

    Cached pages of files do not count as used: the kernel reclaims them.
    """
    try:
        limit = int((CGROUP / "memory.max").read_text())  # ValueError for "max": no limit
        used = int((CGROUP / "memory.current").read_text())
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return max(0, limit - used + int(stat.get("file", 0)))
    except (OSError, ValueError):
        return None
