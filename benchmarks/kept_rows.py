"""Where do benchmarks keep times of shapes? In their own JSON document, under "shape_times".

    class Document(KeptRows): ...        # has `data` and `write`

It is a `latency.shape_times.ShapeTimeCache` of one machine and one compile mode.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any


class KeptRows(ABC):
    """A document whose `data["shape_times"]` has the row of each key.

    Attributes:
        data: the document.
    """

    data: dict[str, Any]

    @abstractmethod
    def write(self) -> None:
        """Write the document."""

    def find_shape_times(
        self,
        machine: Mapping[str, str],  # noqa: ARG002 - a file is of one machine
        compile_mode: str,  # noqa: ARG002 - and of one mode
    ) -> dict[str, dict[str, Any]]:
        """{key: row} of the document."""
        return dict(self.data["shape_times"])

    def save_shape_time(
        self,
        machine: Mapping[str, str],  # noqa: ARG002
        compile_mode: str,  # noqa: ARG002
        key: str,
        row: Mapping[str, Any],
    ) -> None:
        """Keep a row, and write the document."""
        self.data["shape_times"][key] = dict(row)
        self.write()
