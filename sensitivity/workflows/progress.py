"""How does a workflow tell its caller what it is at, and what is to come?

By a `Say` at each step, by `Measuring` while shapes are measured, and by an `Outlook` before the
first picture of a search.

    outlook = Outlook(bf16_s=0.0957, lists={"all nvfp4": 0.0654}, source="predicted for b200", ...)
    outlook.describe()    # "bf16 takes 95.70 ms a run (predicted for b200): all nvfp4 1.463x"
"""

from collections.abc import Callable, Mapping
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


@dataclass(frozen=True, kw_only=True, slots=True)
class PictureSeconds:
    """What a picture, or a clip, is expected to take here, in seconds.

    Attributes:
        bf16: unquantized.
        quantized: with formats as a search draws them, by emulation or by kernels.
    """

    bf16: float
    quantized: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Outlook:
    """What is known of a search when its model is loaded and priced.

    Attributes:
        bf16_s: priced seconds of a run with nothing quantized.
        lists: {list by hand, or "all FORMAT": priced seconds of a run}.
        source: where the prices come from, in words: "predicted for b200".
        groups: how many groups of Linears the search may change.
        linears: how many Linears these are.
        picture: what a picture takes here; None is not known before the first.
        timing_s: seconds that end-to-end runs take at the end, about; 0 where there are none.
    """

    bf16_s: float
    lists: Mapping[str, float]
    source: str
    groups: int
    linears: int
    picture: PictureSeconds | None = None
    timing_s: float = 0.0

    def describe(self) -> str:
        """What lists by hand gain, and what is searched, as one line."""
        gains = (f"{name} {self.bf16_s / seconds:.3f}x" for name, seconds in self.lists.items())
        known = f": {', '.join(gains)}" if self.lists else ""
        return (
            f"bf16 takes {self.bf16_s * 1e3:.2f} ms a run ({self.source}){known}; to search:"
            f" {self.groups} groups of {self.linears} Linears"
        )
