"""What all records of a report share: they are frozen, and refuse what they do not know."""

from pydantic import BaseModel, ConfigDict

Interval = tuple[float, float]


class Part(BaseModel):
    """A frozen record."""

    model_config = ConfigDict(frozen=True, extra="forbid")
