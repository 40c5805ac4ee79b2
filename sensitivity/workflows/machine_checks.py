"""Is this machine ready, and what mends what is not? `check_machine`.

    for check in check_machine("cuda"):
        check.name, check.state, check.found, check.fix

It looks at the driver beside torch, at free memory and disk, at folders that must be writable, at
the weights of LPIPS and at the Hub's token. A `fault` keeps work from being done; a `note` is worth
knowing. Nothing is downloaded, and no network is asked. `formats.doctor` looks at the formats.
"""

import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

import torch

from sensitivity.core.devices import free_bytes
from sensitivity.core.disk_room import free_disk_bytes
from sensitivity.core.environment import driver_version
from sensitivity.fidelity.lpips import TRUNK_FILES, TRUNK_MODELS
from sensitivity.fidelity.references import default_cache_folder
from sensitivity.models.hub import has_token, hub_cache, is_offline
from sensitivity.models.safe_versions import unsafe_versions, upgrade_command

LEAST_DISK_BYTES, ROOMY_DISK_BYTES = 10**9, 60 * 10**9
"""Below the first nothing can be kept. Below the second a large model cannot be downloaded:
FLUX.1-dev is 34 GB, and snapshots are kept until they are deleted."""
ROOMY_MEMORY_BYTES = 8 * 10**9
"""Below this not even a model of 1 billion parameters has room beside its pictures."""


class State(StrEnum):
    """How a check ended."""

    OK = "ok"
    NOTE = "note"
    FAULT = "fault"


@dataclass(frozen=True, kw_only=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is.
        state: How it ended.
        found: What was found.
        fix: What to do about it; "" where nothing is to be done.
    """

    name: str
    state: State
    found: str
    fix: str = ""

    def to_json(self) -> dict[str, str]:
        """As an object of JSON."""
        return {key: str(value) for key, value in asdict(self).items()}


def check_machine(device: str) -> tuple[Check, ...]:
    """Look at this machine, where torch would run on `device` ("cpu", "cuda", "cuda:1")."""
    return (_driver(), _memory(device), *_folders(), _versions(), *_lpips(), _token())


def _driver() -> Check:
    """Whether torch sees the GPU that the driver knows."""
    driver, seen = driver_version(), torch.cuda.is_available()
    built = torch.version.cuda
    if seen:
        count = torch.cuda.device_count()
        names = ", ".join(
            f"{torch.cuda.get_device_name(i)}"
            f" ({'.'.join(map(str, torch.cuda.get_device_capability(i)))})"
            for i in range(count)
        )
        return Check(name="GPU", state=State.OK, found=f"{names}; driver {driver}, CUDA {built}")
    if driver == "unknown":
        return Check(
            name="GPU",
            state=State.NOTE,
            found="none: pictures are drawn on the CPU, formats are emulated, latency is predicted",
        )
    what = f"is built for CUDA {built}" if built else "is built without CUDA"
    return Check(
        name="GPU",
        state=State.FAULT,
        found=f"the driver {driver} is there, and torch {torch.__version__}, which {what}, sees no"
        " GPU",
        fix="install the torch that fits the driver (https://pytorch.org/get-started), or update"
        " the driver; a container must be given the GPUs",
    )


def _memory(device: str) -> Check:
    free = free_bytes(device)
    if free is None:
        return Check(name="memory", state=State.OK, found=f"{device} does not say how much is free")
    is_roomy = free >= ROOMY_MEMORY_BYTES
    return Check(
        name="memory",
        state=State.OK if is_roomy else State.NOTE,
        found=f"{_gigabytes(free)} free on {device}",
        fix=""
        if is_roomy
        else "close other programs, or search with `dry_run` first, which says what a model needs",
    )


def _folders() -> Iterator[Check]:
    """Room and rights where models, references and results are kept."""
    places = {
        "models": (hub_cache(), "set HF_HOME to a folder on a larger disk"),
        "references": (default_cache_folder(), "set XDG_CACHE_HOME to another folder"),
        "results": (Path.cwd(), "go to another folder, or name `storage` and `out`"),
    }
    for name, (path, move) in places.items():
        folder = path
        while not folder.exists() and folder != folder.parent:
            folder = folder.parent
        where = f"disk, {name}"
        if (why := _unwritable(folder)) is not None:
            yield Check(
                name=where, state=State.FAULT, found=f"{path} cannot be written ({why})", fix=move
            )
            continue
        free = free_disk_bytes(folder) or 0
        enough = ROOMY_DISK_BYTES if name == "models" else LEAST_DISK_BYTES
        state = State.OK if free >= enough else State.NOTE
        state = State.FAULT if free < LEAST_DISK_BYTES else state
        fix = "" if state is State.OK else f"free some, or {move}"
        yield Check(name=where, state=state, found=f"{_gigabytes(free)} free at {path}", fix=fix)


def _gigabytes(count: int) -> str:
    """Whole GB, since what is free changes all the time."""
    return f"{count / 1e9:.0f} GB"


def _unwritable(folder: Path) -> str | None:
    """Why no file can be made in a folder; None if one can."""
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        return error.strerror or type(error).__name__
    return None


def _versions() -> Check:
    """Whether the libraries that load models read their files as data."""
    unsafe = unsafe_versions()
    if unsafe:
        return Check(
            name="model files",
            state=State.FAULT,
            found="; ".join(unsafe),
            fix=f"upgrade: `{upgrade_command(unsafe)}`; until then no model is loaded",
        )
    return Check(name="model files", state=State.OK, found="are read as data, and never as code")


def _lpips() -> Iterator[Check]:
    """The weights of the nets that are downloaded; `tiny` comes with the package."""
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    for net, file in TRUNK_FILES.items():
        if (folder / file).is_file():
            yield Check(name=f"LPIPS {net}", state=State.OK, found=f"{file} is in {folder}")
            continue
        model = TRUNK_MODELS[net]
        yield Check(
            name=f"LPIPS {net}",
            state=State.NOTE,
            found=f"{file} is not in {folder}; it is downloaded at the first use",
            fix=f'without a network: run `python -c "import torchvision;'
            f" torchvision.models.{model}(weights='DEFAULT')\"` elsewhere and copy the file there,"
            " or search with the net tiny",
        )


def _token() -> Check:
    """Whether gated models can be had."""
    offline = "; HF_HUB_OFFLINE is set, so nothing is downloaded" if is_offline() else ""
    if has_token():
        return Check(name="Hub token", state=State.OK, found=f"there is one{offline}")
    return Check(
        name="Hub token",
        state=State.NOTE,
        found=f"none{offline}",
        fix="for gated models (FLUX.1-dev, FLUX.2-dev, Stable Diffusion 3.5) accept the licence on"
        " the Hub and run `hf auth login`",
    )
