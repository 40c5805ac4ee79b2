"""Strict JSON: whatever is accepted comes back equal.

(Refusals and writing are tested with recipes.)
"""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensitivity.core.json_files import check_value, parse_json

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(TEXT, children, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_round_trip(value: object) -> None:
    """Any JSON value passes the check, is written, and is read back equal."""
    check_value(value)
    assert parse_json(json.dumps(value, ensure_ascii=False).encode()) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    """No input raises anything but ValueError."""
    try:
        check_value(parse_json(data))
    except ValueError as error:
        assert "found" in str(error)  # noqa: PT017 - most inputs raise, some do not


@pytest.mark.parametrize(
    ("value", "message"),
    [({1: 2}, "found the key 1"), ({"a": {1}}, "found a set"), (10**30, "over 20 digits")],
)
def test_values_that_json_lacks(value: object, message: str) -> None:
    """Keys that are no text, types JSON does not have and giant integers are refused before
    writing.
    """
    with pytest.raises(ValueError, match=message):
        check_value(value)
