"""How is a bound on GPU memory typed? `--max-memory 24GB`, and `memory_bytes`, which reads it.

    memory_bytes("24GB")       # 24_000_000_000: 1e9 bytes each, as makers of GPUs count
    memory_bytes("22GiB")      # 23_622_320_128: 2**30 bytes each, as nvidia-smi counts
    memory_bytes("24")         # UserError: a size without a unit is none

A number without a unit is refused: it would be bytes to one reader and GB to the next.
"""

import re
from typing import Annotated

import typer

from sensitivity.errors import UserError

UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
UNITS |= {"kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
MOST_BYTES = 2**63 - 1
"""More than any machine has, and the largest whole number that databases and readers of JSON keep.
"""

MaxMemory = Annotated[
    str | None,
    typer.Option(
        help=(
            "Choose only among skip-lists whose run has at most this peak of GPU memory, as 24GB or"
            " 22GiB: predicted, without what CUDA itself takes."
        )
    ),
]


def memory_bytes(text: str | None) -> int | None:
    """Bytes of a size such as "24GB" (1e9 bytes each) or "22GiB" (2**30); None for None.

    Raises:
        UserError: it is no such size, has no unit, or is not above 0.
    """
    if text is None:
        return None
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower(), flags=re.ASCII)
    unit = None if found is None else UNITS.get(found[2])
    size = 0.0 if found is None or unit is None else float(found[1]) * unit
    if not 1 <= size <= MOST_BYTES:
        raise UserError(
            f"`max_memory` is {text[:40]!r}; expected a size above 0 with its unit, such as 24GB"
            " (1e9 bytes each) or 22GiB (2**30): correct it"
        )
    return int(size)
