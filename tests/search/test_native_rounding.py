"""Which arithmetic a list is drawn in beside its own. The measurement itself is in
`tests/workflows/test_find.py`, with a search.
"""

import pytest
import torch

from sensitivity.core.arithmetic import Arithmetic
from sensitivity.core.format_name import FormatName
from sensitivity.fidelity.score import Score, score_of
from sensitivity.formats.served import format_in
from sensitivity.search.native_rounding import against, relative_change

MXFP8, NVFP4, FP8 = FormatName.MXFP8, FormatName.NVFP4, FormatName.FP8
EAGER, COMPILED, MSLK = Arithmetic.EAGER, Arithmetic.COMPILED, Arithmetic.MSLK


@pytest.mark.parametrize(
    ("formats", "own", "other"),
    [
        ({NVFP4}, EAGER, MSLK),
        ({NVFP4, MXFP8}, EAGER, MSLK),
        ({FP8}, EAGER, COMPILED),
        ({FP8, NVFP4}, EAGER, COMPILED),
        ({NVFP4}, MSLK, EAGER),
        ({FP8}, COMPILED, EAGER),
        ({MXFP8}, EAGER, None),
        (set(), EAGER, None),
    ],
)
def test_the_other_arithmetic_is_known_and_differs(
    formats: set[FormatName], own: Arithmetic, other: Arithmetic | None
) -> None:
    """Every format has exact numbers in it, and one at least has others than in its own."""
    assert against(formats, own) is other
    if other is not None:
        assert any(format_in(name, own) is not format_in(name, other) for name in formats)


def test_the_change_is_that_of_geometric_means() -> None:
    """Twice as large on one of two prompts is a factor of the square root of 2, in both
    directions; values below the floor count as the floor.
    """

    def score(*values: float) -> Score:
        return score_of(torch.tensor(values), net="tiny", noise_floor=None)

    one, two = score(0.1, 0.02), score(0.2, 0.02)
    assert relative_change(one, two) == pytest.approx(2**0.5 - 1, rel=1e-6)
    assert relative_change(two, one) == pytest.approx(2**0.5 - 1, rel=1e-6)
    assert relative_change(one, one) == 0
    assert relative_change(score(0.0, 0.02), score(0.01, 0.02), at_least=0.01) == 0
