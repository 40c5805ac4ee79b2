"""Which column or field of a table holds the prompts? CSV, TSV, JSON and JSON Lines.

    read_delimited("Prompt,Category\\na fox,animals\\n", ",").texts          # ("a fox",)
    read_json_texts('[{"caption": "a fox", "seed": 3}]').field               # "caption"

Method. The prompts are in the column or field whose name is one of `FIELDS`; the first row of
`FIELDS` with a name in the table counts. Names are compared without case, and " " and "-" are "_".
All other columns are left out, and are named in the result. JSON may be a list of texts, a list of
objects, an object of lists ("columns"), an object whose values are the rows, or an object that
holds one of these.

Conventions. A text that is there several times, as in tables with a row for each picture or
question, is taken once. Every error is a ValueError: "found ...; expected ...: next step".

What this module does not do: read files, guess which of these forms a text is in, or split.
"""

import csv
import io
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sensitivity.core.json_files import parse_json
from sensitivity.core.words import and_more, printable

FIELDS = (
    ("prompt", "prompts"),
    ("text_prompt", "prompt_text", "positive_prompt", "prompt_en"),
    ("caption", "captions"),
    ("text",),
)
"""Names of the column or field with the prompts, by precedence."""
DELIMITERS = (",", "\t", ";", "|")
MAX_HEADER = 20_000
"""Characters of a table's first line, at most."""
_MARKDOWN = re.compile(r":?-{3,}:?")  # below the header of a table
_DEPTH = 4  # levels of objects in which prompts are looked for


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptTexts:
    """Prompts as they were read.

    Attributes:
        kind: in which form: "CSV", "text, one prompt a line".
        texts: the prompts, each once.
        field: the column or field; "" where there is none.
        left_out: names of the other columns or fields.
        repeats: how many texts were there already, and were left out.
    """

    kind: str
    texts: tuple[str, ...]
    field: str = ""
    left_out: tuple[str, ...] = ()
    repeats: int = 0


def prompt_field(names: Iterable[str]) -> str | None:
    """The name, as it is written, of the column or field with the prompts; None if there is none.

    Raises:
        ValueError: there are several.
    """
    names = list(names)
    for known in FIELDS:
        found = [name for name in names if normal_name(name) in known]
        if len(found) > 1:
            raise ValueError(
                f"found the columns {_quoted(found)}; expected one with the prompts: rename the"
                " others"
            )
        if found:
            return found[0]
    return None


def normal_name(name: str) -> str:
    """A column's name as it is compared."""
    return name.strip().casefold().replace(" ", "_").replace("-", "_")


def read_delimited(text: str, kind: str, delimiters: Sequence[str] = DELIMITERS) -> PromptTexts:
    """The prompts of a table with a header, whose cells may be in double quotes.

    Args:
        text: the table.
        kind: what it is called.
        delimiters: what may separate its cells; the first that gives a column of prompts does.

    Raises:
        ValueError: no column holds prompts, or a row does not fit the header.
    """
    first, _, below = text.partition("\n")
    if re.fullmatch(r"sep=[,;|\t]\s*", first, re.IGNORECASE):  # a hint that Excel writes
        delimiters, text = (first[4],), below
    header: list[str] = []
    for delimiter in delimiters:
        header = header_of(text, delimiter)
        column = prompt_field(header)
        if column is not None:
            found = _column(text, delimiter, header, header.index(column))
            return replace(_once(found, column, header), kind=kind)
    names = header_of(text, delimiters[0])
    raise ValueError(
        f"found {_quoted(names)} as columns in the first line; expected a header with"
        f" {_expected()}: name the column with the prompts so"
    )


def read_json_texts(text: str) -> PromptTexts:
    """The prompts of a JSON value, or of JSON Lines (one value a line).

    Raises:
        ValueError: it is neither, or holds no texts that can be meant.
    """
    value, kind = json_value(text)
    return replace(_from_value(value), kind=kind)


