"""Tables of records: HTML that shows hostile names as text, and DataFrames of every row."""

import sys

import pytest

from sensitivity.core.record_tables import MOST_ROWS, RecordTable
from sensitivity.errors import UserError

HOSTILE = '<script>alert("x")</script>\u202eab'


def test_html_is_escaped_and_printable() -> None:
    """A name from outside is shown, never obeyed, in title, head and cells."""
    table = RecordTable(title=HOSTILE, columns=(HOSTILE,), rows=((HOSTILE,),))
    html = table.to_html()
    assert "<script" not in html
    assert "\u202e" not in html
    assert html.count("&lt;script&gt;") == 3


def test_html_rounds_numbers_and_counts_what_it_leaves_out() -> None:
    """Numbers have four digits and stand to the right; what is not known is empty."""
    rows = ((1 / 3, True, None), *((4608, False, "a"),) * (MOST_ROWS + 4))
    html = RecordTable(columns=("share_of_a_run", "b", "c"), rows=rows).to_html()
    assert '<td style="text-align: right">0.3333</td>' in html
    assert '<td style="text-align: right">4608</td>' in html
    assert '<td style="text-align: left">yes</td><td style="text-align: left"></td>' in html
    assert "<th>share of a run</th>" in html
    assert html.count("<tr>") == MOST_ROWS + 1
    assert "and 5 more" in html


def test_a_table_without_rows_is_its_title() -> None:
    """Nothing is shown of columns that hold nothing."""
    assert (
        RecordTable(title="no findings", columns=("a",), rows=()).to_html() == "<p>no findings</p>"
    )


def test_pandas_gets_every_row_unrounded() -> None:
    """The DataFrame has the names and the values."""
    rows = tuple((f"layer {i}", i / 3) for i in range(100))
    frame = RecordTable(columns=("fqn", "ms"), rows=rows).to_pandas()
    assert list(frame.columns) == ["fqn", "ms"]
    assert [tuple(row) for row in frame.itertuples(index=False)] == list(rows)


def test_without_pandas_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """pandas is optional."""
    monkeypatch.setitem(sys.modules, "pandas", None)  # as Python marks what cannot be imported
    with pytest.raises(UserError, match=r"needs pandas.*pip install pandas"):
        RecordTable(columns=("a",), rows=((1,),)).to_pandas()
