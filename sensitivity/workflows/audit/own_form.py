"""How is a fixed list written for a consumer with names of its own? As the config that it was, with
other names in its lists.

    own_form(text, fixed.formats, subject)       # JSON, for vLLM-Omni, SGLang or ComfyUI

The config stays as it was: its method, its format, what is for other components. Entries that hit
only Linears which stay bf16 are kept as they were written. What else stays bf16 is added by its
run-time name, a Linear a line.

Lists of vLLM-Omni (`ignored_layers`) and SGLang (`ignore`, `exclude_modules`,
`quantization_ignored_layers`) name what stays bf16. ComfyUI's `layers` name what is quantized.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers import get_reader
from sensitivity.consumers.readers.documents import parse_document
from sensitivity.consumers.readers.served_lists import ServedList
from sensitivity.core.json_files import parse_json
from sensitivity.errors import PatternError
from sensitivity.workflows.audit.served import never_quantized
from sensitivity.workflows.audit.subject import Subject, assigned

Formats = Mapping[str, ListedFormat]
Names = Callable[[str], list[str]]
"""The names to list for a component; "" is every component."""
COMFYUI_PREFIX = "model.diffusion_model."


def own_form(text: str, formats: Formats, subject: Subject) -> str:
    """The config with other lists in it, proved to give these formats.

    Args:
        text: the config as JSON.
        formats: {FQN: format} of every Linear.
        subject: the list on the model.

    Raises:
        PatternError: the text is no JSON object, or its form cannot say these formats.
    """
    listed = subject.listed
    assert isinstance(listed, ServedList)
    try:
        value, aside = _set_aside(parse_document(text), subject)
    except ValueError as error:
        raise PatternError(f"{error}; expected the list that was audited") from None
    if listed.served == "comfyui":
        written = _with_layers(value, "", formats, subject)
    else:
        names = _names_of(formats, subject)
        write = _with_ignored_layers if listed.served == "vllm-omni" else _with_ignore
        written = write(value, "", names, frozenset(listed.defaults))
    new = json.dumps(_put_back(written, aside), indent=1) + "\n"
    found = assigned(get_reader(listed.consumer).read(new), subject.model.tree, subject.format)
    if wrong := [fqn for fqn, name in formats.items() if found[fqn] != name]:
        raise PatternError(
            f"found {len(wrong)} Linears ({wrong[0]}, ...) to which {listed.consumer} gives another"
            " format than the fixed list, whatever its lists say; expected a list that it can"
            " express: write a recipe"
        )
    return new


def _set_aside(value: Any, subject: Subject) -> tuple[Any, dict[str, Any]]:
    """(the object with a mark in place of each part for another component, {mark: the part}).

    Parts that apply to nothing are left out.
    """
    aside: dict[str, Any] = {}
    others, unknown = frozenset(subject.model.tree.others), frozenset(subject.unknown_parts)

    def masked(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        made = {}
        for key, inner in part.items():
            if key in unknown:
                continue
            if key in others:
                mark = f"part {len(aside)} of another component"
                aside[mark], inner = inner, mark
            made[key] = masked(inner)
        return made

    return masked(value), aside


def _put_back(value: Any, aside: Mapping[str, Any]) -> Any:
    """The object with the parts in place of their marks."""
    if isinstance(value, dict):
        return {key: _put_back(part, aside) for key, part in value.items()}
    return aside.get(value, value) if isinstance(value, str) else value


def _names_of(formats: Formats, subject: Subject) -> Names:
    """What gives the names that a component's list should have."""
    listed, tree = subject.listed, subject.model.tree
    assert isinstance(listed, ServedList)
    never = never_quantized(listed, tree)
    bf16 = [fqn for fqn, name in formats.items() if not name.is_quantized and fqn not in never]
    stay = {fqn for fqn, name in formats.items() if not name.is_quantized}

    def names(component: str) -> list[str]:
        own = [fqn for fqn in bf16 if not component or listed.part_of(fqn, tree) == component]
        chosen, covered = [], set[str]()
        for entry, hits in zip(listed.entries, subject.hits, strict=True):
            if entry.component in ("", component) and hits and hits <= stay:
                chosen.append(entry.text)
                covered |= hits
        chosen += [subject.called(fqn) for fqn in own if fqn not in covered]
        return [name for name in dict.fromkeys(chosen) if name]

    return names


def _with_ignored_layers(value: Any, component: str, names: Names, parts: frozenset[str]) -> Any:
    """vLLM-Omni's object with other `ignored_layers`."""
    if isinstance(value, str):
        value = {"method": value}
    if not isinstance(value, dict):
        return value
    if {"method", "quant_method"} & value.keys():
        older = "modules_to_not_convert"
        key = older if value.get(older) and not value.get("ignored_layers") else "ignored_layers"
        return {**value, key: names(component)}
    return {
        key: _with_ignored_layers(part, key if key in parts else component, names, parts)
        if key in parts or isinstance(part, dict)
        else part
        for key, part in value.items()
    }


def _with_ignore(value: Any, component: str, names: Names, parts: frozenset[str]) -> Any:
    """SGLang's object with other lists, in either of its forms."""
    if not isinstance(value, dict):
        return value
    if "component_quantizations" in value:
        key = "component_quantization_ignored_layers"
        return {**value, key: {part: names(part) for part in value["component_quantizations"]}}
    if isinstance(value.get("quantization"), str) or "quantization_ignored_layers" in value:
        return {**value, "quantization_ignored_layers": names(component)}
    if "quant_algo" in value:
        key = "exclude_modules" if "exclude_modules" in value else "ignore"
        return {**value, key: names(component)}
    inner = value.get("quantization")
    if isinstance(inner, dict) and "quant_algo" in inner:
        return {**value, "quantization": {**inner, "exclude_modules": names(component)}}
    return {
        key: _with_ignore(part, key if key in parts else component, names, parts)
        for key, part in value.items()
    }


def _with_layers(value: Any, component: str, formats: Formats, subject: Subject) -> Any:
    """ComfyUI's object with other `layers`; each keeps what the object says of it."""
    if isinstance(value, str):  # as in a file's metadata, where it is a JSON text
        try:
            inner = parse_json(value.encode())
        except ValueError:
            return value
        if not isinstance(inner, dict):
            return value
        return json.dumps(_with_layers(inner, component, formats, subject))
    if not isinstance(value, dict):
        return value
    if isinstance(value.get("layers"), dict):
        return {**value, "layers": dict(_layers(value["layers"], component, formats, subject))}
    classes = subject.model.tree.classes
    return {
        key: _with_layers(part, key if key in classes else component, formats, subject)
        for key, part in value.items()
    }


def _layers(
    old: Mapping[str, Any], component: str, formats: Formats, subject: Subject
) -> Iterator[tuple[str, Any]]:
    """(name, what is said of it) of each quantized layer."""
    part_of, tree = subject.listed.part_of, subject.model.tree
    prefix = COMFYUI_PREFIX if any(name.startswith(COMFYUI_PREFIX) for name in old) else ""
    said: dict[str, Any] = {}  # {format: what the list says of a layer that has it}
    for entry in subject.listed.entries:
        layer = old.get(prefix + entry.text)
        if entry.format is not None and layer is not None:
            said.setdefault(entry.format.value, layer)
    for fqn, name in formats.items():
        if name.is_quantized and (not component or part_of(fqn, tree) == component):
            called = prefix + subject.called(fqn)
            yield called, old.get(called, said.get(name.value, {"format": name.value}))