def json_value(text: str) -> tuple[Any, str]:
    """The value of JSON or JSON Lines (as a list), and which of them it is.

    Raises:
        ValueError: it is neither.
    """
    try:
        return _json(text), "JSON"
    except ValueError as whole:
        numbered = [(i, line) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
        try:
            return [_json_line(*line) for line in numbered], "JSON Lines"
        except ValueError as of_line:
            is_lines = len(numbered) > 1 and _is_json(numbered[0][1])
            raise (of_line if is_lines else whole) from None


def header_of(text: str, delimiter: str) -> list[str]:
    """The cells of a table's first line; [] if that is too long for one."""
    if len(text) > MAX_HEADER and text.find("\n", 0, MAX_HEADER) < 0:
        return []
    try:
        return next(_rows(text, delimiter, strict=False), [])
    except csv.Error:
        return []


def _rows(text: str, delimiter: str, *, strict: bool, quoting: int = csv.QUOTE_MINIMAL) -> Any:
    return csv.reader(
        io.StringIO(text, newline=""),
        delimiter=delimiter,
        strict=strict,
        skipinitialspace=True,
        quoting=quoting,  # type: ignore[arg-type]
    )


def _column(text: str, delimiter: str, header: Sequence[str], at: int) -> list[str]:
    """The cells of a column, below the header."""
    try:
        return _cells(_rows(text, delimiter, strict=True), header, at)
    except csv.Error as error:
        # programs that write tabs often write no quotes, so a cell may begin with one
        if delimiter == "\t" and '"' in text:
            return _cells(_rows(text, delimiter, strict=False, quoting=csv.QUOTE_NONE), header, at)
        raise ValueError(
            f"found no valid table ({error}); expected cells with a {delimiter!r} or a line break"
            " in double quotes, and double quotes in them twice: save the table again"
        ) from None


def _cells(rows: Any, header: Sequence[str], at: int) -> list[str]:
    next(rows)
    texts = []
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        if any(cell.strip() for cell in row[len(header) :]):
            raise ValueError(
                f"found {len(row)} cells in the row that ends in line {rows.line_num}; expected"
                f" {len(header)}, as in the first line: put cells with a delimiter in double quotes"
            )
        if len(row) <= at or not row[at].strip():
            raise ValueError(
                f"found no {header[at]!r} in the row that ends in line {rows.line_num}; expected a"
                " prompt: add it, or take the row out"
            )
        if _MARKDOWN.fullmatch(row[at].strip()):
            raise ValueError(
                "found a table of Markdown; expected CSV, TSV or JSON: save it as one of these"
            )
        texts.append(row[at])
    return texts


def _json_line(number: int, line: str) -> Any:
    try:
        return _json(line)
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None


def _is_json(text: str) -> bool:
    try:
        _json(text)
    except ValueError:
        return False
    return True


def _json(text: str) -> Any:
    return parse_json(text.encode(errors="surrogatepass"))


def _from_value(value: Any, depth: int = 0) -> PromptTexts:
    """The prompts in a JSON value."""
    if isinstance(value, list):
        return _from_list(value)
    if not isinstance(value, dict):
        raise ValueError(
            f"found {_kind(value)}; expected a list of prompts, or objects with"
            f" {_expected()}: write one of them"
        )
    field = prompt_field(value)
    if field is not None and isinstance(value[field], (list, dict)):  # columns
        cells = value[field]
        cells = list(cells.values()) if isinstance(cells, dict) else cells
        if all(isinstance(cell, str) for cell in cells):
            return _once(cells, field, value)
    rows = list(value.values())
    if rows and (
        all(isinstance(row, str) for row in rows)
        or all(isinstance(row, dict) and _has_prompt(row) for row in rows)
    ):
        return _from_list(rows if field is None else [value])
    if field is not None and isinstance(value[field], str):
        return _from_list([value])
    return _from_parts(value, depth)


def _from_parts(value: Mapping[str, Any], depth: int) -> PromptTexts:
    """The prompts in the one value of an object that holds some."""
    found: dict[str, PromptTexts] = {}
    for key, part in value.items():
        if isinstance(part, (list, dict)) and part and depth < _DEPTH:
            try:
                found[key] = _from_value(part, depth + 1)
            except ValueError:
                continue
    if len(found) != 1:
        what = f"prompts in {_quoted(found)}" if found else f"an object with {_quoted(value)}"
        raise ValueError(
            f"found {what}; expected a list of texts, or of objects with {_expected()}, in one"
            " place: keep that alone"
        )
    (key, texts), *_ = found.items()
    return replace(texts, field=f"{key}.{texts.field}" if texts.field else key)


def _from_list(items: Sequence[Any]) -> PromptTexts:
    """The prompts in a list of texts or of objects."""
    if all(isinstance(item, str) for item in items):
        return _once(items, "", ())
    if not all(isinstance(item, dict) for item in items):
        kinds = dict.fromkeys(map(_kind, items))
        raise ValueError(
            f"found a list with {' and '.join(kinds)}; expected texts alone, or objects alone:"
            " write one of them"
        )
    field = prompt_field(items[0])
    if field is None:
        raise ValueError(
            f"found objects with {_quoted(items[0])}; expected {_expected()}: name the field with"
            " the prompts so"
        )
    for number, item in enumerate(items, 1):
        if not isinstance(item.get(field), str):
            raise ValueError(
                f"found {_kind(item[field]) if field in item else 'nothing'} as {field!r} of object"
                f" {number}; expected a text: add it, or take the object out"
            )
    return _once([item[field] for item in items], field, items[0])


def _once(texts: Sequence[str], field: str, names: Iterable[str]) -> PromptTexts:
    """Texts without repeats and surrounding white space."""
    once = tuple(dict.fromkeys(text.strip() for text in texts))
    if "" in once:
        raise ValueError(
            "found an empty prompt; expected text in each: add it, or take the entry out"
        )
    left_out = tuple(name.strip() for name in names if name != field and name.strip())
    return PromptTexts(
        kind="", texts=once, field=field.strip(), left_out=left_out, repeats=len(texts) - len(once)
    )


def _has_prompt(row: Mapping[str, Any]) -> bool:
    field = prompt_field(row)
    return field is not None and isinstance(row[field], str)


def _kind(value: object) -> str:
    """What a value of JSON is called."""
    names = {str: "a text", bool: "true or false", list: "a list", dict: "an object"}
    return "null" if value is None else names.get(type(value), "a number")


def _quoted(names: Iterable[str]) -> str:
    texts = [repr(printable(name)[:40]) for name in names]
    return and_more(texts, most=6) if texts else "nothing"


def _expected() -> str:
    return f"one of {', '.join(name for known in FIELDS for name in known)}"
