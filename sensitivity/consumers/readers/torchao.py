"""How does torchao read a list?

The list is the JSON of an `FqnToConfig`, {key: config}; or of any other config for `quantize_`; or
{component: one of these}. Configs in other formats than ours (weight-only, int8, ...) are read too
(`readers.torchao_configs`).

    text = json.dumps(config_to_dict(FqnToConfig({"re:.*to_q": config, "proj_out": None})))
    get_reader("torchao").read(text).assign(tree, quantized=FormatName.NVFP4)

Rule, of `quantize_(model, FqnToConfig(...), filter_fn=None)`. For each Linear, in this order:

1. keys that are the whole name of a parameter, `x.weight` or `x.bias`. If there is one, steps 2, 4
   and 5 do not apply;
2. a key that is the whole name of the Linear decides;
3. `re:` keys that fullmatch a parameter's name. All of them are applied, not only the first, and a
   None among them undoes nothing. If there is one, steps 4 and 5 do not apply;
4. the first `re:` key that fullmatches the Linear's name decides;
5. `_default` decides; without it the Linear stays as it is.

Two consequences. `x.bias: None` keeps the weight of x in bf16. `re:blocks.*` with a config makes
torchao fail, because it also fits a container such as `blocks.0`, or a bias, and `quantize_` fails
on both. Where the tree shows such a failure, `assign` raises, since the list then quantizes
nothing. Keys that fit no name are ignored silently, as in torchao.

It does not see parameters and modules of other kinds: a norm that a `re:` key fits makes torchao
fail as well.

Source: torchao 0.18 (`quantization/quant_api.py`: `quantize_`, `_fqn_to_config_handler`), read, and
run in the tests.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sensitivity.consumers.lists import ConsumerList, Entry, ModelTree
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.documents import (
    lists_in,
    named_parts,
    parse_object,
    parts_of,
)
from sensitivity.consumers.readers.entries import check_count
from sensitivity.consumers.readers.torchao_configs import read_torchao_config
from sensitivity.consumers.readers.torchao_keys import KeyMatcher, containers
from sensitivity.core.format_name import FormatName
from sensitivity.core.words import and_more
from sensitivity.errors import PatternError


@dataclass(frozen=True, kw_only=True, slots=True)
class FqnConfigList(ConsumerList):
    """The keys of an `FqnToConfig`, under torchao's order of precedence.

    `default` of the base is not used.

    Attributes:
        defaults: {component: the format of a Linear that no key names}. The component is "" where
            the list names none; the keys are then for every component.
    """

    defaults: Mapping[str, ListedFormat] = field(default_factory=dict)

    def assign(self, tree: ModelTree, *, quantized: FormatName) -> dict[str, ListedFormat]:
        """{FQN: format} of every Linear.

        Components that the list does not name stay bf16. `quantized` is ignored: configs name their
        formats.

        Raises:
            PatternError: a key is malformed or takes too long to match, or torchao fails on this
                list.
        """
        del quantized
        components = dict.fromkeys(tree.component_of(fqn) for fqn in tree.fqns)
        found: dict[str, ListedFormat] = {}
        for component in components:
            names = {
                fqn: tree.inside(fqn) for fqn in tree.fqns if tree.component_of(fqn) == component
            }
            part = self._part_for(component)
            found |= (
                dict.fromkeys(names, _BF16)
                if part is None
                else self._assign_part(part, names, tree)
            )
        return {fqn: found[fqn] for fqn in tree.fqns}

    def _part_for(self, component: str) -> str | None:
        """The list's part for a component of the tree; None if it has none."""
        if "" in self.defaults:
            return ""
        if component in self.defaults:
            return component
        # A tree that names no component is meant by the only part there is.
        return next(iter(self.defaults)) if not component and len(self.defaults) == 1 else None

    def _keys(self, part: str) -> dict[str, ListedFormat]:
        return {
            entry.text: entry.format or FormatName.BF16
            for entry in self.entries
            if entry.rule == "weight-key" and entry.component == part
        }

    def _assign_part(
        self, part: str, names: Mapping[str, str], tree: ModelTree
    ) -> dict[str, ListedFormat]:
        """{FQN: format} of one component's Linears, for `names` {FQN: name inside it}."""
        keys = self._keys(part)
        biased = {
            name
            for fqn, name in names.items()
            if (f"{name}.bias" in keys if tree.biased is None else fqn in tree.biased)
        }
        weights = [f"{name}.weight" for name in names.values()]
        biases = [f"{name}.bias" for name in biased]
        around = containers(names.values())
        matcher = KeyMatcher(keys, [*names.values(), *weights, *biases, *around])
        for name in around:
            _check_container(matcher, name)
        return {
            fqn: _decide(matcher, name, name in biased) or self.defaults[part]
            for fqn, name in names.items()
        }


