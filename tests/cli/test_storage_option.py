"""`--storage` takes a file or a server's URL, and no password of one is shown or kept."""

import sys
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from sensitivity.cli import main
from sensitivity.cli.app import app
from sensitivity.cli.ranks import STORAGE
from sensitivity.cli.same_command import same_command
from sensitivity.cli.storage_option import named_storage
from sensitivity.core.storage_url import parse_storage
from sensitivity.search.store import Store

from support import fake_search
from support.fake_search import FakeEvaluator

SECRET = "postgresql://me:hunter2@127.0.0.1:1/studies"


def run(*words: str) -> str:
    """What a command prints that succeeds."""
    result = CliRunner().invoke(app, list(words))
    assert result.exit_code == 0, result.output
    return result.output


def fail(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> str:
    """What the program prints where it ends with an error."""
    monkeypatch.setattr(sys, "argv", ["sensitivity", *words])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code not in (0, None)
    printed = capfd.readouterr()
    return printed.out + printed.err


@pytest.fixture
def searched(postgres_url: str) -> str:
    """The URL of a server's database that holds a search."""
    with pytest.MonkeyPatch.context() as patched:
        fake_search.search(
            parse_storage(postgres_url), FakeEvaluator(), fake_search.settings(budget=1), patched
        )
    return postgres_url


def test_a_server_is_read_and_its_password_is_nowhere(
    searched: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The option and the environment variable lead to the same database; neither what is printed,
    nor the JSON, nor any row of the database has the password.
    """
    url = parse_storage(searched)
    path = tmp_path / "status.json"
    typed = run("status", "--storage", searched, "--json", str(path))
    monkeypatch.setenv(STORAGE, searched)
    found = run("status")
    assert str(url) in typed
    assert str(url) in found
    shown = [typed, found, path.read_text()]
    with Store.read(url) as store, store.reading() as session:
        names = "SELECT tablename FROM pg_tables WHERE schemaname = 'public'"
        for name in session.scalars(text(names)).all():
            rows = session.execute(text(f'SELECT * FROM "{name}"')).all()
            assert rows or name not in ("trials", "studies")
            shown += map(repr, rows)
    password = str(url.url.password)  # type: ignore[union-attr]
    secret = searched.split(":")[2].split("@")[0]
    assert not [text for text in shown if password in text or secret in text]


@pytest.mark.parametrize("command", ["search", "select", "calibrate", "report", "status", "audit"])
def test_help_names_the_variable_and_not_its_value(
    command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The value may be a secret."""
    monkeypatch.setenv(STORAGE, SECRET)
    monkeypatch.setenv("COLUMNS", "200")
    shown = run(command, "--help")
    assert "--storage" in shown
    assert "hunter2" not in shown
    assert "127.0.0.1" not in shown


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["search", "--model", "tiny-flux", "--storage", "mysql://me:hunter2@h/d"], "a mysql:// U"),
        (["select", "--model", "tiny-flux", "--storage", "postgresql://me:hunter2@h"], "database"),
        (["report", "tiny-flux", "--storage", "postgresql://me:***@h/d"], "stands for one in out"),
        (["status", "--storage", SECRET], "does not answer"),
        (["select", "--model", "tiny-flux", "--no-verify", "--storage", SECRET], "does not answer"),
        (["report", "tiny-flux", "--storage", SECRET], "does not answer"),
        (["status", "tiny-flux", SECRET], "me:***@127.0.0.1"),
        (["status", f"--storge={SECRET}"], "No such option"),
    ],
)
def test_a_mistake_shows_no_password(
    words: list[str],
    shown: str,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Whatever is wrong, the message says it without the password."""
    printed = fail(words, monkeypatch, capfd)
    assert shown in " ".join(printed.split())
    assert "hunter2" not in printed
    assert "Traceback" not in printed


def test_the_command_that_goes_on_hides_the_password() -> None:
    """A word that is such a URL, or holds one, is shown with *** in its place."""
    words = ["sensitivity", "search", "--storage", SECRET, f"--storage={SECRET}"]
    command = same_command(words, {})
    assert "hunter2" not in command
    assert command.count("me:***@127.0.0.1:1/studies") == 2


def test_what_an_option_names() -> None:
    """A path, a URL, or nothing."""
    assert named_storage(None) is None
    assert named_storage("a.db") == Path("a.db")
    assert str(named_storage(SECRET)) == "postgresql+psycopg://me:***@127.0.0.1:1/studies"
