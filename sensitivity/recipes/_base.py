"""What do all records of a recipe have in common? Their base, their numbers, and three rules."""

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

from sensitivity.core.short_reprs import short_args

Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**64)]


class Record(BaseModel):
    """A frozen record whose unknown fields survive a round trip."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    later_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that came with a later version of the file. They are not written where they have their
    default, so that files of earlier versions are written back as they were.
    """

    @model_serializer(mode="wrap")
    def _as_written(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return self.without_unset(handler(self))

    def without_unset(self, data: dict[str, Any]) -> dict[str, Any]:
        """The written fields without those of `later_fields` that have their default."""
        fields = type(self).model_fields
        unset = {name for name in self.later_fields if getattr(self, name) == fields[name].default}
        return {name: value for name, value in data.items() if name not in unset}

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """The fields of the repr, each with a short value."""
        return short_args(super().__repr_args__())


def check_ratio(speedup: float, bf16_s: float, quantized_s: float) -> None:
    ratio = bf16_s / quantized_s
    if not math.isclose(speedup, ratio, rel_tol=1e-6):
        raise ValueError(
            f"found speedup {speedup!r}; expected bf16_s / quantized_s, {ratio!r}: write that"
            " ratio, unrounded"
        )


def check_order(name: str, interval: tuple[float, float] | None) -> None:
    if interval is not None and interval[0] > interval[1]:
        raise ValueError(
            f"found {name} {list(interval)}; expected the lower bound first: swap them"
        )


def check_mean(mean: float, per_prompt: Sequence[float]) -> None:
    average = sum(per_prompt) / max(1, len(per_prompt))
    if not math.isclose(mean, average, rel_tol=1e-4, abs_tol=1e-9):
        raise ValueError(
            f"found mean {mean!r}; expected the average of per_prompt, {average!r}: write that"
        )
