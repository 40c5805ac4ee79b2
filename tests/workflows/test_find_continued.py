"""A search that was interrupted in any way goes on to the same end."""

import itertools
import multiprocessing
import os
import resource
import shlex
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sensitivity.cli import main
from sensitivity.cli.same_command import UNDER_UV
from sensitivity.errors import OutputError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models.media import Media
from sensitivity.search.trials import SearchEvents
from sensitivity.spec.loading import load_spec
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.prepare import Prepared, prepare
from sensitivity.workflows.requests import SearchRequest

from support.searches import BASELINES, BUDGET, essence, states_of


@pytest.fixture(scope="module")
def loaded(tiny_study: Path, runs: Path) -> Iterator[Prepared]:
    """The tiny study, loaded and priced once."""
    made = prepare(
        load_spec(tiny_study),
        SearchRequest(storage=runs / "none.db", cache_folder=runs / "references"),
    )
    yield made
    made.evaluator.close()


@pytest.fixture(autouse=True)
def loaded_once(loaded: Prepared, whole: SearchOutcome, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001 - `whole` loads its own
    """Searches in this process share a loaded pipeline; what they share on disk is tested here."""
    monkeypatch.setattr("sensitivity.workflows.find.prepare", lambda *_, **__: loaded)
    monkeypatch.setattr(loaded.evaluator, "close", lambda: None)


def at_trial(number: int, do: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on do something when the pictures of a trial would be generated, counted from 1."""
    plain, calls = Evaluator.generate, itertools.count(1)

    def generate(self: Evaluator, formats: Any, split: Any, **more: Any) -> Media:
        if next(calls) == number:
            do()
        return plain(self, formats, split, **more)

    monkeypatch.setattr(Evaluator, "generate", generate)


def continue_in_process(tiny_study: Path, runs: Path, database: Path, **more: Any) -> SearchOutcome:
    """The same search from the library, on an existing database."""
    return find_recipe(
        load_spec(tiny_study),
        SearchRequest(budget=BUDGET, storage=database, cache_folder=runs / "references"),
        **more,
    )


def test_the_same_command_continues_to_a_larger_budget(
    whole: SearchOutcome, tiny_study: Path, runs: Path, tmp_path: Path
) -> None:
    """A budget of 1, then of 3, gives the trials of an uninterrupted search, and says that it
    continues.
    """
    request = SearchRequest(budget=1, storage=tmp_path / "two.db", cache_folder=runs / "references")
    find_recipe(load_spec(tiny_study), request)
    continued: list[int] = []
    events = SearchEvents(continued=lambda _name, trials: continued.append(len(trials)))
    outcome = continue_in_process(tiny_study, runs, tmp_path / "two.db", events=events)
    assert continued == [BASELINES + 1]
    assert essence(outcome.result.trials) == essence(whole.result.trials)
    assert outcome.recipe == whole.recipe


def test_a_full_disk_is_said_and_the_database_stays_valid(
    whole: SearchOutcome,
    tiny_study: Path,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """When files may not be written past a size in the second trial, the search ends with a message
    about room; with room it goes on to the same end.
    """
    database, plain = tmp_path / "full.db", Evaluator.generate
    asked: list[int] = []

    def generate(self: Evaluator, formats: Any, split: Any, **more: Any) -> Media:
        asked.append(1)
        if len(asked) == 2:
            size = database.stat().st_size
            resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, limits[1]))
        return plain(self, formats, split, **more)

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(Evaluator, "generate", generate)
    try:
        with pytest.raises(OutputError, match=r"cannot be written .*disk with room.*goes on"):
            continue_in_process(tiny_study, runs, database)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert 1 <= states_of(database).count("COMPLETE") < BASELINES + BUDGET
    outcome = continue_in_process(tiny_study, runs, database)
    assert essence(outcome.result.trials) == essence(whole.result.trials)


def test_kill_minus_9_loses_only_the_running_trial(
    whole: SearchOutcome,
    tiny_study: Path,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A process killed in its fifth trial leaves four, and the continued search equals the
    uninterrupted one.
    """
    database = tmp_path / "killed.db"
    with monkeypatch.context() as patched:
        at_trial(5, lambda: os.kill(os.getpid(), signal.SIGKILL), patched)
        process = multiprocessing.get_context("fork").Process(
            target=continue_in_process, args=(tiny_study, runs, database)
        )
        process.start()
    process.join(timeout=120)
    assert process.exitcode == -signal.SIGKILL
    assert states_of(database) == ["COMPLETE"] * 4
    continued: list[int] = []
    events = SearchEvents(continued=lambda _name, trials: continued.append(len(trials)))
    outcome = continue_in_process(tiny_study, runs, database, events=events)
    assert continued == [4]
    assert essence(outcome.result.trials) == essence(whole.result.trials)
    assert outcome.result.failed == 0


def test_ctrl_c_keeps_finished_trials_and_says_how_to_go_on(
    whole: SearchOutcome,
    tiny_study: Path,
    runs: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SIGINT in the fourth trial ends with exit code 1, no traceback, a front, the count of what is
    kept and the command that goes on; three trials stay and no recipe is written.
    """
    database, out = tmp_path / "stopped.db", tmp_path / "stopped.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    named = {"--model": tiny_study, "--budget": BUDGET, "--storage": database, "--out": out}
    command = ["sensitivity", "search", *(str(x) for pair in named.items() for x in pair)]
    monkeypatch.setattr(sys, "argv", command)
    monkeypatch.setenv("SENSITIVITY_DEBUG", "1")  # leaves the loggers of this process as they are
    monkeypatch.delenv(UNDER_UV, raising=False)  # the tests may run under `uv run` themselves
    with monkeypatch.context() as patched:
        at_trial(4, lambda: os.kill(os.getpid(), signal.SIGINT), patched)
        with pytest.raises(SystemExit) as ended:
            main()
    stdout, stderr = capsys.readouterr()
    assert ended.value.code == 1
    assert "interrupted" in stderr
    assert stderr.splitlines()[-1].endswith(f"the same command goes on: {shlex.join(command)}")
    assert "front of" in stdout
    assert stdout.splitlines()[-1] == f"finished and kept: 3 of {BASELINES} baselines"
    assert not out.exists()
    assert states_of(database) == ["COMPLETE"] * 3
    outcome = continue_in_process(tiny_study, runs, database)
    assert essence(outcome.result.trials) == essence(whole.result.trials)
    assert outcome.result.failed == 0
