"""Which object does a text hold, and where in it is the list?

    value = parse_object(text, expected='an object such as {"quant_algo": "NVFP4"}')
    parts_of(value, lambda part: "quant_algo" in part, expected)    # {component: part}

Syntax. An object is read from JSON; and from TOML or YAML, in which people keep the same objects.

Wrappers. Tools write their list inside something else: a checkpoint's config.json, the header of a
safetensors file, the arguments of a server, the config of a whole pipeline. `unwrapped` peels these
off by their keys (`WRAPPERS`), one in another. What is inside is what the list's reader expects.

Parts. A list may have one object a component, and each of these may be wrapped again. Values that
are no object are left to the reader, which knows whether null or a word has a meaning there.

It knows no consumer and no format.
"""

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from sensitivity.consumers.readers.entries import bare_text
from sensitivity.consumers.readers.strict_yaml import parse_yaml
from sensitivity.core.json_files import parse_json
from sensitivity.core.outside_files import NAME_LIST, parse_toml
from sensitivity.core.words import did_you_mean, printable
from sensitivity.errors import PatternError

MAX_TEXT = NAME_LIST.max_bytes
"""The most characters of a text. The longest one that our exporters write has under a million."""

WRAPPERS = (
    "quantization_config",
    "compression_config",
    "quant_mapping",
    "diffusion_quantization_config",
    "_quantization_metadata",
    "__metadata__",
)
"""Keys under which tools write a list: config.json of transformers and diffusers, that of older
compressed-tensors, a `PipelineQuantizationConfig`, vLLM-Omni's arguments, and the metadata of a
safetensors file with its own key around it.
"""

MAX_PARTS = 64
"""The most components that a list may have parts for. No pipeline has as many."""

_MAX_WRAPPERS = 6
_TOML = re.compile(r"\s*(?:#[^\n]*\n\s*)*+(?:\[{1,2}[\w .\"'-]+\]{1,2}\s*(?:#|\n)|[\w.\"'-]+\s*=)")


def parse_object(text: str, expected: str) -> dict[str, Any]:
    """The object that a text holds, its wrappers peeled off; it is not empty.

    Args:
        text: JSON, TOML or YAML; a byte order mark in front is ignored.
        expected: what the reader expects, for the message.

    Raises:
        PatternError: the text holds no object with keys, or a wrapper without a list.
    """
    try:
        value = parse_document(text)
    except ValueError as error:
        raise PatternError(f"{error}; this form is {expected}") from None
    if not isinstance(value, dict) or not value:
        found = "an empty object" if value == {} else f"a {type(value).__name__}"
        raise PatternError(
            f"found {found}; expected {expected}; name another file, or another form"
        )
    return unwrapped(value, expected)


def object_or_empty(text: str) -> dict[str, Any]:
    """The object that a text holds, its wrappers peeled off; {} for any other text."""
    try:
        return parse_object(text, "an object")
    except PatternError:
        return {}


def parse_document(text: str) -> Any:
    """The value of a text in JSON, TOML or YAML. Callers do not change it.

    Raises:
        ValueError: the text is none of these.
        PatternError: it is too large, or YAML that is not plain.
    """
    value, error = _read(text)
    if error is not None:
        raise error.with_traceback(None)
    return value


@lru_cache(maxsize=4)
def _read(text: str) -> tuple[Any, ValueError | PatternError | None]:
    """(value, error) of a text. Every reader looks at a text whose form is guessed."""
    try:
        return _parsed(text), None
    except (ValueError, PatternError) as error:
        return None, error


def _parsed(text: str) -> Any:
    source = bare_text(text, most=MAX_TEXT)
    if source[:1] in ("{", "[") and not _TOML.match(source):
        if sum(map(source.count, ",[{")) > NAME_LIST.max_values:
            raise ValueError(f"found more than {NAME_LIST.max_values} values; expected fewer")
        # A lone surrogate cannot be encoded strictly. `parse_json` refuses it with its position.
        return parse_json(source.encode(errors="surrogatepass"))
    if _TOML.match(source):
        return parse_toml(source, NAME_LIST)
    try:
        return parse_yaml(source)
    except ValueError as error:
        raise ValueError(f"found no valid JSON, TOML or YAML ({error})") from None


