"""What a rank of torchrun is, and the one GPU that its child sees."""

import os

import pytest

from sensitivity.errors import UserError
from sensitivity.workflows import launch
from sensitivity.workflows.launch import Rank, child_environment, count_gpus

TORCHRUN = {
    "LOCAL_RANK": "1",
    "RANK": "9",
    "WORLD_SIZE": "16",
    "LOCAL_WORLD_SIZE": "8",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "node-0",
    "MASTER_PORT": "29500",
    "TORCHELASTIC_RUN_ID": "7f0e",
    "TORCHELASTIC_RESTART_COUNT": "0",
    "OMP_NUM_THREADS": "1",
}


def seen(rank: Rank, gpus: int, **options: object) -> str:
    """The GPU that a rank's child sees."""
    listed = options.pop("listed", None)
    environment = {} if listed is None else {"CUDA_VISIBLE_DEVICES": str(listed)}
    return child_environment(
        environment,
        rank,
        gpus=gpus,
        threads_are_torchruns=False,
        **options,  # type: ignore[arg-type]
    )["CUDA_VISIBLE_DEVICES"]


def test_a_rank_is_read_from_torchruns_environment() -> None:
    """Its number here and overall; a search that torchrun did not start is no rank."""
    assert Rank.of(TORCHRUN) == Rank(local=1, local_of=8, number=9, launch="7f0e")
    for missing in ("LOCAL_RANK", "RANK", "TORCHELASTIC_RUN_ID"):
        assert Rank.of({k: v for k, v in TORCHRUN.items() if k != missing}) is None
    assert Rank.of({"SLURM_LOCALID": "1", "RANK": "1"}) is None


def test_a_child_has_nothing_of_torchrun() -> None:
    """What a library takes for a distributed run is gone, the rest of the environment stays."""
    own = child_environment({**TORCHRUN, "HF_HOME": "/data"}, Rank(local=1, local_of=8), gpus=8)
    assert own["HF_HOME"] == "/data"
    assert own["CUDA_VISIBLE_DEVICES"] == "1"
    assert not [name for name in own if name in TORCHRUN and name != "OMP_NUM_THREADS"]


@pytest.mark.parametrize(
    ("listed", "local", "expected"),
    [
        (None, 3, "3"),
        ("4,5,6,7", 2, "6"),
        ("GPU-8f3c, GPU-11aa", 1, "GPU-11aa"),
        ("MIG-2b7c,MIG-91d0", 0, "MIG-2b7c"),
        ("", 1, ""),
        ("-1", 0, ""),
    ],
)
def test_each_rank_gets_its_entry(listed: str | None, local: int, expected: str) -> None:
    """The entry of a list that a scheduler made, by index, UUID or MIG instance; else its number;
    nothing where all GPUs are hidden.
    """
    assert seen(Rank(local=local, local_of=8), 8, listed=listed) == expected


def test_a_rank_beyond_the_last_gpu_is_refused() -> None:
    """It would work on the CPU, which is another study; where the CPU was asked for, it does."""
    with pytest.raises(UserError, match=r"rank 2 of this host has no GPU: CUDA_VIS\S+ lists 2;"):
        seen(Rank(local=2, local_of=3), 8, listed="0,1")
    with pytest.raises(UserError, match="the driver shows 2; expected a rank for each GPU"):
        seen(Rank(local=2, local_of=3), 2)
    assert seen(Rank(local=2, local_of=3), 2, needs_gpu=False) == ""
    assert seen(Rank(local=2, local_of=3), 0) == ""


def test_torchruns_one_thread_is_replaced_on_a_gpu_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each child gets its share of the cores; on the CPU, and where the user chose, it stays."""
    monkeypatch.setattr(launch, "_cores", lambda: 64)

    def threads(gpus: int, *, torchruns: bool) -> str:
        own = child_environment(
            TORCHRUN, Rank(local=1, local_of=8), gpus=gpus, threads_are_torchruns=torchruns
        )
        return own["OMP_NUM_THREADS"]

    assert threads(8, torchruns=True) == "8"
    assert threads(8, torchruns=False) == "1"
    assert threads(0, torchruns=True) == "1"


def test_the_threads_are_the_users_where_they_were_there_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The environment that the process which started this one began with tells."""
    began_with = {}
    with open(f"/proc/{os.getppid()}/environ", "rb") as file:
        began_with = {entry.partition(b"=")[0] for entry in file.read().split(b"\0")}
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert launch.threads_were_set() is (b"OMP_NUM_THREADS" not in began_with)
    monkeypatch.setenv("OMP_NUM_THREADS", "4")
    assert not launch.threads_were_set()


def test_gpus_are_counted_without_torch() -> None:
    """The driver's number is torch's, where no variable hides any."""
    import torch

    if os.environ.get("CUDA_VISIBLE_DEVICES") is None and torch.cuda.is_available():
        assert count_gpus() == torch.cuda.device_count()
    else:
        assert count_gpus() >= 0
