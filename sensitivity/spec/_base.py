"""What do all sections of a study TOML share? The base class, kinds of numbers, and the words for
a wrong key."""

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sensitivity.core.file_names import MAX_SLUG
from sensitivity.core.short_reprs import short_args

MOST = 2**16
"""The largest number of things of one kind."""
Seed = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
"""A seed that torch takes. Here and below, true and false are no numbers, and texts neither."""
Count = Annotated[int, Field(strict=True, ge=1, le=MOST)]
"""A number of pictures, tokens, frames or parts."""
Width = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
"""A dimension of a Linear; 0 bounds none."""
Number = Annotated[float, Field(strict=True, ge=0, le=MOST, allow_inf_nan=False)]
"""A number from 0 on."""
Flag = Annotated[bool, Field(strict=True)]
"""true or false, and no number."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=MAX_SLUG + 20)]
"""A name that becomes part of file names: a slug of `core.file_names`."""


class Section(BaseModel):
    """A frozen part of a study.

    Unknown keys are refused, since a misspelt key would silently change the study. NaN and inf are
    refused as well.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """The fields of the repr, each with a short value."""
        return short_args(super().__repr_args__())


def wrong_keys(error: ValidationError, whole: str) -> str:
    """The first five keys that were refused, each with the reason: "model.hub: Field required".

    `whole` is what the record is called where a rule between its keys is broken.
    """
    found = error.errors(include_url=False)[:5]
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or whole}: {item['msg'].removeprefix('Value error, ')}"
        for item in found
    )
