"""Where does the list come from, and in which form is it? `read_source`.

    source = read_source("mine.txt")                         # the form is guessed
    source = read_source("mine.txt", form="substring")
    source.listed, source.form, source.guessed

The source is a file, standard input, or a function that the user allows to run. A recipe of this
tool is read as well (form `recipe`, or guessed): each Linear by its name. For some forms a bare
list of strings is read too (`bare_lists`).
"""

import dataclasses
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sensitivity.consumers.lists import ConsumerList, Entry, ListedPolicy
from sensitivity.consumers.readers import READERS, Reader, get_reader, guess_reader
from sensitivity.consumers.readers.filter_fn import FilterFnReader
from sensitivity.consumers.readers.plain import PLAIN_RULES
from sensitivity.consumers.readers.safetensors_lists import (
    is_safetensors,
    list_in_file,
    list_in_header,
)
from sensitivity.core.format_name import FormatName, parse_format
from sensitivity.core.json_files import parse_json
from sensitivity.core.outside_files import NAME_LIST, decode_text, read_bytes, reason
from sensitivity.core.short_reprs import ShortRepr
from sensitivity.core.words import printable
from sensitivity.errors import PatternError, RecipeError, UserError
from sensitivity.recipes.recipe import Recipe
from sensitivity.workflows.audit.bare_lists import config_of

CONSUMERS = tuple(name for name in READERS if name not in (*PLAIN_RULES, FilterFnReader.name))
"""The forms that are a consumer's config."""
RECIPE = "recipe"
IN_PYTHON = "the list"
"""What a list is called whose entries are given in Python."""
"""The form of a recipe; it is none of `READERS`."""
_SPACE = "\ufeff \t\r\n"
_PYTHON = re.compile(r"^(?:import \w|from [\w.]+ import |def \w+\()", re.MULTILINE)
_REGULAR = re.compile(r"[\\^$|()+]")
"""Characters of regular expressions that no glob has."""

SGLANG_NOTE = (
    "read as ModelOpt does, with diffusers' names; SGLang's diffusion server matches such a list"
    " with its own run-time names: `form` sglang"
)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Source(ShortRepr):
    """A list that was read.

    Attributes:
        name: what people call it: the file's name.
        form: the form that it was read in.
        guessed: whether the form was guessed.
        listed: what it says.
        text: the text that was read; "" where it is not known.
    """

    name: str
    form: str
    guessed: bool
    listed: ConsumerList
    text: str = ""


def read_source(
    source: str | os.PathLike[str] | Sequence[str],
    *,
    form: str | None = None,
    allow_code: bool = False,
    format: FormatName = FormatName.NVFP4,
) -> Source:
    """Read a list.

    Args:
        source: a path, "-" for standard input, or `module:function` with the form "filter-fn"; or
            the entries themselves, as a list of texts.
        form: a name of `consumers.readers.READERS`, or "recipe"; None guesses.
        allow_code: whether a function may be imported and run.
        format: of the config that a bare list stands in.

    Raises:
        PatternError: the file cannot be read, is no text, or is no list in this form.
        RecipeError: it is a recipe that cannot be read.
        UserError: code is allowed for a form that runs none.
    """
    format = parse_format(format)
    entries = None if isinstance(source, str | os.PathLike) else "\n".join(source) + "\n"
    source = os.fspath(source) if isinstance(source, str | os.PathLike) else IN_PYTHON
    if form == FilterFnReader.name:
        function = FilterFnReader(allow_code=allow_code).read(source)
        return Source(name=source, form=form, guessed=False, listed=function)
    if allow_code:
        raise UserError(
            f"`allow_code` is given for {source!r}, which is read and not run; expected it only"
            " with `form` filter-fn: leave it out"
        )
    name = "standard input" if source == "-" else Path(source).name
    reader = None if form in (None, RECIPE) else get_reader(str(form))
    text = _text(source) if entries is None else entries
    guessed = form is None
    try:
        if form == RECIPE or (guessed and _is_recipe(text)):
            return Source(name=name, form=RECIPE, guessed=guessed, listed=_recipe_list(text))
        reader = _guess(source, text) if reader is None else reader
        listed = _read_guessed(reader, text) if guessed else _read_as(reader, text, format)
        config = None if guessed else config_of(text, reader.name, format)
        return Source(
            name=name, form=reader.name, guessed=guessed, listed=listed, text=config or text
        )
    except (PatternError, RecipeError) as error:
        said = f" (read as {reader.name}, by its looks)" if guessed and reader is not None else ""
        raise type(error)(f"{name}{said}: {error}") from None


