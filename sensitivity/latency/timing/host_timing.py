"""How fast is the host of this machine? `host_rows`, kept with the rows of shapes.

Method. Two things are timed that every run is full of: launching an eager kernel, and calling a
compiled region (`machine_limits.launch_costs`). What they take, next to the host that the costs of
runtimes are stated for, multiplies these costs (`runtimes.host_factor`).

    rows = host_rows(torch.device("cuda"), known)
    factor_of(rows)                     # 0.6: launching takes 0.6 of the time that it does there

What it does not do: time a denoiser. Its regions are larger than the one that is timed.
"""

from collections.abc import Mapping
from typing import Any

import torch

from sensitivity.latency.runtimes import REFERENCE_US, host_factor
from sensitivity.latency.shape_times import ShapeTime
from sensitivity.latency.timing.machine_limits import launch_costs

_PREFIX = "host "
_KEYS = tuple(_PREFIX + name for name in REFERENCE_US)


def is_host_row(key: str) -> bool:
    """Whether a row is one of the host, and not of a shape."""
    return key.startswith(_PREFIX)


def host_rows(
    device: torch.device, known: Mapping[str, Mapping[str, Any]], *, backend: Any = "inductor"
) -> dict[str, ShapeTime]:
    """The host's rows, from `known` where it has all, else timed now; {} where timing fails.

    Args:
        device: Where kernels are launched.
        known: {key: row} as they were kept.
        backend: torch.compile's.

    Raises:
        StoreError: A kept row is malformed.
    """
    if all(key in known for key in _KEYS):
        return {key: ShapeTime.from_json(known[key]) for key in _KEYS}
    costs = launch_costs(device, (), quantize=lambda *_: None, backend=backend)
    found = {_PREFIX + name: us for name, us in costs.items() if isinstance(us, float)}
    if not all(key in found for key in _KEYS):
        return {}
    return {key: ShapeTime(key=key, us=(found[key],)) for key in _KEYS}


def factor_of(rows: Mapping[str, ShapeTime]) -> float | None:
    """How many times longer launching takes than the costs of runtimes say; None if unknown."""
    return host_factor(
        {key.removeprefix(_PREFIX): row.us[0] for key, row in rows.items() if row.us}
    )
