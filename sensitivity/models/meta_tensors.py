"""What is a meta tensor, and which tensors have values in a run without weights?

A meta tensor has a shape, strides and a dtype, and neither values nor memory.

    x = to_meta(torch.zeros(2, 3))
    is_meta(x), x.shape                                 # True, (2, 3)
    tensors_in([{"a": x}, (x, 1)])                      # [x, x]
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

META = torch.device("meta")
CPU = torch.device("cpu")
REAL_ELEMENTS = 2**20
"""Results with more elements than this have no values in a run without weights."""
TRANSIENT_ELEMENTS = 2**24
"""What would take more elements than this on the way to a result is not computed at all."""
_SEQUENCES = (list, tuple)


def is_meta(x: object) -> bool:
    """Whether x is a tensor without values."""
    return isinstance(x, Tensor) and x.device.type == "meta"


def to_meta(x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """A meta tensor with x's shape and strides."""
    return torch.empty_strided(x.shape, x.stride(), dtype=dtype or x.dtype, device=META)


def tensors_in(values: Iterable[Any]) -> list[Tensor]:
    """The tensors among the values and in their lists, tuples and dicts."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, _SEQUENCES):
            found += tensors_in(value)
        elif isinstance(value, dict):
            found += tensors_in(value.values())
    return found
