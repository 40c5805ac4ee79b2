"""How does a request that is made in Python get the types that it declares? `coerce_fields`.

    @dataclass(frozen=True, kw_only=True)
    class Request:
        formats: tuple[FormatName, ...] = (FormatName.NVFP4,)
        storage: Storage | None = None

        def __post_init__(self) -> None:
            coerce_fields(self)

    Request(formats=["nvfp4"], storage="a.db")      # (FormatName.NVFP4,), Path("a.db")
    Request(storage="postgresql://me@host/db")      # a StorageUrl
    Request(formats=["nvpf4"])                      # UserError: `formats` ... expected 'bf16', ...
    Request(storage="mysql://me:secret@host/db")    # UserError: `storage` is a mysql:// URL ...

A caller writes what a file or the command line would hold: the text of an enum, a list for a tuple,
a text for a path. Inside, formats are compared by identity, so a text that passed as it is would
give another result and no error. A value of no such type is a UserError. A bool is no number, and
a URL is no path.

Method. pydantic converts each field that is made of plain types. Fields of other classes stay as
they are, but for those of a `Storage`, which is a path or a server's URL (`core.storage_url`). What
is checked beyond types is the record's own affair.
"""

import dataclasses
import os
import typing
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError

from sensitivity.core.file_names import url_scheme
from sensitivity.core.storage_url import StorageUrl, parse_storage
from sensitivity.core.words import printable
from sensitivity.errors import UserError

_MOST_SHOWN = 80  # characters of a value in a message


def coerce_fields(record: Any) -> None:
    """Give the fields of a frozen dataclass the types that they declare, in `__post_init__`.

    Raises:
        UserError: a value cannot be of its field's type; the message names the field.
    """
    kind: Any = type(record)
    for name in _storages(kind):
        value = getattr(record, name)
        if isinstance(value, str | os.PathLike):
            object.__setattr__(
                record, name, parse_storage(value if isinstance(value, Path) else os.fspath(value))
            )
        elif value is not None and not isinstance(value, StorageUrl):
            shown = printable(repr(value))[:_MOST_SHOWN]
            raise UserError(f"`{name}` is {shown}; expected a path or a URL: correct it")
    for name, (adapter, takes_bool) in _adapters(kind).items():
        value = getattr(record, name)
        if isinstance(value, bool) and not takes_bool:
            raise UserError(f"`{name}` is {value}; expected another type than a bool: correct it")
        if hasattr(value, "__index__") and not isinstance(value, int):
            value = int(value)  # numpy's integers
        try:
            typed = adapter.validate_python(value)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            is_path = first["type"] == "path_type"
            expected = "a path" if is_path else first["msg"].removeprefix("Input should be ")
            shown = printable(repr(value))[:_MOST_SHOWN]
            raise UserError(f"`{name}` is {shown}; expected {expected}: correct it") from None
        _refuse_urls(name, typed)
        object.__setattr__(record, name, typed)


def _refuse_urls(name: str, value: Any) -> None:
    """Raise UserError for a path, or one of several, that is a URL; no password is shown."""
    for item in value if isinstance(value, tuple) else (value,):
        scheme = url_scheme(item) if isinstance(item, Path) else None
        if scheme is not None:
            raise UserError(
                f"`{name}` is a {scheme}:// URL; expected a path on this machine: name a file or"
                " folder here"
            )


@cache
def _adapters(kind: type[Any]) -> dict[str, tuple[TypeAdapter[Any], bool]]:
    """{field: (what converts it, whether it may be a bool)} of the fields of plain types."""
    hints = typing.get_type_hints(kind)
    found = {}
    for field in dataclasses.fields(kind):
        parts = set(_parts(hints[field.name]))
        if StorageUrl in parts:
            continue
        if any(dataclasses.is_dataclass(part) for part in parts):
            continue
        try:
            found[field.name] = TypeAdapter[Any](hints[field.name]), bool in parts or Any in parts
        except PydanticSchemaGenerationError:
            continue
    return found


@cache
def _storages(kind: type[Any]) -> tuple[str, ...]:
    """The fields that say where a database lies."""
    hints = typing.get_type_hints(kind)
    return tuple(
        field.name
        for field in dataclasses.fields(kind)
        if StorageUrl in set(_parts(hints[field.name]))
    )


def _parts(hint: Any) -> Iterator[Any]:
    """A type, and the types that it is made of."""
    yield hint
    for part in typing.get_args(hint):
        if not isinstance(part, str):
            yield from _parts(part)
