"""Lists that match run-time names: what vLLM-Omni's, SGLang's and ComfyUI's readers share.

    listed = ServedList(consumer="vllm-omni", entries=..., served="vllm-omni", defaults={"": FormatName.FP8})
    listed.assign(tree, quantized=FormatName.FP8)        # bf16 as well for what vLLM-Omni never quantizes

Linears that the consumer never quantizes stay bf16 whatever the list says; entries see them under
their own names, so that one who lists them to be safe is not told that the entry is dead.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from sensitivity.consumers.lists import ConsumerList, ModelTree
from sensitivity.consumers.rules import MAX_ENTRY
from sensitivity.consumers.served_names import KEPT, served_names
from sensitivity.core.format_name import FormatName
from sensitivity.core.json_files import parse_json
from sensitivity.errors import PatternError

MAX_TEXT = 2**22
"""Characters of a text. The longest that our exporters write has 0.2 M."""

MAX_ENTRIES = 20_000


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedList(ConsumerList):
    """A list that its consumer matches with run-time names.

    Attributes:
        served: the key of `served_names.TABLES`; `renamed` is made from it.
        own_parts: the last parts of diffusers' names whose Linears go by these names as well, or by
            these alone (`own_only`), though they are fused.
        own_only: whether Linears of `own_parts` are not seen by the fused name.
        defaults: {component: what a Linear becomes that no entry hits}; None is the format that the
            list's user names. "" is every component; where components are named, those that are not
            stay bf16.
    """

    served: str
    defaults: Mapping[str, FormatName | None]
    own_parts: frozenset[str] = frozenset()
    own_only: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "renamed", partial(run_time_names, self.served))

    def names(self, tree: ModelTree) -> dict[str, set[str]]:
        """{name that a rule sees: FQNs that go by it}."""
        names: dict[str, set[str]] = {}
        for fqn, name in run_time_names(self.served, tree).items():
            inside = tree.inside(fqn)
            own = inside.rpartition(".")[2] in self.own_parts
            for seen in {inside} if own and self.own_only else {inside, name} if own else {name}:
                names.setdefault(seen, set()).add(fqn)
        return names

    def assign(self, tree: ModelTree, *, quantized: FormatName) -> dict[str, FormatName]:
        """{FQN: format} of every Linear; `quantized` is the format where the list names none.

        Raises:
            PatternError: an entry is malformed, the names of a class are not known, or entries hit
                a part of what the consumer runs as one Linear.
        """
        served, seen = served_names(self.served, tree), self.names(tree)
        formats = {fqn: self._default_of(self.part_of(fqn, tree)) or quantized for fqn in tree.fqns}
        for entry in reversed(self.entries):  # the first that hits a Linear decides
            formats.update(dict.fromkeys(self._found(entry, seen, tree), entry.format or quantized))
        whole: dict[tuple[str, str | None], str] = {}
        for fqn, name in served.items():
            if name is KEPT:
                formats[fqn] = FormatName.BF16
            elif (
                formats[first := whole.setdefault((tree.component_of(fqn), name), fqn)]
                != formats[fqn]
            ):
                raise PatternError(
                    f"found entries that hit only one of {first} and {fqn}; {self.consumer} runs"
                    " them as one Linear and fails on that; list both, or none"
                )
        return formats

    def _default_of(self, component: str) -> FormatName | None:
        return (
            self.defaults[""]
            if "" in self.defaults
            else self.defaults.get(component, FormatName.BF16)
        )


def run_time_names(served: str, tree: ModelTree) -> dict[str, str]:
    """{FQN: the name that entries are matched with}; their own for Linears that the consumer never
    quantizes.
    """
    return {
        fqn: tree.inside(fqn) if name is KEPT else name
        for fqn, name in served_names(served, tree).items()
    }


def parse_object(text: str, what: str) -> Mapping[str, Any]:
    """The JSON object that a text holds.

    Raises:
        PatternError: it holds none; `what` says what is allowed.
    """
    if len(text) > MAX_TEXT:
        raise PatternError(
            f"found a text of {len(text)} characters; allowed are {MAX_TEXT}; save only {what}"
        )
    try:
        value = parse_json(text.removeprefix("\ufeff").strip().encode())
    except (ValueError, UnicodeEncodeError) as error:
        raise PatternError(
            f"found a text that is no JSON ({error}); allowed is {what}; save it as JSON"
        ) from None
    if not isinstance(value, dict):
        raise PatternError(
            f"found a {type(value).__name__} at the top; allowed is {what}; save it as one JSON"
            " object"
        )
    return value


def looks_like_object(text: str) -> Mapping[str, Any]:
    """The JSON object that a text holds; an empty one where it holds none."""
    if text.removeprefix("\ufeff").lstrip()[:1] != "{":
        return {}
    try:
        return parse_object(text, "an object")
    except PatternError:
        return {}


def names_in(value: Any, key: str) -> tuple[str, ...]:
    """The strings of a list, each once and in its order; none for null.

    Raises:
        PatternError: it is no list of strings, or they are too many or too long.
    """
    names = [] if value is None else value
    if not isinstance(names, list) or len(names) > MAX_ENTRIES:
        raise PatternError(
            f"found {key} {str(value)[:80]}; allowed is a list of 0 to {MAX_ENTRIES} names; write"
            " it so"
        )
    return tuple(dict.fromkeys(check_name(name, key) for name in names))


def check_name(name: Any, key: str) -> str:
    """The name, if it is one.

    Raises:
        PatternError: it is no string of 1 to MAX_ENTRY characters.
    """
    if not isinstance(name, str) or not 0 < len(name) <= MAX_ENTRY:
        raise PatternError(
            f"found {str(name)[:80]!r} in {key}; allowed are names of 1 to {MAX_ENTRY} characters;"
            " write each in quotes"
        )
    return name


def by_component(value: Mapping[str, Any], marks: Iterable[str]) -> dict[str, Mapping[str, Any]]:
    """{component: its part}; {"": value} where the value has one of the keys `marks` itself.

    Parts that are null are left out.
    """
    if any(mark in value for mark in marks):
        return {"": value}
    return {name: part for name, part in value.items() if isinstance(part, dict)}
