"""Counts of steps are typed as numbers and ranges, and nothing else."""

import pytest

from sensitivity.cli.step_options import EdgeStepsChoice, counts_of, edge_mode
from sensitivity.core.step_policy import EdgeMode
from sensitivity.errors import UserError


@pytest.mark.parametrize(
    ("text", "counts"),
    [
        (None, None),
        ("2", (2,)),
        ("0-4", (0, 1, 2, 3, 4)),
        ("0, 2", (0, 2)),
        ("0-1,1-2,7", (0, 1, 2, 7)),
    ],
)
def test_counts(text: str | None, counts: tuple[int, ...] | None) -> None:
    """Ranges hold both ends, and no count is there twice."""
    assert counts_of(text, "first_steps") == counts


@pytest.mark.parametrize("text", ["", "a", "4-1", "1,", "-1", "1.5", "0-99999", "٣"])
def test_what_is_no_count(text: str) -> None:
    """Anything else is refused with what was typed and an example."""
    with pytest.raises(UserError, match=r"`last_steps` is .*; expected counts of steps, such as 2"):
        counts_of(text, "last_steps")


def test_modes() -> None:
    """Off is no mode; the others are those of a policy."""
    assert [edge_mode(choice) for choice in EdgeStepsChoice] == [
        None,
        EdgeMode.BF16,
        EdgeMode.A16,
    ]
