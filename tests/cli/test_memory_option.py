"""`--max-memory`: sizes as they are typed, what is none, and what is said of the bound."""

import io
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sensitivity import cli
from sensitivity.cli.memory_option import memory_bytes
from sensitivity.cli.render.front import front_table
from sensitivity.cli.render.winner import note_lines
from sensitivity.cli.screen import TextConsole
from sensitivity.errors import UserError
from sensitivity.recipes.records import Memory
from sensitivity.search.front import Constraints

from support.search_screens import outcome
from support.two_blocks import two_block_recipe

GB = 10**9


@pytest.mark.parametrize(
    ("text", "nbytes"),
    [
        ("24GB", 24_000_000_000),
        ("22 GiB", 23_622_320_128),
        ("1.5tb", 1_500_000_000_000),
        ("500 MB", 500_000_000),
        ("24000000000b", 24_000_000_000),
        (None, None),
    ],
)
def test_sizes(text: str | None, nbytes: int | None) -> None:
    """GB are powers of ten, GiB of two."""
    assert memory_bytes(text) == nbytes


@pytest.mark.parametrize(
    "text",
    ["", "GB", "24", "0GB", "0.0001b", "-1GB", "24XB", "1e9", "24 GB GB", "inf", "9" * 400 + "GB"],
)
def test_what_is_no_size(text: str) -> None:
    """The message has what was found and an example; a number without a unit is none."""
    with pytest.raises(UserError, match=r"`max_memory` is .* such as 24GB"):
        memory_bytes(text)


@pytest.mark.parametrize("command", ["search", "select", "audit skip.txt"])
@pytest.mark.parametrize("text", ["24", "-1GB", "abc"])
def test_commands_refuse_it_before_anything_is_loaded(
    command: str,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    """They end with the exit code 2, name the option, and write nothing."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "skip.txt").write_text("proj_out\n")
    words = [*command.split(), "--model", "tiny-flux", "--max-memory", text]
    monkeypatch.setattr(sys, "argv", ["sensitivity", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (2, "")
    assert f"--max-memory is {text!r}; expected a size above 0 with its unit" in err
    assert [path.name for path in tmp_path.iterdir()] == ["skip.txt"]


def notes(peak: int | None, source: str | None, *, most: int | None = 24 * GB) -> list[str]:
    """What a search says of a winner of 21 GB, as predicted, with this peak in its recipe."""
    plain = two_block_recipe()
    memory = plain.memory.model_dump() | {"peak_bytes": peak, "peak_source": source}
    found: Any = SimpleNamespace(
        recipe=plain.model_copy(update={"memory": Memory.model_validate(memory)}),
        winner=SimpleNamespace(constraints=Constraints(max_memory_bytes=most)),
        chosen=SimpleNamespace(memory_bytes=21 * GB),
        times=None,
        untimed="",
    )
    return note_lines(found)


def test_a_peak_is_said_with_its_source() -> None:
    """A predicted one with what it lacks, a measured one as measured; nothing without a bound."""
    (predicted,) = notes(21 * GB, "predicted")
    assert "peak memory 21 GB (predicted, without what CUDA itself takes" in predicted
    assert notes(23 * GB, "measured") == ["peak memory 23 GB, measured end to end"]
    assert notes(21 * GB, "predicted", most=None) == notes(None, None) == []


def test_a_measured_peak_beyond_the_bound_says_what_to_ask_for() -> None:
    """The bound minus what the prediction lacked: 24 - (25.5 - 21) GB; nothing where that is not
    above 0.
    """
    (line,) = notes(25_500_000_000, "measured")
    assert "25.5 GB, measured end to end: more than the 24 GB that were asked for" in line
    assert line.endswith("choose again with --max-memory 19.5GB")
    assert memory_bytes("19.5GB") == 24 * GB - (25_500_000_000 - 21 * GB)
    (line,) = notes(50 * GB, "measured")
    assert "choose again" not in line


def test_the_front_has_a_column_where_peaks_are_known() -> None:
    """In GB, with what they are below the table; without peaks neither is there."""
    plain = outcome()
    result = replace(
        plain.result, trials=tuple(replace(t, memory_bytes=21 * GB) for t in plain.result.trials)
    )
    by_index = {trial.index: trial for trial in result.trials}
    sized = replace(plain, result=result, front=tuple(by_index[t.index] for t in plain.front))
    for found, has in ((plain, False), (sized, True)):
        console = TextConsole(file=io.StringIO(), width=200)
        console.print(front_table(found))
        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert ("peak GB" in text, "21.00" in text, "without what CUDA" in text) == (has,) * 3
