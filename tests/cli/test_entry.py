"""The two ways to start the program, and its version."""

import importlib.metadata
import io
import os
import subprocess
import sys
from typing import Any

import pytest
import typer

from sensitivity.cli import app, main


def test_the_module_is_the_command() -> None:
    """`python -m sensitivity -h` shows every command of `sensitivity`."""
    done = subprocess.run(
        [sys.executable, "-m", "sensitivity", "-h"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    commands: Any = typer.main.get_command(app)
    assert "Usage: python -m sensitivity" in done.stdout
    for name in commands.commands:
        assert name in done.stdout


def test_the_version_is_the_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--version` prints the name and the installed version."""
    monkeypatch.setattr(sys, "argv", ["sensitivity", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out == f"sensitivity {importlib.metadata.version('sensitivity')}\n"


class PartialFile(io.RawIOBase):
    """A file that takes a few bytes at a time, as one on a full disk may."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self.held = b""

    def writable(self) -> bool:
        """Yes."""
        return True

    def write(self, data: Any) -> int:
        """Take five bytes."""
        self.held += bytes(data[:5])
        return min(len(data), 5)


def test_nothing_of_an_unbuffered_output_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """With PYTHONUNBUFFERED, Python writes to the bare file once, however much that takes."""
    file: Any = PartialFile()
    text = io.TextIOWrapper(file, "utf-8", write_through=True)
    monkeypatch.setattr(sys, "stdout", text)
    monkeypatch.setattr(sys, "argv", ["sensitivity", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert file.held.decode() == f"sensitivity {importlib.metadata.version('sensitivity')}\n"


@pytest.mark.parametrize("name", ["stdin", "stdout", "stderr"])
def test_a_closed_stream_is_the_null_device(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """`sensitivity <&- >&- 2>&-` does its work, and reads nothing."""
    monkeypatch.setattr(sys, name, None)
    monkeypatch.setattr(sys, "argv", ["sensitivity", "--version"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    assert getattr(sys, name).name == os.devnull
    getattr(sys, name).close()


def test_estimators_on_the_command_line_are_those_of_the_library() -> None:
    """The choices of `calibrate --estimator` are spelled out, so that help loads no torch."""
    from typing import get_args

    from sensitivity.cli.calibrate import EstimatorChoice
    from sensitivity.cli.format_choice import QuantizedFormat
    from sensitivity.cli.options import Net
    from sensitivity.core.format_name import QUANTIZED_FORMATS
    from sensitivity.search.calibration.jobs import EstimatorName
    from sensitivity.spec.study_spec import FidelitySection

    assert set(get_args(EstimatorChoice)) == set(EstimatorName)
    assert set(QuantizedFormat) == set(QUANTIZED_FORMATS)
    assert set(get_args(Net)) == set(get_args(FidelitySection.model_fields["net"].annotation))
