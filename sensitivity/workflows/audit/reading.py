"""Where does the list come from, and in whose form is it?

A file, standard input, or code that the user allows to run.

    source = read_source("mine.txt", form=None)       # the form is guessed where none is named
    source.listed, source.form, source.guessed

A recipe of this tool is read as well (`--as recipe`, or by itself): each Linear by its name. Of
some consumers (`CONFIGS`) the list alone is read too, as strings in brackets: `["proj_out",
"norm"]` as "diffusers" is the `modules_to_not_convert` of a config that quantizes all else to one
format.
"""

import ast
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from sensitivity.consumers.lists import ConsumerList, Entry
from sensitivity.consumers.readers import READERS, Reader, get_reader, guess_reader
from sensitivity.consumers.readers.filter_fn import FilterFnReader
from sensitivity.consumers.readers.plain import PLAIN_RULES
from sensitivity.core.format_name import FormatName
from sensitivity.core.json_files import parse_json
from sensitivity.errors import PatternError, RecipeError, UserError
from sensitivity.recipes.recipe import Recipe

MAX_BYTES = 16 * 1024 * 1024
CONSUMERS = tuple(name for name in READERS if name not in (*PLAIN_RULES, FilterFnReader.name))
_PYTHON = re.compile(r"^(?:import \w|from [\w.]+ import |def \w+\()", re.MULTILINE)
_REGULAR = re.compile(r"[\\^$|()+]")
"""What stands in regular expressions and in no glob."""
RECIPE = "recipe"
"""What `--as` takes beside the names of `consumers.READERS`."""

SGLANG_NOTE = (
    "read as ModelOpt does, with diffusers' names; SGLang's diffusion server matches such a list"
    " with its own run-time names: --as sglang"
)

_TORCHAO = {
    FormatName.NVFP4: {"_type": "NVFP4DynamicActivationNVFP4WeightConfig", "_data": {}},
    FormatName.MXFP8: {"_type": "MXDynamicActivationMXWeightConfig", "_data": {}},
    FormatName.FP8: {
        "_type": "Float8DynamicActivationFloat8WeightConfig",
        "_data": {"granularity": {"_type": "PerRow", "_data": {}}},
    },
}


def _served(names: list[Any], name: FormatName) -> dict[str, Any]:
    if name is FormatName.NVFP4:
        return {"quant_method": "modelopt", "quant_algo": "NVFP4", "ignore": names}
    return {"quantization": name.value, "quantization_ignored_layers": names}


