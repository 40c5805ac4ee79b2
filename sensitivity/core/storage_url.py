"""Where does a study's database lie: in a file, or on a server? `parse_storage`.

    parse_storage("runs/flux.db")                               # Path("runs/flux.db")
    parse_storage("sqlite:///runs/flux.db")                     # Path("runs/flux.db")
    url = parse_storage("postgresql://me:secret@host/studies")  # a StorageUrl
    str(url)                                    # "postgresql+psycopg://me:***@host/studies"
    url.secret                                  # "postgresql+psycopg://me:secret@host/studies"

Conventions. A `Storage` is a path, or the URL of a PostgreSQL database. The password of a URL is in
`secret` and `url` alone: not in `str`, `repr`, a format or JSON made of them, and not in a pickle.
A URL that comes out of a pickle has none, as one whose password libpq finds in PGPASSWORD or in
~/.pgpass. Parameters of the connection (`?sslmode=require`) are shown where they are no secrets.

A text that may hold such a URL is shown through `hide_passwords`: a command line, an error of
another library.

What this module does not do: connect, or look whether a file is there.
"""

import importlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Self
from urllib.parse import parse_qsl, quote, unquote

from sensitivity.core.file_names import url_scheme
from sensitivity.core.words import first_line, printable
from sensitivity.errors import UserError

if TYPE_CHECKING:
    from sqlalchemy import URL

