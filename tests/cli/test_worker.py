"""`worker` joins a search by its name, and of several workers one has the last word."""

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sensitivity.cli import app
from sensitivity.cli.next_commands import STUDY as STUDY_OPTIONS
from sensitivity.cli.typed_options import typed
from sensitivity.core.supervised import SUPERVISED
from sensitivity.errors import StoreError, UserError
from sensitivity.search.log import open_log
from sensitivity.search.store import Store
from sensitivity.spec.loading import resolve_spec
from sensitivity.workflows.kept_request import kept_request
from sensitivity.workflows.requests import SearchRequest

from support.fake_search import CANDIDATES, settings

STUDY = "tiny-flux-nvfp4-b200-0a1b2c3d"
COMMAND = "sensitivity search --model tiny-flux --prompts mine.txt --steps 2 --device cuda"
OTHER = "node-7:4711:9f0e520d"
Found = list[tuple[Any, SearchRequest, dict[str, Any]]]


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search of tiny-flux that keeps its request, at the usual place below this folder."""
    folder = tmp_path_factory.mktemp("joined")
    path = folder / "sensitivity-runs" / "tiny-flux.db"
    request = SearchRequest(budget=3, max_lpips=0.1, command=COMMAND)
    with Store.open(path) as store:
        facts = {"model": "tiny-flux", **asdict(settings())}
        kept = kept_request(resolve_spec("tiny-flux"), request, {})
        open_log(store, STUDY, CANDIDATES, facts, kept=kept)
    return path


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Found:
    """The searches that were asked for; another worker concludes each."""
    calls: Found = []

    def search(spec: Any, request: SearchRequest, **events: Any) -> Any:
        calls.append((spec, request, events))
        return SimpleNamespace(
            result=SimpleNamespace(interrupted=False), concluded_by=OTHER, recipe=None
        )

    monkeypatch.setattr("sensitivity.workflows.find.find_recipe", search)
    monkeypatch.delenv("SENSITIVITY_STORAGE", raising=False)
    monkeypatch.delenv(SUPERVISED, raising=False)
    return calls


def run(*arguments: str) -> Result:
    """A command that raises what it raises."""
    return CliRunner().invoke(app, [*arguments], catch_exceptions=False)


def be_child(monkeypatch: pytest.MonkeyPatch, local: int) -> int:
    """Be a supervisor's child; what it is told can be read from here."""
    ours, theirs = os.pipe()
    own = {"local": local, "number": local, "of": 2, "supervisor": os.getppid(), "pipe": theirs}
    monkeypatch.setenv(SUPERVISED, json.dumps(own))
    os.set_blocking(ours, False)
    return ours


def test_a_worker_searches_what_the_study_keeps(database: Path, found: Found) -> None:
    """Its own are the device, the cache and the database, which others may write too."""
    done = run(
        *("worker", "--study", STUDY, "--storage", str(database)),
        *("--device", "cpu", "--cache", "mine"),
    )
    ((spec, request, _),) = found
    assert spec == resolve_spec("tiny-flux")
    assert (request.budget, request.max_lpips) == (3, 0.1)
    assert (request.device, request.cache_folder) == ("cpu", Path("mine"))
    assert (request.storage, request.shared, request.joins) == (database, True, STUDY)
    assert done.exit_code == 0
    assert f"the trials are done; {OTHER} verifies the winner and writes the recipe" in done.output
    assert not list(database.parent.glob("*.json"))


def test_commands_that_a_worker_shows_name_the_searchs_study(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The options that the search was typed with, but this host's database and device."""
    monkeypatch.delenv(SUPERVISED, raising=False)
    seen: list[str] = []
    monkeypatch.setattr(
        "sensitivity.cli.worker.run_search",
        lambda *_arguments, **_options: seen.extend(typed("model", "storage", *STUDY_OPTIONS)),
    )
    run("worker", "--study", STUDY, "--storage", str(database), "--device", "cpu")
    assert seen == [
        *("--model", "tiny-flux", "--storage", str(database)),
        *("--prompts", "mine.txt", "--steps", "2", "--device", "cpu"),
    ]


def test_a_studys_usual_database_need_not_be_named(
    database: Path, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies where `search` keeps it, or is in the environment; else both are offered."""
    monkeypatch.chdir(database.parents[1])
    run("worker", "--study", STUDY)
    monkeypatch.chdir("/")
    monkeypatch.setenv("SENSITIVITY_STORAGE", str(database))
    run("worker", "--study", STUDY)
    assert [request.storage for _, request, _ in found] == [
        Path("sensitivity-runs/tiny-flux.db"),
        database,
    ]
    monkeypatch.delenv("SENSITIVITY_STORAGE")
    with pytest.raises(UserError, match=r"add --storage, or set the environment variable SENS"):
        run("worker", "--study", STUDY)


def test_a_wrong_name_ends_before_anything_is_loaded(database: Path, found: Found) -> None:
    """The message has the studies of the database."""
    with pytest.raises(StoreError, match=f"did you mean '{STUDY}'"):
        run("worker", "--study", STUDY[:-1], "--storage", str(database))
    assert found == []


@pytest.mark.parametrize("supervised", [True, False])
def test_a_search_shares_its_database_under_a_supervisor_only(
    found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, supervised: bool
) -> None:
    """A plain search has its file alone."""
    if supervised:
        be_child(monkeypatch, 0)
    run("search", "--model", "tiny-flux", "--storage", str(tmp_path / "own.db"), "--device", "cpu")
    ((_, request, _),) = found
    assert (request.shared, request.joins) == (supervised, None)


def test_the_supervisor_hears_of_finished_work(
    database: Path, found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A trial that ends or fails, and each sensitivity or held-out picture that is new: not what
    was known when this process began, and no trial of another worker.
    """
    pipe = be_child(monkeypatch, 1)
    done = run("worker", "--study", STUDY, "--storage", str(database), "--device", "cpu")
    assert done.output.splitlines()[-1].startswith("[rank 1] the trials are done;")
    ((_, _, options),) = found
    events, verifying = options["events"], options["verifying"]

    def told(event: Callable[..., Any], *given: Any) -> int:
        event(*given)
        try:
            return os.read(pipe, 1000).count(b'{"finished": 1}\n')
        except BlockingIOError:
            return 0

    assert told(events.failed, "trial 1", "why") == 1
    assert [told(events.calibrated, done, 3) for done in (2, 3, 3)] == [0, 1, 0]
    assert [told(verifying, done, 9) for done in (0, 0, 1, 2)] == [0, 0, 1, 1]
    assert told(events.waiting, 2) == 0
    os.close(pipe)
