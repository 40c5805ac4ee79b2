"""What a policy leaves of the damage follows from the parts of a run, and which policies are
weighed from its length.
"""

import itertools
import json

import pytest

from sensitivity.core.step_policy import PLAIN, EdgeMode, StepPolicy
from sensitivity.errors import UserError
from sensitivity.search.step_policies import EdgeSteps, asked_steps, policies_of
from sensitivity.search.step_table import StepTable, parts_of_run

A16, BF16 = EdgeMode.A16, EdgeMode.BF16
TABLE = StepTable(
    steps=10,
    parts=((0, 1), (1, 3), (3, 9), (9, 10)),
    shares={(0, 1): (0.4, 0.2, 0.3, 0.1), (1, 1): (0.1, 0.1, 0.2, 0.6)},
    a16={1: 0.25},
)


def policy(first: int, last: int, mode: EdgeMode = BF16) -> StepPolicy:
    return StepPolicy(first_steps=first, last_steps=last, mode=mode)


@pytest.mark.parametrize(
    ("own", "left"),
    [
        (PLAIN, (1.0, 1.0)),
        (policy(1, 0), (0.6, 0.9)),
        (policy(3, 0), (0.4, 0.8)),
        (policy(3, 1), (0.3, 0.2)),
        (policy(2, 0), (0.5, 0.85)),  # in the middle of a part of two steps
        (policy(3, 1, A16), (0.3 + 0.25 * 0.7, 0.2 + 0.25 * 0.8)),
    ],
)
def test_weight_is_the_sum_over_quantized_parts(own: StepPolicy, left: tuple[float, float]) -> None:
    """Shares of quantized steps add up; in A16 what weights alone do is left of the others."""
    found = [TABLE.weight(item, own) for item in ((0, 1), (1, 1))]
    assert found == pytest.approx(left)


def test_uniform_table_counts_steps() -> None:
    """Where nothing was measured, a policy leaves its share of quantized steps."""
    table = StepTable.uniform([(0, 1)], steps=8)
    for first, last in ((0, 0), (1, 0), (2, 2), (4, 1)):
        own = policy(first, last)
        assert table.weight((0, 1), own) == pytest.approx(own.share(steps=8))


def test_powers_lie_between_what_was_measured_and_uniform() -> None:
    """Steps that do 1, 4 x 2 and 16 x 3 do 1, 2 x 2 and 4 x 3 to the power 1/2, the same to the
    power 0, and together what they did; a step that does nothing stays so.
    """
    damages, parts = (1.0, 8.0, 48.0), ((0, 1), (1, 3), (3, 6))
    shares = {(0, 1): tuple(own / 57 for own in damages), (1, 1): (0.0, 0.0, 1.0)}
    table = StepTable(steps=6, parts=parts, shares=shares, a16={})
    half = table.tempered(0.5)
    assert half.shares[0, 1] == pytest.approx((1 / 17, 4 / 17, 12 / 17))
    assert half.shares[1, 1] == pytest.approx((0.0, 0.0, 1.0))
    assert table.tempered(1.0) == table
    uniform = StepTable.uniform([(0, 1), (1, 1)], steps=6)
    for own, item in itertools.product((PLAIN, policy(1, 0), policy(2, 1)), shares):
        assert table.tempered(0.0).weight(item, own) == pytest.approx(uniform.weight(item, own))


def test_table_comes_back_from_json() -> None:
    """Every field survives the text of a database, to the last bit."""
    table = StepTable(
        steps=3, parts=((0, 1), (1, 3)), shares={(4, 2): (0.1 + 0.2, 1 / 3)}, a16={2: 5e-324}
    )
    assert StepTable.from_json(json.loads(json.dumps(table.to_json()))) == table


@pytest.mark.parametrize(
    "broken", [{"shares": [[0, 1, 0.5]]}, {"parts": "ab"}, {"steps": None}, {"a16": [["x", 1]]}]
)
def test_other_json_is_refused(broken: dict[str, object]) -> None:
    """A table of another form is a ValueError, and no table."""
    with pytest.raises(ValueError, match=r"step table|validation error"):
        StepTable.from_json(TABLE.to_json() | broken)


def test_parts_are_cut_where_policies_cut() -> None:
    """Parts cover the run once, with an edge at each count of first and last steps."""
    found = parts_of_run([policy(1, 0), policy(3, 2), policy(0, 1)], steps=8)
    assert found == ((0, 1), (1, 3), (3, 6), (6, 7), (7, 8))


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 28, 50])
def test_policies_weighed_by_default(steps: int) -> None:
    """The plain one comes first, none is there twice, and a quarter of the steps runs quantized at
    least; a run of one step has no other.
    """
    found = policies_of(EdgeSteps(mode=A16), steps=steps)
    assert found[0] == PLAIN
    assert len(found) == len(set(found)) <= 24
    assert all(own.share(steps=steps) >= 0.25 for own in found)
    assert all(own.mode is A16 for own in found[1:])
    assert (len(found) == 1) == (steps == 1)


def test_counts_that_are_given_are_taken() -> None:
    """All pairs of the counts that leave a quantized step, and no others; one pair is one policy;
    nobody asking is the plain policy.
    """
    asked = EdgeSteps(mode=BF16, first_steps=(0, 3), last_steps=(2, 0))
    assert set(policies_of(asked, steps=5)) == {PLAIN, policy(0, 2), policy(3, 0)}
    one = EdgeSteps(mode=BF16, first_steps=(2,), last_steps=(1,))
    assert policies_of(one, steps=28) == (policy(2, 1),)
    assert policies_of(None, steps=28) == (PLAIN,)


@pytest.mark.parametrize(
    ("ask", "match"),
    [
        (lambda: asked_steps(None, (1,), None), "`first_steps` is 1 without `edge_steps`"),
        (lambda: asked_steps(BF16, (), None), "`first_steps` is .*; expected counts"),
        (lambda: asked_steps(BF16, None, (0, -1)), r"`last_steps` is \[0, -1\]"),
        (lambda: asked_steps(BF16, tuple(range(30)), (0, 1, 2)), "make 90 step policies"),
        (
            lambda: policies_of(EdgeSteps(mode=BF16, first_steps=(4,), last_steps=(4,)), steps=8),
            "leave no quantized step in a run of 8",
        ),
    ],
)
def test_counts_that_cannot_be(ask: object, match: str) -> None:
    """A message says what was found, what was expected and what to do."""
    with pytest.raises(UserError, match=match):
        ask()  # type: ignore[operator]
