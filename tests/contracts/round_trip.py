"""Does a record survive being written as JSON and read again, with every field set?

A round trip of a record whose fields have their defaults proves little: a field that is never
written comes back as its default, and the two are equal. So a test first shows that no field has
its default, and then makes the round trip.

    assert_all_fields_set(recipe, only_value={"Recipe.schema_version"})
    assert_round_trip(recipe, lambda recipe: recipe.model_dump_json(), Recipe.model_validate_json)

A record is a pydantic model, a dataclass or a NamedTuple; records inside of records, sequences and
mappings are checked as well.
"""

import dataclasses
import json
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

Record = TypeVar("Record")
_REQUIRED = object()


def assert_all_fields_set(record: object, *, only_value: Collection[str] = ()) -> None:
    """Fail if a field of `record`, or of a record in it, has its default or holds nothing.

    Args:
        record: a pydantic model, a dataclass or a NamedTuple.
        only_value: "Class.field" of fields whose default is the only value that they can have.
    """
    unset = list(_unset(record, type(record).__name__, frozenset(only_value)))
    assert not unset, f"fields that a round trip would not show: {', '.join(unset)}"


def assert_round_trip(
    record: Record, to_json: Callable[[Record], Any], from_json: Callable[[Any], Record]
) -> None:
    """Fail unless `from_json` gives back what `to_json` wrote: equal, and of the same types.

    `to_json` gives a JSON text (str or bytes), or a value that passes through a JSON text here.
    """
    written = to_json(record)
    is_text = isinstance(written, str | bytes)
    read = from_json(written if is_text else json.loads(json.dumps(written, allow_nan=False)))
    assert read == record
    assert _types(read) == _types(record), "equal, but of other types"
    assert to_json(read) == written, "written a second time, the JSON differs"


def _unset(value: object, path: str, only_value: frozenset[str]) -> Iterator[str]:
    """The paths of fields that have their default, are None or are empty."""
    for name, default in _fields(value):
        if f"{type(value).__name__}.{name}" in only_value:
            continue
        held = getattr(value, name)
        empty = held is None or (isinstance(held, str | bytes | Collection) and len(held) == 0)
        if empty or (default is not _REQUIRED and held == default):
            yield f"{path}.{name} = {held!r}"
        else:
            yield from _unset(held, f"{path}.{name}", only_value)
    if not _is_record(value):
        for key, item in _items(value):
            yield from _unset(item, f"{path}[{key!r}]", only_value)


def _fields(value: object) -> Iterator[tuple[str, object]]:
    """(name, default) of each field of a record; `_REQUIRED` where there is no default."""
    if isinstance(value, BaseModel):
        for name, field in type(value).model_fields.items():
            default = field.get_default(call_default_factory=True, validated_data={})
            yield name, _REQUIRED if default is PydanticUndefined else default
    elif _is_namedtuple(value):
        for name in value._fields:
            yield name, value._field_defaults.get(name, _REQUIRED)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for own in dataclasses.fields(value):
            if own.init and own.default_factory is not dataclasses.MISSING:
                yield own.name, own.default_factory()
            elif own.init:
                yield own.name, _REQUIRED if own.default is dataclasses.MISSING else own.default


def _items(value: object) -> Iterator[tuple[object, object]]:
    """(key, item) of a mapping, (index, item) of a sequence; nothing of a text or a number."""
    if isinstance(value, Mapping):
        yield from value.items()
    elif isinstance(value, Collection) and not isinstance(value, str | bytes):
        yield from enumerate(value)


def _types(value: object) -> Any:
    """The types of a value and of all that it holds. Mappings of any class are alike."""
    if _is_record(value):
        return type(value), {name: _types(getattr(value, name)) for name, _ in _fields(value)}
    if isinstance(value, Mapping):
        return Mapping, {key: _types(item) for key, item in value.items()}
    if isinstance(value, frozenset | set):
        return type(value), frozenset(map(type, value))
    return type(value), [_types(item) for _, item in _items(value)]


def _is_record(value: object) -> bool:
    is_dataclass = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return isinstance(value, BaseModel) or is_dataclass or _is_namedtuple(value)


def _is_namedtuple(value: Any) -> bool:
    return isinstance(value, tuple) and hasattr(value, "_field_defaults")
