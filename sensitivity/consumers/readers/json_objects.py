"""The JSON object of a list in JSON, and its parts where it has one for each component.

value = parse_object(text, expected='an object such as {"quant_algo": "NVFP4"}')
    split_components(value, ("quant_algo",))      # {component: part}, or {"": value}
"""

from collections.abc import Collection, Mapping
from typing import Any

from sensitivity.core.json_files import parse_json
from sensitivity.errors import PatternError

MAX_TEXT = 2**24
"""The most characters of a text. The longest one that our exporters write has under a million."""


def parse_object(text: str, expected: str) -> dict[str, Any]:
    """The JSON object that a text holds; it is not empty.

    Args:
        text: the JSON; a byte order mark in front is ignored.
        expected: what the reader expects, for the message.

    Raises:
        PatternError: the text is no strict JSON, or holds something else than an object with keys.
    """
    if len(text) > MAX_TEXT:
        raise PatternError(
            f"found a text of {len(text)} characters; expected {expected}, in at most {MAX_TEXT};"
            " save the list alone"
        )
    try:
        # A lone surrogate cannot be encoded strictly. `parse_json` refuses it with its position.
        value = parse_json(text.removeprefix("\ufeff").strip().encode(errors="surrogatepass"))
    except ValueError as error:
        raise PatternError(f"{error}; this form is {expected}") from None
    if not isinstance(value, dict) or not value:
        found = "an empty object" if value == {} else f"a {type(value).__name__}"
        raise PatternError(
            f"found {found}; expected {expected}; name another file, or another form"
        )
    return value


def object_or_empty(text: str) -> dict[str, Any]:
    """The JSON object that a text holds; {} for any other text."""
    if text.removeprefix("\ufeff").lstrip()[:1] != "{":
        return {}
    try:
        return parse_object(text, "an object")
    except PatternError:
        return {}


def split_components(
    value: Mapping[str, Any], keys: Collection[str]
) -> dict[str, Mapping[str, Any]]:
    """{component: its part} of a list that has one part for each component.

    A value with one of `keys` is the part of every component itself: {"": value}. Items that are no
    objects are left out.
    """
    if any(key in value for key in keys):
        return {"": value}
    return {name: part for name, part in value.items() if isinstance(part, dict)}
