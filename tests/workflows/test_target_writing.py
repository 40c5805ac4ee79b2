"""What is written of a machine names neither it, nor its user, nor a path on it."""

import getpass
import socket
from pathlib import Path

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.errors import UserError
from sensitivity.workflows import target_writing
from sensitivity.workflows.target_writing import (
    Sections,
    anonymous,
    describe_machine,
    target_name,
    target_of,
    without_names,
)

KEY = "gemm m=16 k=64 n=32 bias=1 bf16"


@pytest.fixture(autouse=True)
def _a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "node-17.cluster.example")
    monkeypatch.setattr(getpass, "getuser", lambda: "ann")
    monkeypatch.setattr(Path, "home", lambda: Path("/home/ann"))


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        (
            "RuntimeError: /home/ann/.venv/lib/x.py:12 failed on node-17",
            "RuntimeError: <path>:12 failed on <name>",
        ),
        ("FileNotFoundError: C:\\Users\\ann\\k.cu", "FileNotFoundError: <path>"),
        ("Ann's kernel on node-17.cluster.example", "<name>'s kernel on <name>"),
        ("CUDA error: CUBLAS_STATUS_NOT_SUPPORTED when calling `f(a/b)`", None),
        ("cannot plan: annotated 1/2 of 3", None),
    ],
)
def test_texts_lose_paths_and_names(text: str, clean: str | None) -> None:
    """Paths and the names of host and user go; words that hold them, and fractions, stay."""
    assert without_names(text) == (text if clean is None else clean)


def test_only_texts_that_kernels_wrote_are_changed() -> None:
    """A key or a version is not a place where a machine's name can stand."""
    data = {
        "name": "ann",
        "rows": [{"key": "linear ann", "reason": "at /a/b/c"}],
        "ulps": [{"error": "at /a/b/c"}],
        "notes": ["ann stopped"],
        "host": {"eager_kernel_us": 3.0, "region_fp8_us": "at /a/b/c"},
    }
    assert anonymous(data) == {
        "name": "ann",
        "rows": [{"key": "linear ann", "reason": "at <path>"}],
        "ulps": [{"error": "at <path>"}],
        "notes": ["<name> stopped"],
        "host": {"eager_kernel_us": 3.0, "region_fp8_us": "at <path>"},
    }


def test_sections_keep_the_last_row_of_a_key() -> None:
    """A shape that is measured again replaces its row; refused shapes come from probes."""
    sections = Sections()
    assert sections.first_reason == "no job was done"
    sections.add({"gemms": [{"key": KEY, "reason": "no kernel"}], "failed": ["limits: died"]})
    assert not sections.has_times
    assert sections.first_reason == "no kernel"
    sections.add({"gemms": [{"key": KEY, "us": [1.23456]}]})
    sections.probes = {
        "probed linear m=14 k=64 n=32 bias=1 fp8": ("refused", "no kernel"),
        "probed linear m=15 k=64 n=32 bias=1 fp8": ("ran", None),
    }
    machine = describe_machine("cpu", (FormatName.FP8,), "default", "toy") | {"capability": "9.0"}
    target = target_of(machine, sections, minutes=0.1234567, complete=False, fit=True)
    assert target.gemms[0].us == (1.235,)
    assert target.minutes == 0.1235
    assert [r.m for r in target.refusals] == [14]
    assert target.notes == ("limits: died", "the kernel constants were not fitted: too few rows")
    assert target.versions["torch"]


def test_a_fit_that_fails_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rows are kept, and the note says why there is no fit."""

    def fail(_target: object) -> None:
        raise ValueError("no solution in /home/ann/fit.py")

    monkeypatch.setattr(target_writing, "fit_target", fail)
    sections = Sections()
    sections.add({"gemms": [{"key": KEY, "us": [1.0]}]})
    machine = describe_machine("cpu", (), "default", "toy")
    target = target_of(machine, sections, minutes=1, complete=True, fit=True)
    assert target.notes == ("the kernel constants were not fitted: no solution in <path>",)


def test_a_name_is_a_chips() -> None:
    """A target is called by its chip, or by a name that can stand in a file's name."""
    assert target_name("cpu", "b200-lab") == "b200-lab"
    assert target_name("cpu", None)
    with pytest.raises(UserError, match="expected lower case letters"):
        target_name("cpu", "../B200")