def unwrapped(value: dict[str, Any], expected: str = "a list in it") -> dict[str, Any]:
    """What the wrappers of an object hold; the object itself where it has none.

    Raises:
        PatternError: a wrapper holds nothing, or no object.
    """
    for _ in range(_MAX_WRAPPERS):
        key = next((key for key in value if _plain(key) in WRAPPERS), None)
        if key is None:
            return value
        inner = value[key]
        if isinstance(inner, str):  # as in the metadata of a safetensors file
            try:
                inner = parse_json(inner.encode(errors="surrogatepass"))
            except ValueError as error:
                raise PatternError(f"found {key} that is no JSON ({error}); {expected}") from None
        if not isinstance(inner, dict) or not inner:
            raise PatternError(
                f"found {key} {str(inner)[:80]!r}, which holds no list; expected {expected}; name"
                " the file of the quantized model, or save the list alone"
            )
        value = inner
    raise PatternError(
        f"found {', '.join(WRAPPERS[:3])} inside each other more than {_MAX_WRAPPERS} times;"
        f" expected {expected}; save the inner list alone"
    )


def parts_of(
    value: Mapping[str, Any],
    is_list: Callable[[Mapping[str, Any]], bool],
    expected: str,
    *,
    words: bool = False,
) -> dict[str, Any]:
    """{component: its part} of a list that has one part for each component.

    Args:
        value: what `parse_object` gave.
        is_list: whether an object is a list itself. Such a value is that of every component, and
            comes back as {"": value}.
        expected: what the reader expects, for the message.
        words: whether a part may be a word, such as the name of a method.

    Returns:
        The parts, wrappers peeled off. Null, for a component that stays as it is, and words are
        left as they are. Other values under keys that begin with "_" are comments.

    Raises:
        PatternError: an object in it is no list.
    """
    if is_list(value):
        return {"": value}
    if len(value) > MAX_PARTS:
        raise PatternError(
            f"found an object with {len(value)} keys, in which there is no list; expected"
            f" {expected}, for at most {MAX_PARTS} components; name another file"
        )
    parts = {
        str(name): unwrapped(part, expected) if isinstance(part, dict) else part
        for name, part in value.items()
        if part is None or isinstance(part, dict) or not str(name).startswith("_")
    }
    lists = [name for name, part in parts.items() if isinstance(part, dict) and is_list(part)]
    has_null = any(part is None for part in parts.values())
    if not lists and not (words and has_null):
        keys = ", ".join(repr(printable(name[:40])) for name in list(parts)[:3])
        raise PatternError(
            f"found an object with {keys or 'nothing'}, in which there is no list; expected"
            f" {expected}; name another file, or another form"
        )
    for name, part in parts.items():
        if name not in lists and part is not None and not (words and isinstance(part, str)):
            hint = did_you_mean(name[:80], lists, otherwise="take it out, or write null")
            raise PatternError(
                f"found {printable(name[:80])!r} beside the parts {', '.join(lists[:3])[:200]}:"
                f" {str(part)[:80]!r}; expected {expected}; {hint}"
            )
    return parts


def named_parts(parts: Mapping[str, Any]) -> tuple[str, ...]:
    """The components that a list names, for `ConsumerList.parts`; () for {"": list}."""
    return tuple(name for name in parts if name)


def lists_in(text: str) -> list[dict[str, Any]]:
    """The objects in a text that may be lists: itself, and those of its parts; for `looks_like`."""
    value = object_or_empty(text)
    found = [value] if value else []
    for part in list(value.values())[:64]:
        if isinstance(part, dict) and part:
            try:
                found.append(unwrapped(part))
            except PatternError:
                continue
    return found


def _plain(key: object) -> str:
    """A key as Python spells it; options of a command line have hyphens."""
    return str(key).removeprefix("--").replace("-", "_")