CONFIGS: Mapping[str, Callable[[list[Any], FormatName], dict[str, Any]]] = MappingProxyType(
    {
        "diffusers": lambda names, name: {
            "quant_method": "torchao",
            "quant_type": {"default": _TORCHAO[name]},
            "modules_to_not_convert": names,
        },
        "modelopt": lambda names, name: {
            "quant_algo": "FP8_PER_CHANNEL_PER_TOKEN" if name is FormatName.FP8 else name.upper(),
            "exclude_modules": names,
        },
        "compressed-tensors": lambda names, name: {
            "targets": ["Linear"],
            "scheme": "FP8_DYNAMIC" if name is FormatName.FP8 else name.upper(),
            "ignore": names,
        },
        "vllm-omni": lambda names, name: {"method": name.value, "ignored_layers": names},
        "sglang": _served,
    }
)
"""Form -> the config in which a list stands that comes alone."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Source:
    """A list that was read: its name for people, the form, whether that was guessed, and what it
    says.
    """

    name: str
    form: str
    guessed: bool
    listed: ConsumerList


def read_source(
    source: str,
    *,
    form: str | None = None,
    allow_code: bool = False,
    format: FormatName = FormatName.NVFP4,
) -> Source:
    """Read a list.

    Args:
        source: a path, "-" for standard input, or `module:function` where `form` is "filter-fn".
        form: a name of `consumers.READERS`, or "recipe"; None guesses.
        allow_code: whether a function may be imported and run.
        format: of the config that a list of `CONFIGS` stands in, where it comes alone.

    Raises:
        PatternError: the file cannot be read, is no text, or is no list in this form.
        RecipeError: it is a recipe that cannot be read.
    """
    if form == FilterFnReader.name:
        return Source(
            name=source,
            form=form,
            guessed=False,
            listed=FilterFnReader(allow_code=allow_code).read(source),
        )
    if allow_code:
        raise UserError(
            f"--allow-code is given for {source!r}, which is read and not run; allowed is that with"
            " --as filter-fn: leave it out"
        )
    name = "standard input" if source == "-" else Path(source).name
    reader = None if form in (None, RECIPE) else get_reader(str(form))
    text = _text(source)
    try:
        if form == RECIPE or (form is None and _is_recipe(text)):
            return Source(name=name, form=RECIPE, guessed=form is None, listed=_recipe_list(text))
        reader = _guess(source, text) if reader is None else reader
        return Source(
            name=name,
            form=reader.name,
            guessed=form is None,
            listed=_listed(reader, text, guessed=form is None, format=format),
        )
    except (PatternError, RecipeError) as error:
        said = (
            f" (read as {reader.name}, by its looks)" if form is None and reader is not None else ""
        )
        raise type(error)(f"{name}{said}: {error}") from None


def _text(source: str) -> str:
    path = Path(source)
    try:
        if source == "-":
            data = sys.stdin.buffer.read(MAX_BYTES + 1)
        else:
            with path.open("rb") as file:
                data = file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:  # a ValueError is a path that no file system takes
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        code = " (a function is named with --as filter-fn --allow-code)" if ":" in source else ""
        raise PatternError(
            f"{source} cannot be read ({reason}); allowed is a text file with a list, or - for"
            f" standard input: name one{code}"
        ) from None
    if len(data) > MAX_BYTES:
        raise PatternError(
            f"{source} has more than {MAX_BYTES} bytes; allowed are {MAX_BYTES}; a list is far"
            " smaller: name another file"
        )
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise PatternError(
            f"{source} is no text ({error.reason} at byte {error.start}); allowed is UTF-8: name"
            " another file"
        ) from None


def _listed(reader: Reader, text: str, *, guessed: bool, format: FormatName) -> ConsumerList:
    """What a reader makes of a text; of a list alone in the config that it belongs in."""
    alone = None if guessed or reader.name not in CONFIGS else _strings(text)
    if alone is not None:
        return reader.read(json.dumps(CONFIGS[reader.name](alone, format)))
    listed = reader.read(text)
    served = (
        guessed
        and reader.name == "modelopt"
        and type(listed) is ConsumerList
        and bool(listed.entries)
    )
    return dataclasses.replace(listed, notes=(*listed.notes, SGLANG_NOTE)) if served else listed


def _strings(text: str) -> list[Any] | None:
    """The list of strings that a text is, as JSON and Python write it; None for anything else."""
    if not text.lstrip("\ufeff \t\r\n").startswith("["):
        return None
    try:
        values = ast.literal_eval(text.lstrip("\ufeff \t\r\n"))
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    return values if all(isinstance(value, str) for value in values) else None


def _guess(source: str, text: str) -> Reader:
    """The reader of a text's looks: a consumer's, that of globs, or that of regular expressions
    where an entry can be nothing else.

    Raises:
        PatternError: it is Python, or an object in no consumer's form.
    """
    reader = guess_reader(text)
    if reader.name != "glob":
        return reader
    if _PYTHON.search(text):
        raise PatternError(
            "found Python code; allowed is a list, a consumer's config as JSON, or a filter_fn"
            f" that may be run: --as filter-fn {source}:NAME --allow-code"
        )
    if text.lstrip("\ufeff \t\r\n").startswith("{"):  # nothing that a pattern begins with
        raise PatternError(
            f"found {_what_is_wrong(text)}; allowed are the configs of {', '.join(CONSUMERS)}: mend"
            " it, or name its form with --as"
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
    return (
        f"an object with {', '.join(repr(key)[:40] for key in list(data)[:3]) or 'nothing in it'},"
        " in no consumer's form"
    )


def _is_recipe(text: str) -> bool:
    return (
        text.lstrip("\ufeff \t\r\n").startswith("{")
        and '"schema_version"' in text
        and '"layers"' in text
    )


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
    return ConsumerList(
        consumer=RECIPE,
        entries=entries,
        default=FormatName.BF16,
        either_name=bool(recipe.model.components),
        notes=(recipe.caveat,) if recipe.caveat else (),
    )