def _check_container(matcher: KeyMatcher, name: str) -> None:
    """Raise PatternError if a key would have torchao quantize a module that is no Linear."""
    key = matcher.module_key(name)
    if key is not None and matcher.keys[key].is_quantized:
        what = f"the module {name!r}" if name else "the whole model"
        raise PatternError(
            f"found the key {key!r}, which fits {what}, no Linear; torchao's quantize_ fails there"
            " ('no attribute weight'); expected keys that fit Linears, or null; name the Linears,"
            " or end a re: key with their last names"
        )


def _decide(matcher: KeyMatcher, name: str, biased: bool) -> ListedFormat | None:
    """What torchao makes of one Linear; None is its default.

    The numbers in the comments are the steps of the module's docstring.
    """
    parameters = [f"{name}.weight", *([f"{name}.bias"] if biased else [])]
    exact = [parameter for parameter in parameters if parameter in matcher.keys]
    left = [
        parameter for parameter in parameters if matcher.keys.get(parameter) is not FormatName.BF16
    ]
    if biased and not left:
        raise PatternError(
            f"found null for both {name}.weight and {name}.bias; torchao's quantize_ fails on that"
            f" ('pop index out of range'); expected at most one of them; name the Linear: {name}"
        )
    if not exact and name in matcher.keys:  # 2
        return matcher.keys[name]
    fitting = [(key, parameter) for parameter in left for key in matcher.fitting.get(parameter, ())]
    applied = [
        (key, parameter)
        for key, parameter in [*((parameter, parameter) for parameter in exact), *fitting]
        if matcher.keys[key].is_quantized
    ]
    if len(applied) > 1 or any(parameter.endswith(".bias") for _, parameter in applied):
        raise PatternError(
            f"found {', '.join(f'{key!r} for {parameter}' for key, parameter in applied)};"
            " torchao's quantize_ applies every key that fits a parameter, and fails on a bias and"
            " on a weight that is quantized twice; expected one config a weight; let keys name"
            " Linears, or end re: keys with weight"
        )
    if exact or fitting:  # 1 and 3
        return matcher.keys[applied[0][0]] if applied else FormatName.BF16
    key = matcher.module_key(name)
    return None if key is None else matcher.keys[key]  # 4, or else 5


class TorchaoReader(Reader):
    """JSON of `torchao.core.config.config_to_dict`."""

    name: ClassVar[str] = "torchao"
    description: ClassVar[str] = (
        "JSON of an FqnToConfig (torchao.core.config.config_to_dict), or {component: FqnToConfig}:"
        " exact names, re: by re.fullmatch, _default"
    )

    def read(self, text: str) -> FqnConfigList:
        """The keys of an `FqnToConfig`, or of one for each component.

        Any other config is what every Linear gets.
        """
        data = parse_object(text, self.description)
        parts = parts_of(data, _is_config, self.description)
        entries, defaults = list[Entry](), dict[str, ListedFormat]()
        for component, config in parts.items():
            found, defaults[component] = read_torchao_config(config, component)
            entries += found
        check_count(len(entries))
        return FqnConfigList(
            consumer=self.name,
            entries=tuple(entries),
            defaults=defaults,
            parts=named_parts(parts),
            notes=_notes(entries),
        )

    def looks_like(self, text: str) -> bool:
        """The object has `_type`, or every component's object has."""
        return any(map(_is_config, lists_in(text)))


_BF16: ListedFormat = FormatName.BF16


def _is_config(part: Mapping[str, Any]) -> bool:
    return "_type" in part


def _notes(entries: Iterable[Entry]) -> tuple[str, ...]:
    biases = [
        entry.text
        for entry in entries
        if entry.text.endswith(".bias") and not entry.text.startswith("re:")
    ]
    if not biases:
        return ()
    return (
        f"{len(biases)} key(s) name a bias ({and_more(biases, most=3)}): torchao then looks at no"
        " key for the Linear itself, nor at _default",
    )
