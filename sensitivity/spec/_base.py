"""What do all sections of a study TOML share? The base class, and the words for a wrong key."""

from pydantic import BaseModel, ConfigDict, ValidationError


class Section(BaseModel):
    """A frozen part of a study.

    Unknown keys are refused, since a misspelt key would silently change the study. NaN and inf are
    refused as well.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )


def wrong_keys(error: ValidationError, whole: str) -> str:
    """The first five keys that were refused, each with the reason: "model.hub: Field required".

    `whole` is what the record is called where a rule between its keys is broken.
    """
    found = error.errors(include_url=False)[:5]
    return "; ".join(
        f"{'.'.join(map(str, item['loc'])) or whole}: {item['msg'].removeprefix('Value error, ')}"
        for item in found
    )
