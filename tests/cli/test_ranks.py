"""Under torchrun `search` and `worker` supervise; a password never becomes an argument."""

import json
import os
import sys
from pathlib import Path

import pytest

from sensitivity.cli import entry, ranks
from sensitivity.core.supervised import SUPERVISED
from sensitivity.errors import DeviceLostError, LostDatabaseError
from sensitivity.search.patience import UnreachableError

URL = "postgresql+psycopg://me:s3cret@db/studies"
CHILD = """
import json, os, sys
from pathlib import Path
found = {"arguments": Path("/proc/self/cmdline").read_text().split("\\0")[:-1],
         "environment": dict(os.environ)}
Path("child.json").write_text(json.dumps(found))
sys.exit(2)
"""


@pytest.fixture
def _torchrun(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Be the only rank of a launch by torchrun, on a host without GPUs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name, value in (
        ("LOCAL_RANK", "0"),
        ("RANK", "0"),
        ("WORLD_SIZE", "1"),
        ("LOCAL_WORLD_SIZE", "1"),
        ("TORCHELASTIC_RUN_ID", "none"),
        ("CUDA_VISIBLE_DEVICES", ""),
    ):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sensitivity.workflows.supervisor.die_with_parent", lambda *_given: None)


def type_words(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """Let these be the arguments of a program that is a script of Python."""
    monkeypatch.setattr(sys, "argv", ["-c", *arguments])
    monkeypatch.setattr(sys, "orig_argv", ["python", "-S", "-c", CHILD, *arguments])


@pytest.mark.usefixtures("_torchrun")
@pytest.mark.parametrize("typed", [["--storage", URL], [f"--storage={URL}"]])
def test_a_rank_runs_the_same_command_without_its_url(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, typed: list[str]
) -> None:
    """The child has the same arguments, but for the URL, which is in its environment."""
    type_words(monkeypatch, "search", "--model", "m", *typed, "--budget", "3")
    assert ranks.supervise() == 2
    found = json.loads((tmp_path / "child.json").read_text())
    assert found["arguments"] == [
        *(sys.executable, "-S", "-c", CHILD),
        *("search", "--model", "m", "--budget", "3"),
    ]
    assert "s3cret" not in " ".join(found["arguments"])
    assert found["environment"]["SENSITIVITY_STORAGE"] == URL
    assert not [name for name in found["environment"] if name.endswith("RANK")]


@pytest.mark.usefixtures("_torchrun")
def test_a_file_stays_an_argument(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A path is no secret, and is what it was."""
    monkeypatch.delenv("SENSITIVITY_STORAGE", raising=False)
    type_words(monkeypatch, "worker", "--study", "s", "--storage", "my.db")
    assert ranks.supervise() == 2
    found = json.loads((tmp_path / "child.json").read_text())
    assert found["arguments"][-2:] == ["--storage", "my.db"]
    assert "SENSITIVITY_STORAGE" not in found["environment"]


@pytest.mark.usefixtures("_torchrun")
@pytest.mark.parametrize(
    "arguments",
    [
        ("select", "--model", "m"),
        ("search", "--help"),
        ("search", "--model", "m", "--dry-run"),
        (),
    ],
)
def test_other_commands_are_run_by_each_rank(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...]
) -> None:
    """Only a search has a child that is watched."""
    type_words(monkeypatch, *arguments)
    assert ranks.supervise() is None


@pytest.mark.usefixtures("_torchrun")
def test_a_child_does_the_work_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has torchrun's variables no more, and were they there it would know its supervisor."""
    type_words(monkeypatch, "search", "--model", "m")
    be_child(monkeypatch, local=0)
    assert ranks.supervise() is None


def test_outside_torchrun_nothing_is_supervised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain search is one process."""
    monkeypatch.delenv("TORCHELASTIC_RUN_ID", raising=False)
    type_words(monkeypatch, "search", "--model", "m")
    assert ranks.supervise() is None


def be_child(monkeypatch: pytest.MonkeyPatch, *, local: int) -> None:
    """Be the child of a supervisor."""
    own = {"local": local, "number": local, "of": 2, "supervisor": os.getppid(), "pipe": 1}
    monkeypatch.setenv(SUPERVISED, json.dumps(own))


def test_children_beside_the_first_are_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first of a host has no number before its lines, and neither has a plain search."""
    monkeypatch.delenv(SUPERVISED, raising=False)
    assert (ranks.prefix(), ranks.is_quiet()) == ("", False)
    be_child(monkeypatch, local=0)
    assert (ranks.prefix(), ranks.is_quiet()) == ("", False)
    be_child(monkeypatch, local=3)
    assert (ranks.prefix(), ranks.is_quiet()) == ("[rank 3] ", True)


@pytest.mark.parametrize(
    ("error", "alone", "under_a_supervisor"),
    [
        (DeviceLostError("the GPU no longer answers"), 75, 75),
        (LostDatabaseError("the database does not answer"), 75, 75),
        (UnreachableError("the database did not answer"), 75, 75),
        (RuntimeError("CUDA error: device-side assert triggered"), 75, 75),
        (KeyError("a bug"), 1, 70),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.usefixtures("capsys")
def test_errors_that_a_new_process_may_mend_have_codes_of_their_own(
    monkeypatch: pytest.MonkeyPatch, error: Exception, alone: int, under_a_supervisor: int
) -> None:
    """A supervisor starts its child again after them; without one a bug stays 1."""

    def fails(**_options: object) -> None:
        raise error

    def code() -> object:
        with pytest.raises(SystemExit) as ended:
            entry.main()
        return ended.value.code

    monkeypatch.setattr(entry, "app", fails)
    monkeypatch.delenv(SUPERVISED, raising=False)
    assert code() == alone
    be_child(monkeypatch, local=1)
    assert code() == under_a_supervisor


def test_a_child_names_no_command_that_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What was typed was torchrun's command; one process of a host says that work is kept."""

    def interrupted(**_options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "app", interrupted)
    for local, said in (
        (0, "interrupted; finished work is kept, the same command goes on\n"),
        (1, ""),
    ):
        be_child(monkeypatch, local=local)
        with pytest.raises(SystemExit):
            entry.main()
        assert capsys.readouterr().err == said
