"""How is a record shown at a Python prompt? In one short line, however much it holds.

    class Section(BaseModel):
        def __repr_args__(self): return short_args(super().__repr_args__())

    @dataclass(frozen=True, repr=False)
    class Score(ShortRepr): ...

    Score(net="tiny", per_prompt=(0.1, 0.2, ...))     # Score(net='tiny', per_prompt=<24 values>)

Long texts are cut, collections are counted, and records inside of a record are named alone. A repr
is for people: nothing is read back from it. Tables are in `core.record_tables`.
"""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Set
from enum import Enum
from os import PathLike
from typing import Any

from sensitivity.core.words import printable

MOST_CHARACTERS = 60
"""Of a text in a repr."""
MOST_VALUES = 3
"""Values of a collection that are shown; longer ones are counted."""
PLAIN = (str, int, float, bool, type(None), Enum, PathLike)


class Shown:
    """A text that is its own repr."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text


class ShortRepr:
    """A dataclass with a short repr; it is declared with `repr=False`.

    `_changes_only` is set by records that show only the fields without their default.
    """

    __slots__ = ()
    _changes_only = False

    def __repr__(self) -> str:
        fields = short_args(self._shown_fields())
        return f"{type(self).__name__}({', '.join(f'{k}={v!r}' for k, v in fields)})"

    def _shown_fields(self) -> Iterator[tuple[str, Any]]:
        record: Any = self
        for field in dataclasses.fields(record):
            value = getattr(self, field.name)
            if field.repr and not (self._changes_only and value == _default_of(field)):
                yield field.name, value


def _default_of(field: "dataclasses.Field[Any]") -> Any:
    """The default of a dataclass's field; MISSING for none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def short_args(pairs: Iterable[tuple[str | None, Any]]) -> Iterator[tuple[str | None, Any]]:
    """The fields of a repr, each with a short value. Fields that hold nothing are left out."""
    for name, value in pairs:
        if value is not None and not (isinstance(value, tuple | Mapping) and not value):
            yield name, short_value(value)


def short_value(value: Any) -> Any:
    """A value whose repr is short and printable."""
    if isinstance(value, Enum):
        return Shown(repr(value.value))
    if isinstance(value, str):
        cut = value if len(value) <= MOST_CHARACTERS else f"{value[: MOST_CHARACTERS - 3]}..."
        return printable(cut)
    if isinstance(value, PathLike):
        return Shown(repr(short_value(str(value))))
    if isinstance(value, float):
        return Shown(f"{value:.6g}")
    if isinstance(value, PLAIN):
        return value
    if isinstance(value, tuple | list | Mapping | Set):
        items = value.values() if isinstance(value, Mapping) else value
        if len(value) > MOST_VALUES or not all(isinstance(item, PLAIN) for item in items):
            return Shown(f"<{len(value)} value{'' if len(value) == 1 else 's'}>")
        if isinstance(value, Mapping):
            return {short_value(key): short_value(item) for key, item in value.items()}
        return tuple(map(short_value, value))
    return Shown(f"{type(value).__name__}(...)")
