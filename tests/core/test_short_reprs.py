"""Reprs that stay in one line, whatever a record holds."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from sensitivity.core.format_name import FormatName
from sensitivity.core.short_reprs import ShortRepr, short_args, short_value


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Inner(ShortRepr):
    """A record inside of another."""

    name: str = "inner"


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Outer(ShortRepr):
    """A record that shows all of its fields."""

    values: tuple[float, ...] = ()
    inner: Inner = field(default_factory=Inner)
    hidden: int = field(default=1, repr=False)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Request(ShortRepr):
    """A record that shows what is not its default."""

    _changes_only = True

    budget: int = 50
    formats: tuple[FormatName, ...] = (FormatName.NVFP4,)
    bounds: dict[str, float] = field(default_factory=dict)


class Model(BaseModel):
    """The same for a record of pydantic."""

    text: str
    layers: dict[str, str]

    def __repr_args__(self) -> Any:
        """The fields, shortened."""
        return short_args(super().__repr_args__())


def test_collections_are_counted_and_records_named() -> None:
    """A long tuple is its length, and a record inside is its class."""
    assert repr(Outer(values=(0.1,) * 24)) == "Outer(values=<24 values>, inner=Inner(...))"
    assert repr(Outer(values=(0.1, 1 / 3))) == "Outer(values=(0.1, 0.333333), inner=Inner(...))"


def test_a_request_shows_what_was_asked() -> None:
    """Fields that have their default are left out, also where a factory makes it."""
    assert repr(Request()) == "Request()"
    shown = repr(Request(budget=3, formats=(FormatName.FP8,), bounds={"ssim": 0.9}))
    assert shown == "Request(budget=3, formats=('fp8',), bounds={'ssim': 0.9})"


def test_records_of_pydantic_are_short_too() -> None:
    """Long texts are cut in both forms of a record, and nothing breaks the line."""
    model = Model(text="a\nb" * 100, layers={str(i): "bf16" for i in range(88)})
    for shown in (repr(model), str(model)):
        assert "layers=<88 values>" in shown
        assert len(shown) < 120
        assert shown.isprintable()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (FormatName.NVFP4, "'nvfp4'"),
        (Path("a.db"), "'a.db'"),
        (1 / 3, "0.333333"),
        ([Inner()], "<1 value>"),
        (True, "True"),
        (None, "None"),
        ({1, 2, 3, 4}, "<4 values>"),
    ],
)
def test_values_are_shown_as_one_would_write_them(value: object, shown: str) -> None:
    """An enum is its text, and a path too."""
    assert repr(short_value(value)) == shown
