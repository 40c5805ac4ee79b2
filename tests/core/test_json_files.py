"""Strict JSON: whatever is accepted comes back equal, what two readers could read differently is
refused, and a file is written as a whole or not at all.
"""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sensitivity.core import json_files
from sensitivity.core.json_files import check_value, parse_json, write_whole
from sensitivity.errors import OutputError

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


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"[NaN]", "found NaN; expected a finite number"),
        (b"[-Infinity]", "found -Infinity; expected a finite number"),
        (b"[1e999]", "found the number 1e999; expected one that is finite in 64 bits"),
        (b"1" * 5000, "found an integer of 5000 digits; expected a 64-bit integer"),
        (b'{"a": 1, "b": 2, "a": 3}', "found the key 'a' twice in one object; expected it once"),
        (b'{"x": [{"a": 1, "a": 1}]}', "found the key 'a' twice"),
        (b'"\\ud800"', "found a lone surrogate in"),
        (b'{"\\udfff": 1}', "found a lone surrogate in"),
        (b"[" * 100 + b"]" * 100, "nesting deeper than 64 levels; expected at most 64"),
        (b"[" * 90_000 + b"]" * 90_000, "nesting deeper than 64 levels"),
        ('"\ud800"'.encode("utf-8", "surrogatepass"), "not UTF-8 at position 1"),
        (b"", "found no valid JSON at line 1, column 1"),
        (b"{} {}", "Extra data"),
        (b"\xff\xfe{}", "not UTF-8 at position 0; expected UTF-8 text"),
    ],
    ids=range(14),
)
def test_what_two_readers_could_read_differently_is_refused(data: bytes, message: str) -> None:
    """Numbers, keys, texts and nesting that JSON readers treat in more than one way."""
    with pytest.raises(ValueError, match=message):
        parse_json(data)


def test_files_are_replaced_and_links_followed(tmp_path: Path) -> None:
    """A file written through a link is whole, with the user's usual rights, and nothing else is in
    the folder.
    """
    real, link = tmp_path / "real.json", tmp_path / "link.json"
    real.write_text("old")
    link.symlink_to(real)
    assert write_whole(link, b"new") == real
    assert link.is_symlink()
    assert real.read_bytes() == b"new"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["link.json", "real.json"]
    umask = os.umask(0)
    os.umask(umask)
    assert real.stat().st_mode & 0o777 == 0o666 & ~umask


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    """A missing folder, a folder in the file's place and a device: the message has the folder and
    the next step.
    """
    with pytest.raises(
        OutputError,
        match=(
            f"cannot write 'r.json' in the folder {tmp_path}/no: No such file.*create it, or name"
            " another"
        ),
    ):
        write_whole(tmp_path / "no" / "r.json", b"")
    with pytest.raises(OutputError, match="which is not a regular file; expected the path"):
        write_whole(tmp_path, b"")
    with pytest.raises(OutputError, match="/dev/null, which is not a regular file"):
        write_whole("/dev/null", b"")
    with pytest.raises(OutputError, match="cannot write"):
        write_whole(tmp_path / "a\0b", b"")


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """If the disk fails before or at the rename, the old file stays and no temporary file."""
    path = tmp_path / "r.json"
    path.write_text("old")

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(json_files.os, failing, fail)
    with pytest.raises(OutputError, match="No space left on device"):
        write_whole(path, b"new")
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.json"]
    assert path.read_text() == "old"


def test_an_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while writing removes the temporary file too."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(json_files.os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "r.json", b"{}")
    assert list(tmp_path.iterdir()) == []