DRIVER = "postgresql+psycopg"
SHOWN = "***"
"""In place of a password."""
EXAMPLE = "postgresql://USER@HOST:5432/DATABASE"
_SERVERS = ("postgresql", "postgres", DRIVER)
_PARTS = re.compile(
    r"(?:(?P<user>[^:/?#@]*)(?::(?P<password>[^/?#@]*))?@)?"
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.%]+)\]|(?P<host>[^:/?#@,\[\]]*))(?::(?P<port>[0-9]{0,5}))?"
    r"(?:/(?P<database>[^/?#@]*))?(?:\?(?P<query>[^?#]*))?"
)
_IN_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:/{1,2}[^:/?#@\s]*:)\S*@")
_IN_QUERY = re.compile(r"([?&][A-Za-z_]*(?:password|secret|key|token)=)[^&\s]*")
_PUBLIC = (
    "application_name",
    "connect_timeout",
    "gssencmode",
    "host",
    "hostaddr",
    "port",
    "sslmode",
    "target_session_attrs",
)
"""Parameters whose values are shown."""


class StorageUrl:
    """The URL of a PostgreSQL database. It does not change; make it with `parse`."""

    __slots__ = ("_url",)
    _url: "URL"

    def __init__(self, url: "URL") -> None:
        object.__setattr__(self, "_url", url)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The URL that a text is.

        Raises UserError where it is none of a PostgreSQL database; the message shows no more of
        the text than its scheme.
        """
        from sqlalchemy import URL  # a second of imports, which a path does not need

        scheme = (url_scheme(text) or "").lower()
        if scheme not in _SERVERS:
            _refuse(f"a {scheme[:40]}:// URL" if scheme else "no URL")
        beginning, _, rest = text.strip().partition("://")
        found = _PARTS.fullmatch(rest)
        if found is None or beginning.lower() != scheme:
            _refuse(
                f"a {scheme}:// URL that cannot be read",
                "; write the signs : / ? # @ % of a name or password as %3A %2F %3F %23 %40 %25",
            )
        parts = found.groupdict()
        query: dict[str, str | tuple[str, ...]] = {}
        for key, value in parse_qsl(parts["query"] or "", keep_blank_values=True):
            known = query.get(key, ())
            query[key] = (*((known,) if isinstance(known, str) else known), value)
        if "password" in query:
            _refuse(
                f"a {scheme}:// URL with a password in its parameters", ", or set PGPASSWORD to it"
            )
        if parts["password"] == SHOWN:
            _refuse(f"a {scheme}:// URL whose password is {SHOWN}, which stands for one in output")
        if not parts["database"]:
            _refuse(f"a {scheme}:// URL that names no database")
        return cls(
            URL.create(
                DRIVER,
                username=_decoded(parts["user"]),
                password=_decoded(parts["password"]),
                host=parts["ipv6"] or _decoded(parts["host"]),
                port=int(parts["port"]) if parts["port"] else None,
                database=_decoded(parts["database"]),
                query={k: v[0] if len(v) == 1 else v for k, v in query.items()},
            )
        )

    @property
    def url(self) -> "URL":
        """SQLAlchemy's, with the password."""
        return self._url

    @property
    def without_secrets(self) -> "URL":
        """SQLAlchemy's, without the password and without the parameters that are not shown."""
        secret = [key for key in self._url.query if key not in _PUBLIC]
        return self._url._replace(password=None).difference_update_query(secret)

    @property
    def secret(self) -> str:
        """The whole text, with the password."""
        return self._written(self._url.password, self._url.query)

    @property
    def database_name(self) -> str:
        """The name of the database on its server."""
        return self._url.database or ""

    def hide(self, text: str) -> str:
        """A text without this URL's password and without the parameters that are not shown."""
        values = [self._url.password or ""]
        for key, value in self._url.query.items():
            if key not in _PUBLIC:
                values += [value] if isinstance(value, str) else value
        for value in sorted(filter(None, values), key=len, reverse=True):
            for written in (value, quote(value, safe=""), quote(value)):
                text = text.replace(written, SHOWN)
        return text

    def __str__(self) -> str:
        query = {k: v if k in _PUBLIC else SHOWN for k, v in self._url.query.items()}
        return self._written(self._url.password and SHOWN, query)

    def _written(self, password: str | None, query: Mapping[str, str | Sequence[str]]) -> str:
        """As a text that `parse` reads, where it hides nothing. SQLAlchemy's own does not quote."""
        url = self._url
        user = "" if url.username is None else quote(url.username, safe="")
        user += "" if password is None else f":{_quoted(password)}"
        host = f"[{url.host}]" if ":" in (url.host or "") else url.host or ""
        port = "" if url.port is None else f":{url.port}"
        pairs = [
            f"{quote(key, safe='')}={_quoted(value)}"
            for key, own in sorted(query.items())
            for value in ([own] if isinstance(own, str) else own)
        ]
        return (
            f"{DRIVER}://{user}{'@' if user else ''}{host}{port}/{_quoted(self.database_name)}"
            f"{'?' if pairs else ''}{'&'.join(pairs)}"
        )

    def __repr__(self) -> str:
        return f"StorageUrl({str(self)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StorageUrl) and self._url == other._url

    def __hash__(self) -> int:
        return hash(self._url)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise AttributeError(f"a StorageUrl does not change: {name} cannot be set")

    __delattr__ = __setattr__  # type: ignore[assignment]

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.without_secrets,)


Storage = Path | StorageUrl
"""A file, or a database on a server."""


def parse_storage(text: str | Path | StorageUrl) -> Storage:
    """Where a database lies: the path of a file, or the URL of a PostgreSQL database.

    Raises UserError for a URL of another kind, for one that cannot be read, and where the package
    that speaks to PostgreSQL cannot be imported.
    """
    if isinstance(text, StorageUrl):
        return text
    scheme = url_scheme(text)
    if scheme is None:
        return Path(text)
    if isinstance(text, Path):
        _refuse(f"a {scheme}:// URL in a Path, which changes it", ", as a text")
    if scheme.lower().startswith("sqlite"):
        return _sqlite_path(text.strip())
    url = StorageUrl.parse(text)
    try:
        importlib.import_module("psycopg")
    except ImportError as error:  # psycopg alone, without its binary, looks for libpq
        why = first_line(error, most=200)
        raise UserError(
            "`storage` is on a PostgreSQL server, and the package psycopg cannot be imported"
            f" ({printable(why)}); expected it: run `pip install 'psycopg[binary]'`"
        ) from None
    return url


def is_missing(storage: Storage) -> bool:
    """Whether a database is a file that is not there. Of a server only a connection tells."""
    return isinstance(storage, Path) and not storage.is_file()


def hide_passwords(text: str) -> str:
    """A text without the passwords of URLs in it, whatever they are of and however written."""
    return _IN_QUERY.sub(rf"\1{SHOWN}", _IN_URL.sub(rf"\1{SHOWN}@", text))


def _sqlite_path(text: str) -> Path:
    found = re.fullmatch(r"sqlite(?:\+pysqlite)?:///([^?#]+)", text)
    if found is None or found[1] == ":memory:":
        raise UserError(
            "`storage` is an sqlite:// URL that names no file; expected the path of a file, such as"
            " sensitivity-runs/my-study.db: name one, or write sqlite:///PATH"
        )
    return Path(found[1])


def _quoted(text: str) -> str:
    return text if text == SHOWN else quote(text, safe="")


def _decoded(text: str | None) -> str | None:
    return unquote(text) if text else None


def _refuse(what: str, more: str = "") -> NoReturn:
    """Raise UserError: a URL is not shown, since it may hold a password."""
    raise UserError(
        f"`storage` is {what}; expected the path of an SQLite file, such as"
        f" sensitivity-runs/my-study.db, or {EXAMPLE}: name one{more}"
    )
