"""The rows that processes of a benchmark append to files of one folder, one JSON object a line.

for row in rows_in(Path("runs/quality"), "scores"): ...
"""

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

DIGITS = 6


def rows_in(folder: Path, kind: str) -> Iterator[dict[str, Any]]:
    """The rows of `KIND*.jsonl`; lines that a killed process left unfinished are passed over."""
    for path in sorted(folder.glob(f"{kind}*.jsonl")):
        for line in path.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                yield json.loads(line)


def rounded(values: Sequence[float]) -> list[float]:
    """The values with `DIGITS` significant digits."""
    return [float(f"{value:.{DIGITS}g}") for value in values]