def _text(source: str) -> str:
    """The text of a file or of standard input; the list in a safetensors file, as JSON."""
    path = Path(source)
    try:
        if source == "-":
            data = sys.stdin.buffer.read(NAME_LIST.max_bytes + 1)
        elif path.suffix.lower() == ".safetensors":
            return list_in_file(path)
        else:
            data = read_bytes(path, NAME_LIST)
        if is_safetensors(data):
            return list_in_header(data)
        if data.startswith(b"GGUF"):
            raise ValueError(
                "found a GGUF file, which has weights and no list: give the list itself, or a"
                " config with quant_method gguf"
            )
        return decode_text(data, NAME_LIST)
    except (OSError, ValueError) as error:
        code = " (to name a function, give `form` filter-fn and `allow_code`)"
        raise PatternError(
            f"{printable(source)} cannot be read ({reason(error)}); expected a text file with a"
            f" list, or - for standard input: name one{code if ':' in source else ''}"
        ) from None


def _read_as(reader: Reader, text: str, format: FormatName) -> ConsumerList:
    """A text in the form that the user names; it may be a bare list."""
    config = config_of(text, reader.name, format)
    return reader.read(text if config is None else config)


def _read_guessed(reader: Reader, text: str) -> ConsumerList:
    """A text in the form that it seems to be in."""
    listed = reader.read(text)
    may_be_served = (
        reader.name == "modelopt" and type(listed) is ConsumerList and bool(listed.entries)
    )
    if not may_be_served:
        return listed
    return dataclasses.replace(listed, notes=(*listed.notes, SGLANG_NOTE))


def _guess(source: str, text: str) -> Reader:
    """The reader that a text looks like.

    It is a consumer's, or that of globs, or that of regular expressions if an entry can be nothing
    else.

    Raises:
        PatternError: it is Python code, or an object in no consumer's form.
    """
    reader = guess_reader(text)
    if reader.name != "glob":
        return reader
    if _PYTHON.search(text):
        raise PatternError(
            "found Python code; expected a list, or a consumer's config as JSON: to run a function,"
            f" give {source}:NAME with `form` filter-fn and `allow_code`"
        )
    if text.lstrip(_SPACE).startswith("{"):  # no pattern begins with it
        raise PatternError(
            f"found {_what_is_wrong(text)}; expected the config of {', '.join(CONSUMERS)}: mend"
            " it, or name its `form`"
        )
    regular = any(
        _REGULAR.search(entry.text) for entry in reader.read(text).entries if entry.rule == "glob"
    )
    return get_reader("regex") if regular else reader


def _what_is_wrong(text: str) -> str:
    """Why an object is in no form that is known."""
    try:
        data = parse_json(text.removeprefix("\ufeff").encode())
    except ValueError as error:
        return f"an object that is no strict JSON ({error})"
    keys = ", ".join(repr(key)[:40] for key in list(data)[:3])
    return f"an object with {keys or 'nothing in it'}, in no consumer's form"


def _is_recipe(text: str) -> bool:
    return text.lstrip(_SPACE).startswith("{") and '"schema_version"' in text and '"layers"' in text


def _recipe_list(text: str) -> ConsumerList:
    """A recipe's layers by name."""
    try:
        data = parse_json(text.encode())
    except ValueError as error:
        raise RecipeError(
            f"it is no strict JSON ({error}); a recipe is one JSON object: export it again"
        ) from None
    if not isinstance(data, dict):
        raise RecipeError(
            f"found a {type(data).__name__} at the top; a recipe is one JSON object; name another"
            " file"
        )
    recipe = Recipe.from_mapping(data)
    entries = tuple(Entry(text=fqn, rule="fqn", format=name) for fqn, name in recipe.layers.items())
    policy = recipe.assignment.policy
    return ConsumerList(
        consumer=RECIPE,
        entries=entries,
        policies=() if policy.is_plain else (ListedPolicy(own=policy),),
        default=FormatName.BF16,
        either_name=bool(recipe.model.components),
        notes=(recipe.caveat,) if recipe.caveat else (),
    )
