"""As what did torchrun start this process, and what does its child see? `Rank`,
`child_environment`.

torchrun starts a process for each GPU of a host and tells it its number by environment variables.
The child that does the work is no rank: it sees one GPU, and nothing of torchrun.

    rank = Rank.of(os.environ)                        # None outside torchrun
    child_environment(os.environ, rank)["CUDA_VISIBLE_DEVICES"]          # "GPU-8f3c...": its entry

A list of GPUs that is there already (a scheduler's, of UUIDs or MIG instances) is respected: the
rank's child gets the rank's entry of it.
"""

import ctypes
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sensitivity.errors import UserError

VISIBLE = "CUDA_VISIBLE_DEVICES"
THREADS = "OMP_NUM_THREADS"
OF_TORCHRUN = (
    *("LOCAL_RANK", "RANK", "GROUP_RANK", "ROLE_RANK", "ROLE_NAME", "MASTER_ADDR", "MASTER_PORT"),
    *("LOCAL_WORLD_SIZE", "WORLD_SIZE", "GROUP_WORLD_SIZE", "ROLE_WORLD_SIZE"),
    "TORCH_NCCL_ASYNC_ERROR_HANDLING",
)
"""What torchrun sets beside variables that begin with TORCHELASTIC_."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rank:
    """A process of a launch by torchrun.

    Attributes:
        local: its number on this host, from 0.
        local_of: how many there are on this host.
        number: its number among all hosts of the launch.
        launch: names the launch.
    """

    local: int = 0
    local_of: int = 1
    number: int = 0
    launch: str = ""

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "Rank | None":
        """What torchrun says; None where it did not start this process."""
        launch = environment.get("TORCHELASTIC_RUN_ID")
        try:
            local, number = int(environment["LOCAL_RANK"]), int(environment["RANK"])
            of = int(environment.get("LOCAL_WORLD_SIZE") or environment["WORLD_SIZE"])
        except (KeyError, ValueError):
            return None
        if launch is None:
            return None
        return cls(local=local, local_of=of, number=number, launch=launch)


def child_environment(
    environment: Mapping[str, str],
    rank: Rank,
    *,
    needs_gpu: bool = True,
    gpus: int | None = None,
    threads_are_torchruns: bool | None = None,
) -> dict[str, str]:
    """The environment of a rank's child.

    Args:
        environment: the rank's own.
        rank: which it is.
        needs_gpu: whether a rank beyond the last GPU is refused: not where the CPU was asked for.
        gpus: GPUs of this host; None asks the driver.
        threads_are_torchruns: whether torchrun, not the user, set `OMP_NUM_THREADS`; None finds
            out. It sets 1, which slows the host's part on a GPU; there each child gets its share of
            the cores. On the CPU it stays, since the number of threads is a condition of a study.

    Raises:
        UserError: there is no GPU for this rank.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if name not in OF_TORCHRUN and not name.startswith("TORCHELASTIC_")
    }
    gpus = count_gpus() if gpus is None else gpus
    kept[VISIBLE] = _visible(environment.get(VISIBLE), rank, gpus, needs_gpu=needs_gpu)
    torchruns = threads_were_set() if threads_are_torchruns is None else threads_are_torchruns
    if torchruns and needs_gpu and kept[VISIBLE] and gpus:
        kept[THREADS] = str(max(1, _cores() // rank.local_of))
    return kept


def count_gpus() -> int:
    """The GPUs that NVIDIA's driver shows here; 0 where there is no driver. torch is not loaded."""
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
        count = ctypes.c_uint()
        if library.nvmlInit_v2() != 0:
            return 0
        try:
            failed = library.nvmlDeviceGetCount_v2(ctypes.byref(count))
        finally:
            library.nvmlShutdown()
        return 0 if failed else count.value
    except (OSError, AttributeError):
        return 0


def threads_were_set() -> bool:
    """Whether the process that started this one had no `OMP_NUM_THREADS` when it began, and this
    one has: torchrun sets it to 1 then.
    """
    before = b""
    with suppress(OSError):
        before = Path(f"/proc/{os.getppid()}/environ").read_bytes()
    names = {entry.partition(b"=")[0] for entry in before.split(b"\0")}
    return bool(before) and THREADS.encode() not in names and os.environ.get(THREADS) == "1"


def _visible(listed: str | None, rank: Rank, gpus: int, *, needs_gpu: bool) -> str:
    """What the child's `CUDA_VISIBLE_DEVICES` is: one entry, or "" where there are no GPUs."""
    entries = None if listed is None else [entry.strip() for entry in listed.split(",")]
    if entries is not None and (entries[0] in ("", "-1", "NoDevFiles")):
        return ""
    there = gpus if entries is None else len(entries)
    if rank.local < there:
        return str(rank.local) if entries is None else entries[rank.local]
    if not there or not needs_gpu:
        return ""
    where = "the driver shows" if entries is None else f"{VISIBLE} lists"
    raise UserError(
        f"rank {rank.local} of this host has no GPU: {where} {there}; expected a rank for each GPU:"
        " start torchrun with --nproc-per-node gpu"
    )


def _cores() -> int:
    """The cores that this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
