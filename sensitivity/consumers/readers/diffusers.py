"""How does diffusers read a list?

The list is `TorchAoConfig.to_dict()` as JSON, or {component: one of these} as in
`PipelineQuantizationConfig`.

    {"transformer": {"quant_method": "torchao", "quant_type": {"default": {...}},
                     "modules_to_not_convert": ["proj_out"]}}

A saved model has it as `quantization_config` in its config.json, and that whole file is read too.

Rule, of `from_pretrained(..., quantization_config=...)`. For each Linear's weight, in this order:

1. entries of `modules_to_not_convert`, and of the class's `_keep_in_fp32_modules`, keep it in bf16.
   An entry hits a parameter if entry + "." stands anywhere in the parameter's name, or if it is the
   whole name. So `proj_out` hits every layer of this name, `transformer_blocks.0` also hits
   `single_transformer_blocks.0`, and `proj_out.weight` hits one layer only. Patterns hit nothing,
   silently;
2. the first key of an `FqnToConfig` that fits decides: the whole name of the parameter, then of the
   Linear, then the first `re:` key that fullmatches the parameter, then one that fullmatches the
   Linear, then `_default`. Any other config is for every Linear.

The order is not torchao's own (`readers.torchao`): here the first key decides, and neither
containers nor biases are looked at.

Source: `quantizers/torchao/torchao_quantizer.py`. (1) is `check_if_quantized_param`, unchanged from
0.32 to 0.42, and run with 0.37 to 0.42. (2) is `_resolve_fqn_to_config`, since 0.42; older releases
leave all Linears to `_default`.

`assign` imports diffusers for `_keep_in_fp32_modules`, which takes seconds, once. It does not see
`device_map`: diffusers keeps Linears that it places on the CPU in bf16.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.consumers.lists import Entry, ModelTree
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.json_objects import object_or_empty, parse_object
from sensitivity.consumers.readers.torchao import FqnConfigList
from sensitivity.consumers.readers.torchao_configs import read_torchao_config
from sensitivity.consumers.readers.torchao_keys import KeyMatcher
from sensitivity.consumers.rules import hits
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

RULE = "dotted-substring"
"""The rule of `modules_to_not_convert`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusersList(FqnConfigList):
    """Substrings that keep Linears in bf16, then the keys of an `FqnToConfig`, in diffusers' order
    of precedence.
    """

    def _assign_part(
        self, part: str, names: Mapping[str, str], tree: ModelTree
    ) -> dict[str, FormatName]:
        """{FQN: format} of one component's Linears, for `names` {FQN: name inside it}."""
        inside = frozenset(names.values())
        matcher = KeyMatcher(self._keys(part), [*inside, *(f"{name}.weight" for name in inside)])
        component = tree.component_of(next(iter(names)))
        substrings = [
            entry.text for entry in self.entries if entry.rule == RULE and entry.component == part
        ]
        substrings += kept_in_fp32(tree.classes.get(component, ""))
        kept = frozenset[str]().union(*(hits(RULE, text, inside) for text in substrings))
        return {
            fqn: FormatName.BF16 if name in kept else _decide(matcher, name) or self.defaults[part]
            for fqn, name in names.items()
        }


def _decide(matcher: KeyMatcher, name: str) -> FormatName | None:
    """What diffusers makes of a Linear that no substring keeps in bf16; None is the default."""
    weight = f"{name}.weight"
    found = [
        *(key for key in (weight, name) if key in matcher.keys),
        *matcher.fitting.get(weight, ()),
        *matcher.fitting.get(name, ()),
    ]
    return matcher.keys[found[0]] if found else None


def kept_in_fp32(component_class: str) -> tuple[str, ...]:
    """Parts of names that diffusers never quantizes in a class; none if diffusers has no such
    class.
    """
    import diffusers

    kept = getattr(getattr(diffusers, component_class, None), "_keep_in_fp32_modules", None) or ()
    return (kept,) if isinstance(kept, str) else tuple(kept)


class DiffusersReader(Reader):
    """JSON of `TorchAoConfig.to_dict()`, for one model or for components of a pipeline."""

    name: ClassVar[str] = "diffusers"
    description: ClassVar[str] = (
        'JSON of a diffusers TorchAoConfig, {"quant_method": "torchao", "quant_type": ...,'
        ' "modules_to_not_convert": [...]}, or {component: TorchAoConfig}: entry + "." anywhere in'
        " the weight's name, then FqnToConfig"
    )

    def read(self, text: str) -> DiffusersList:
        """The substrings, then the keys."""
        entries, defaults = list[Entry](), dict[str, FormatName]()
        for component, config in _parts(parse_object(text, self.description)).items():
            if not _is_config(config):
                where = f" for {component}" if component else ""
                raise PatternError(
                    f"found {config!r:.80}{where}; expected {self.description}; write it with"
                    " TorchAoConfig.to_dict()"
                )
            entries += _substrings(config, component)
            found, defaults[component] = read_torchao_config(
                config["quant_type"]["default"], component
            )
            entries += found
        return DiffusersList(consumer=self.name, entries=tuple(entries), defaults=defaults)

    def looks_like(self, text: str) -> bool:
        """The object has torchao's `quant_method`, or every component's object has."""
        parts = _parts(object_or_empty(text))
        return bool(parts) and all(_is_config(config) for config in parts.values())


def _substrings(config: Mapping[str, Any], component: str) -> list[Entry]:
    kept = config.get("modules_to_not_convert") or []
    texts = [kept] if isinstance(kept, str) else kept
    for text in texts:
        if not isinstance(text, str):
            raise PatternError(
                f"found {text!r:.80} in modules_to_not_convert; expected a part of a name; write it"
                " in quotes"
            )
    return [Entry(text=text, rule=RULE, component=component) for text in texts]


def _parts(data: dict[str, Any]) -> dict[str, Any]:
    """{component: config}; the component is "" where none is named."""
    if isinstance(data.get("quantization_config"), dict):
        return {"": data["quantization_config"]}
    return {"": data} if "quant_method" in data or "quant_type" in data else data


def _is_config(config: Any) -> bool:
    if not isinstance(config, dict) or config.get("quant_method", "torchao") != "torchao":
        return False
    kinds, kept = config.get("quant_type"), config.get("modules_to_not_convert") or []
    return isinstance(kinds, dict) and list(kinds) == ["default"] and isinstance(kept, (str, list))
