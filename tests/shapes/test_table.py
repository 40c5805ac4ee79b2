"""A table of shapes has the JSON that is documented, refuses other JSON, and groups its Linears."""

import json
from typing import Any

import pytest

from sensitivity.errors import UserError
from sensitivity.shapes.table import LinearProfile, ShapeTable


def profile(fqn: str, *, k: int = 8, n: int = 8, **m_values: int) -> LinearProfile:
    """A Linear with {m<M>: calls}."""
    return LinearProfile.observed(
        fqn=fqn,
        k=k,
        n=n,
        m_values={int(m[1:]): calls for m, calls in m_values.items()},
        dtype="float32",
        bias=True,
    )


def table_of(*linears: LinearProfile, **more: Any) -> ShapeTable:
    """A table of these Linears, and of `unused`, which was never called."""
    fields = {"settings": {"height": 64}, "uncalled": ("unused",)} | more
    return ShapeTable(model="toy", batch_size=1, linears=linears, **fields)


TABLE = table_of(profile("first", n=4, m3=1, m10=1), profile("second", k=4, n=2, m3=1))


def test_the_json_has_the_documented_keys() -> None:
    """Exactly the contract's keys, m_values only where M varies; results may be stamped."""
    data = TABLE.to_json()
    assert list(data) == ["model", "batch_size", "settings", "linears", "uncalled"]
    assert data["linears"][0] == {
        "fqn": "first",
        "m": 10,
        "k": 8,
        "n": 4,
        "calls": 2,
        "dtype": "float32",
        "bias": True,
        "block": "",
        "role": "first",
        "m_values": {"3": 1, "10": 1},
    }
    assert "m_values" not in data["linears"][1]
    assert ShapeTable.from_json(json.loads(json.dumps(data))) == TABLE
    assert ShapeTable.from_json({**data, "environment": {}}) == TABLE


def row(data: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """The JSON with a changed first row."""
    first, *others = data["linears"]
    return {**data, "linears": [first | changes, *others]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _data: [], r"it is \[\]; expected an object"),
        (
            lambda data: {k: v for k, v in data.items() if k != "linears"},
            "`linears` is missing; expected a value",
        ),
        (lambda data: {**data, "batch_size": 0}, "`batch_size` is 0; expected a number from 1 up"),
        (lambda data: {**data, "batch_size": "1"}, "`batch_size` is '1'; expected a whole number"),
        (lambda data: {**data, "settings": [1]}, r"`settings` is \[1\]; expected an object"),
        (lambda data: {**data, "uncalled": "x"}, "`uncalled` is 'x'; expected a list"),
        (lambda data: row(data, fqn=None), r"`linears.0.fqn` is None; expected a text"),
        (lambda data: row(data, bias=1), r"`linears.0.bias` is 1; expected true or false"),
        (lambda data: row(data, calls=True), "`linears.0.calls` is True; expected a whole number"),
        (lambda data: row(data, m=-1), "`linears.0.m` is -1; expected a number from 0 up"),
        (lambda data: row(data, m_value={}), "`linears.0.m_value` is an unknown key; expected no"),
        (lambda data: {**data, "linears": [{"fqn": "x"}]}, "`linears.0.m` is missing; expected a"),
        (
            lambda data: row(data, m_values={"x": 1}),
            r"`linears.0.m_values`: found {'x': 1}; expected an object {\"<m>\": calls}",
        ),
        (lambda data: row(data, m_values=[[3, 1]]), r"found \[\[3, 1\]\]; expected an object"),
        (
            lambda data: row(data, m_values={"10": 9}),
            r"the largest M 10 and 9 calls in all; expected those of `m` \(10\) and `calls` \(2\)",
        ),
        (
            lambda data: {**data, "linears": data["linears"] * 2},
            "found the FQN 'first' twice; expected one entry for each Linear",
        ),
        (lambda data: {**data, "uncalled": ["first"]}, "found the FQN 'first' twice"),
        (
            lambda data: {**data, "shared_inputs": [["first", "nothing"]]},
            "found 'nothing' in `shared_inputs`; expected FQNs of `linears`",
        ),
        (
            lambda data: {**data, "run": {"components": [{"component": "vae", "calls": True}]}},
            "`run.components.0.calls` is True; expected a whole number",
        ),
    ],
)
def test_malformed_json(change: Any, message: str) -> None:
    """A malformed table is refused with the value found, what was expected and the next step."""
    with pytest.raises(UserError, match=f"^malformed shape table: .*{message}") as caught:
        ShapeTable.from_json(change(TABLE.to_json()))
    assert str(caught.value).endswith("; run `sensitivity profile` and save its JSON again")


def test_names_of_all_linears() -> None:
    """Those that were called come first; a mismatch is what only one side has, sorted."""
    assert TABLE.fqns == ("first", "second", "unused")
    assert list(TABLE.by_fqn) == ["first", "second"]
    assert TABLE.mismatch(["unused", "second", "first"]) == []
    assert TABLE.mismatch({"second": 1, "zero": 1, "also": 1}) == [
        "also",
        "first",
        "unused",
        "zero",
    ]
    shared = table_of(*TABLE.linears, shared_inputs=(("first", "second"),))
    assert shared.readers == {"first": 2, "second": 2}


def test_by_shape() -> None:
    """Linears of one shape are one row with their calls, FLOPs, share and roles, most FLOPs first;
    a varying M makes several rows.
    """
    table = table_of(
        profile("blocks.0", m2=1), profile("blocks.1", m2=1), profile("head", n=4, m2=1, m1=1)
    )
    groups = table.by_shape()
    assert [(g.m, g.k, g.n, g.linears, g.calls, g.flops, g.roles) for g in groups] == [
        (2, 8, 8, 2, 2, 512, ("blocks",)),
        (2, 8, 4, 1, 1, 128, ("head",)),
        (1, 8, 4, 1, 1, 64, ("head",)),
    ]
    assert [g.share for g in groups] == pytest.approx([512 / 704, 128 / 704, 64 / 704])
    assert table.flops == 704
