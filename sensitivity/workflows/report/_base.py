"""What all records of a report share: they are frozen, and refuse what they do not know."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict

from sensitivity.core.short_reprs import short_args

Interval = tuple[float, float]


class Part(BaseModel):
    """A frozen record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """The fields of the repr, each with a short value."""
        return short_args(super().__repr_args__())
