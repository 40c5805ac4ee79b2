"""How does a workflow tell its caller which step it is at? By a `Say`, and by `Measuring` while
shapes are measured.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sensitivity.latency.shape_times import ShapeTimes

Say = Callable[[str], None]
"""Called with one line at the start of each step."""
ShapeProgress = Callable[[int, int, str], None]
"""Called with (shapes done, shapes in all, key of the next or "")."""


def silent(_text: str) -> None:
    """A `Say` that says nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Measuring:
    """How a caller follows a measurement of shapes.

    Attributes:
        progress: called before each shape and at the end.
        noted: called with what the user should read beforehand: how many shapes, how long.
        measured: called with all rows at the end, failed ones too.
    """

    progress: ShapeProgress = lambda _done, _total, _key: None
    noted: Say = silent
    measured: Callable[[ShapeTimes], None] = lambda _times: None
