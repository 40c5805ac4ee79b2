"""The two ways to start the program, and its version."""

import importlib.metadata
import subprocess
import sys

import pytest

from sensitivity.cli import main


@pytest.mark.parametrize("arguments", [["--version"], ["-h"]])
def test_the_module_is_the_command(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`python -m sensitivity` prints what `sensitivity` prints."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "argv", ["sensitivity", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    done = subprocess.run(
        [sys.executable, "-m", "sensitivity", *arguments],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    ours = capsys.readouterr().out
    assert done.stdout.replace("python -m sensitivity", "sensitivity").split() == ours.split()


def test_the_version_is_the_packages(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--version` prints the name and the installed version."""
    monkeypatch.setattr(sys, "argv", ["sensitivity", "--version"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out == f"sensitivity {importlib.metadata.version('sensitivity')}\n"


def test_estimators_on_the_command_line_are_those_of_the_library() -> None:
    """The choices of `calibrate --estimator` are spelled out, so that help loads no torch."""
    from typing import get_args

    from sensitivity.cli.calibrate import EstimatorChoice
    from sensitivity.cli.options import Net, QuantizedFormat
    from sensitivity.core.format_name import QUANTIZED_FORMATS
    from sensitivity.search.calibration.jobs import EstimatorName
    from sensitivity.spec.study_spec import FidelitySection

    assert set(get_args(EstimatorChoice)) == set(EstimatorName)
    assert set(QuantizedFormat) == set(QUANTIZED_FORMATS)
    assert set(get_args(Net)) == set(get_args(FidelitySection.model_fields["net"].annotation))
