"""How does diffusers read a list?

`TorchAoConfig.to_dict()` as JSON, bare, or {component: one of these} as in
`PipelineQuantizationConfig`.

    {"transformer": {"quant_method": "torchao", "quant_type": {"default": {...}}, "modules_to_not_convert": ["proj_out"]}}

It is also what a saved model's config.json has as `quantization_config`; that file may be given
whole.

Rule, of `from_pretrained(..., quantization_config=...)`, for each Linear's weight, in this order:

1. entries of `modules_to_not_convert` and of the class's `_keep_in_fp32_modules` keep it as it is:
  entry + "." anywhere in the parameter's name, or the whole name of the parameter. So `proj_out`
  hits every layer of this name, `transformer_blocks.0` also `single_transformer_blocks.0`, and
  `proj_out.weight` one layer only. Patterns hit nothing, in silence;
2. an `FqnToConfig`: the whole name of the parameter, of the Linear, the first `re:` key that
  fullmatches the parameter, then the Linear, then `_default`; any other config is for every Linear.

(1) is `TorchAoHfQuantizer.check_if_quantized_param` of `quantizers/torchao/torchao_quantizer.py`:
the same line in 0.32 to 0.42, run with 0.37 to 0.42. (2) is `_resolve_fqn_to_config` there, from
0.42 on; 0.41 and older leave all Linears to `_default`. The order differs from torchao's own
(`consumers.torchao`): here the first key decides, and containers and biases are never asked.

diffusers is imported when `assign` wants `_keep_in_fp32_modules`: seconds, once. What it does not
see: `device_map`, whose Linears on the CPU stay bf16.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.consumers.lists import Entry, ModelTree
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.torchao import (
    FqnConfigList,
    KeyMatcher,
    read_config,
    read_object,
    try_object,
)
from sensitivity.consumers.rules import hits
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError

RULE = "dotted-substring"


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusersList(FqnConfigList):
    """Substrings that stay bf16, then keys of an `FqnToConfig`, under diffusers' order of
    precedence.
    """

    def _assign_part(
        self, part: str, names: Mapping[str, str], tree: ModelTree
    ) -> dict[str, FormatName]:
        """{FQN: format} of one component's Linears, for `names` {FQN: name inside it}."""
        keys, inside = self._keys(part), frozenset(names.values())
        matcher = KeyMatcher(keys, [*inside, *(f"{name}.weight" for name in inside)])
        component = tree.component_of(next(iter(names)))
        parts = [
            entry.text for entry in self.entries if entry.rule == RULE and entry.component == part
        ]
        kept = frozenset[str]().union(
            *(
                hits(RULE, text, inside)
                for text in (*parts, *kept_in_fp32(tree.classes.get(component, "")))
            )
        )
        return {
            fqn: FormatName.BF16 if name in kept else _decide(matcher, name) or self.defaults[part]
            for fqn, name in names.items()
        }


def _decide(matcher: KeyMatcher, name: str) -> FormatName | None:
    """What diffusers makes of one Linear that is not kept; None is the default."""
    weight = f"{name}.weight"
    found = [
        *(key for key in (weight, name) if key in matcher.keys),
        *matcher.fitting.get(weight, ()),
        *matcher.fitting.get(name, ()),
    ]
    return matcher.keys[found[0]] if found else None


def kept_in_fp32(component_class: str) -> tuple[str, ...]:
    """Name parts that diffusers never quantizes in this class; none for a class that diffusers does
    not have.
    """
    import diffusers

    kept = getattr(getattr(diffusers, component_class, None), "_keep_in_fp32_modules", None) or ()
    return (kept,) if isinstance(kept, str) else tuple(kept)


class DiffusersReader(Reader):
    """JSON of `TorchAoConfig.to_dict()`, for one model or for components of a pipeline."""

    name: ClassVar[str] = "diffusers"
    words: ClassVar[str] = (
        'JSON of a diffusers TorchAoConfig, {"quant_method": "torchao", "quant_type": ...,'
        ' "modules_to_not_convert": [...]}, or {component: TorchAoConfig}: entry + "." anywhere in'
        " the weight's name, then FqnToConfig"
    )

    def read(self, text: str) -> DiffusersList:
        """Its substrings, then its keys."""
        entries, defaults = list[Entry](), dict[str, FormatName]()
        for component, config in _parts(read_object(text, self.words)).items():
            if not _is_config(config):
                raise PatternError(
                    f"found {config!r:.80}{f' for {component}' if component else ''}; allowed is"
                    f" {self.words}; write it with TorchAoConfig.to_dict()"
                )
            kept = config.get("modules_to_not_convert") or []
            for text_ in [kept] if isinstance(kept, str) else kept:
                if not isinstance(text_, str):
                    raise PatternError(
                        f"found {text_!r:.80} in modules_to_not_convert; allowed are parts of"
                        " names; write them in quotes"
                    )
                entries.append(Entry(text=text_, rule=RULE, component=component))
            found, defaults[component] = read_config(config["quant_type"]["default"], component)
            entries += found
        return DiffusersList(consumer=self.name, entries=tuple(entries), defaults=defaults)

    def looks_like(self, text: str) -> bool:
        """An object with torchao's `quant_method`, or of such objects."""
        parts = _parts(try_object(text))
        return bool(parts) and all(_is_config(config) for config in parts.values())


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
