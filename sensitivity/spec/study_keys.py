"""Which keys has a study, where does each value come from, and how is one of them set?

    with_keys(spec, {"search.chunk": 4})                # the same study with another chunk
    for entry in effective_keys(spec): ...              # "search.chunk", 4, "the study"

A key is written as in a TOML, with the name of its section: `search.chunk`, `pricing.target`,
`settings.height`. Prompts and skip-lists are keys like all others.

What this module does not do: say what the pipeline does where a study says nothing. An argument
that `settings` does not have gets the default of the pipeline's call.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from sensitivity.core.words import did_you_mean
from sensitivity.errors import UserError
from sensitivity.spec._base import wrong_keys
from sensitivity.spec.study_spec import StudySpec

SECTIONS = ("model", "settings", "prompts", "fidelity", "search", "pricing", "rule_of_thumb")


@dataclass(frozen=True, kw_only=True, slots=True)
class KeyValue:
    """One key of a study.

    Attributes:
        key: with the name of its section.
        value: as it is in JSON.
        origin: where it comes from: "the study", "derived", "default", or "set".
    """

    key: str
    value: Any
    origin: str


def with_keys(spec: StudySpec, values: Mapping[str, Any]) -> StudySpec:
    """The study with other values of some keys.

    Args:
        spec: the study.
        values: {key with its section: value}, values as a TOML or JSON has them.

    Raises:
        UserError: there is no such key, or it cannot have such a value.
    """
    if not values:
        return spec
    changed: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.partition(".")
        _check_key(spec, section, name)
        part = getattr(spec, section)
        data = changed.setdefault(section, _stated(part))
        data[name] = value
    fields = {name: getattr(spec, name) for name in StudySpec.model_fields}
    try:
        for section, data in changed.items():
            kind = type(fields[section])
            fields[section] = kind.model_validate(data) if issubclass(kind, BaseModel) else data
        found = StudySpec.model_validate(fields)
    except ValidationError as error:
        keys = ", ".join(values)
        raise UserError(
            f"`settings` sets {keys}: {wrong_keys(error, 'study')}; expected what a study TOML may"
            " have there: correct it"
        ) from None
    found._bare = spec.bare
    return found


def effective_keys(
    spec: StudySpec, *, derived: bool = False, set_keys: Collection[str] = ()
) -> tuple[KeyValue, ...]:
    """All keys of a study with their values, section by section.

    Args:
        spec: the study, complete.
        derived: whether it was derived from the model's config files.
        set_keys: keys that the user set besides.
    """
    stated = "derived" if derived else "the study"
    found = []
    for section in SECTIONS:
        part = getattr(spec, section)
        given = part.model_fields_set if isinstance(part, BaseModel) else set(part)
        for name, value in _values(part).items():
            key = f"{section}.{name}"
            origin = "set" if key in set_keys else stated if name in given else "default"
            found.append(KeyValue(key=key, value=value, origin=origin))
    return tuple(found)


def _stated(part: Any) -> dict[str, Any]:
    """What a section says itself; its other keys have their defaults."""
    return part.model_dump(exclude_unset=True) if isinstance(part, BaseModel) else dict(part)


def _values(part: Any) -> dict[str, Any]:
    """All keys of a section, as in JSON."""
    return part.model_dump(mode="json") if isinstance(part, BaseModel) else dict(part)


def _check_key(spec: StudySpec, section: str, name: str) -> None:
    """Raise UserError unless a study has such a section and key; `settings` may have any."""
    if section not in SECTIONS:
        hint = did_you_mean(section, SECTIONS, otherwise="correct it")
        raise UserError(
            f"`settings` sets {section}.{name}; expected a section of a study, one of"
            f" {', '.join(SECTIONS)}: {hint}"
        )
    part = getattr(spec, section)
    if isinstance(part, BaseModel) and name not in (keys := list(type(part).model_fields)):
        hint = did_you_mean(name, keys, otherwise="correct it")
        raise UserError(
            f"`settings` sets {section}.{name}; expected one of {', '.join(keys)}: {hint}"
        )
