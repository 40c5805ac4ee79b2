"""How is a record of this room read from JSON, and what is said of a malformed one?

pydantic checks types and ranges. `read_record` turns its first complaint into a message with the
value found, what was expected, and the next step.

    table = read_record(TypeAdapter(ShapeTable), data, "shape table")
"""

from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from sensitivity.errors import UserError

Record = TypeVar("Record")

Count = Annotated[int, Field(strict=True, ge=1)]
"""A whole number from 1 up. Strict: JSON's true is not the number 1."""
Amount = Annotated[int, Field(strict=True, ge=0)]
"""A whole number from 0 up, strict as well."""
Flag = Annotated[bool, Field(strict=True)]
"""true or false; the number 1 is neither."""


def read_record(adapter: TypeAdapter[Record], data: object, what: str) -> Record:
    """The record that `data`, parsed JSON, describes.

    Args:
        adapter: of the record's class.
        data: what its `to_json` gave.
        what: the record in words, for messages.

    Raises:
        UserError: a key is missing or unknown, or a value has the wrong type or range.
    """
    try:
        return adapter.validate_python(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise UserError(
            f"malformed {what}: {_complaint(first)}; run `sensitivity profile` and save its JSON"
            " again"
        ) from None


_EXPECTED = {
    "bool_type": "true or false",
    "dataclass_type": "an object",
    "dict_type": "an object",
    "greater_than_equal": "a number from {ge} up",
    "int_type": "a whole number",
    "mapping_type": "an object",
    "model_type": "an object",
    "string_type": "a text",
    "tuple_type": "a list",
}
"""{pydantic's type of an error: what JSON should have held}."""


def _complaint(error: Any) -> str:
    """The value found and what was expected, from one of pydantic's errors."""
    kind, context = error["type"], error.get("ctx", {})
    where = ".".join(map(str, error["loc"]))
    place = f"`{where}`" if where else "it"
    if kind == "missing":
        return f"{place} is missing; expected a value"
    if kind in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{place} is an unknown key; expected no such key"
    if kind == "value_error":
        return f"{place}: {context['error']}" if where else str(context["error"])
    expected = _EXPECTED.get(kind, error["msg"]).format_map(context)
    return f"{place} is {error['input']!r:.80}; expected {expected}"
