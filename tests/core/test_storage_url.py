"""A database is a path or a PostgreSQL URL, and a password is shown nowhere."""

import copy
import json
import pickle
import pprint
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import URL

from sensitivity.core.storage_url import StorageUrl, hide_passwords, is_missing, parse_storage
from sensitivity.errors import UserError
from sensitivity.workflows.requests import SearchRequest

PASSWORD = "p@ss:/?#%41&hunter2"
WRITTEN = "p%40ss%3A%2F%3F%23%2541%26hunter2"
SECRET = f"postgresql://me:{WRITTEN}@db.example:5433/studies"


@pytest.mark.parametrize(
    ("text", "shown", "name"),
    [
        (SECRET, "postgresql+psycopg://me:***@db.example:5433/studies", "studies"),
        ("postgres://me@[::1]/d", "postgresql+psycopg://me@[::1]/d", "d"),
        (" postgresql+psycopg://h/a%20b ", "postgresql+psycopg://h/a%20b", "a b"),
        (
            "postgresql:///d?host=%2Frun&sslmode=require",
            "postgresql+psycopg:///d?host=%2Frun&sslmode=require",
            "d",
        ),
        (
            "postgresql://h/d?sslpassword=hunter2&options=-c%20a%3Dhunter2",
            "postgresql+psycopg://h/d?options=***&sslpassword=***",
            "d",
        ),
    ],
)
def test_a_url_is_shown_without_its_secrets(text: str, shown: str, name: str) -> None:
    """Driver, user, host and database are shown; the password and unknown parameters are not."""
    url = parse_storage(text)
    assert isinstance(url, StorageUrl)
    assert str(url) == shown
    assert url.database_name == name
    assert parse_storage(url.secret) == url
    assert parse_storage(url) is url


def test_no_way_of_showing_a_url_shows_its_password() -> None:
    """Texts, JSON, pickles, copies and the records that hold a URL have no password."""
    url = parse_storage(SECRET)
    assert isinstance(url, StorageUrl)
    assert url.url.password == PASSWORD
    request = SearchRequest(storage=url)
    shown = [
        *(str(url), repr(url), f"{url}", f"{url!r:>99}", pprint.pformat([url])),
        json.dumps({"storage": url}, default=str),
        *(repr(request), pprint.pformat(asdict(request)), json.dumps(asdict(request), default=str)),
        url.without_secrets.render_as_string(hide_password=False),
        pickle.dumps(url, protocol=0).decode("latin-1"),
        pickle.dumps(request).decode("latin-1"),
        url.hide(f"could not connect to {SECRET}, {PASSWORD}"),
    ]
    assert not [text for text in shown if "hunter2" in text]
    assert copy.deepcopy(request).storage == url
    kept = pickle.loads(pickle.dumps(url))
    assert str(kept) == "postgresql+psycopg://me@db.example:5433/studies"
    with pytest.raises(AttributeError, match="does not change"):
        url._url = kept.url


@given(st.text(min_size=1), st.text(min_size=1).filter(lambda name: name != "***"))
def test_any_user_and_password_can_be_written(user: str, password: str) -> None:
    """Whatever they are, a URL that SQLAlchemy writes is read as it was meant."""
    try:
        made = URL.create("postgresql+psycopg", user, password, "host", 1, "d")
        text = made.render_as_string(hide_password=False)
    except UnicodeEncodeError:
        return
    url = StorageUrl.parse(text)
    assert (url.url.username, url.url.password) == (user, password)
    assert url.url.host == "host"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("mysql://me:hunter2@host/db", r"a mysql:// URL; .*SQLite file.*postgresql://USER"),
        ("postgresql+psycopg2://me:hunter2@host/db", r"a postgresql\+psycopg2:// URL"),
        ("postgresql://me:hunt@er2@host/db", "cannot be read.*%40"),
        ("postgresql://me:hunter2/@host/db", "cannot be read.*%2F"),
        ("postgresql://me:hunter2@host:port/db", "cannot be read"),
        ("postgresql:/me:hunter2@host/db", "cannot be read"),
        ("postgresql://me:hunter2@one,two/db", "cannot be read"),
        ("postgresql://me:hunter2@host", "names no database"),
        ("postgresql://me@host/db?password=hunter2", "password in its parameters.*PGPASSWORD"),
        ("postgresql://me:***@host/db", r"password is \*\*\*"),
        (Path("postgresql://me:hunter2@host/db"), "in a Path.*as a text"),
        ("sqlite://", "names no file"),
        ("sqlite:///:memory:", "names no file"),
        ("sqlite:///a.db?mode=ro", "names no file"),
    ],
)
def test_other_urls_are_refused_in_words(text: str | Path, words: str) -> None:
    """The message says what is expected, and shows nothing but the scheme."""
    with pytest.raises(UserError, match=words) as raised:
        parse_storage(text)
    assert "hunt" not in str(raised.value)
    assert "host/" not in str(raised.value)


def test_paths_stay_paths() -> None:
    """A path, and SQLite's URL of one, is that path."""
    assert parse_storage("a/b.db") == Path("a/b.db")
    assert parse_storage(Path("a b")) == Path("a b")
    assert parse_storage("sqlite:///a/b.db") == Path("a/b.db")
    assert parse_storage("sqlite:////a/b.db") == Path("/a/b.db")


def test_a_missing_file_is_seen_and_a_server_is_not_asked(tmp_path: Path) -> None:
    """Of a server only a connection tells."""
    assert is_missing(tmp_path / "study.db")
    (tmp_path / "study.db").touch()
    assert not is_missing(tmp_path / "study.db")
    assert not is_missing(parse_storage(SECRET))


def test_without_psycopg_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next step is what to install: not what has this package's name on PyPI."""
    monkeypatch.setitem(sys.modules, "psycopg", None)  # its import fails
    with pytest.raises(UserError, match=r"psycopg cannot be imported .*'psycopg\[binary\]'"):
        parse_storage(SECRET)


@pytest.mark.parametrize(
    "text",
    [
        f"search --storage {SECRET} --seed 1",
        f"--storage={SECRET}",
        "FATAL: mysql://me:hunter2@host and redis://:hunter2@host",
        "postgresql:/me:hunter2@host/db",
        "postgresql://me:hunter2@x@host/db",
        "postgresql://host/db?sslpassword=hunter2&a=1",
    ],
)
def test_any_text_can_be_shown_without_passwords(text: str) -> None:
    """A URL in it, however broken, loses its password and keeps its host."""
    hidden = hide_passwords(text)
    assert "hunter2" not in hidden
    assert "***" in hidden
    assert "host" in hidden or "db.example" in hidden


def test_other_texts_stay() -> None:
    """Text without a password is not changed."""
    for text in ("a@b.c", "https://host/path?x=1@2", "12:30 @home", "postgresql://me@host/db"):
        assert hide_passwords(text) == text
