"""How does diffusers read a list?

The list is `TorchAoConfig.to_dict()` as JSON, or the same of another backend, or {component: one of
these} as in `PipelineQuantizationConfig` (its `quant_mapping`, or its `quant_backend` with
`quant_kwargs` and `components_to_quantize`).

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

Other backends have their own rules for what stays in bf16 (`readers.diffusers_backends`), and
formats that this tool does not have.

The order is not torchao's own (`readers.torchao`): here the first key decides, and neither
containers nor biases are looked at.

Source: `quantizers/torchao/torchao_quantizer.py`. (1) is `check_if_quantized_param`, unchanged from
0.32 to 0.42, and run with 0.37 to 0.42. (2) is `_resolve_fqn_to_config`, since 0.42; older releases
leave all Linears to `_default`.

`assign` imports diffusers for `_keep_in_fp32_modules`, which takes seconds, once. It does not see
`device_map`: diffusers keeps Linears that it places on the CPU in bf16.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from sensitivity.consumers.lists import Entry, ModelTree
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.diffusers_backends import (
    RULE,
    is_config,
    pipeline_parts,
    read_backend,
)
from sensitivity.consumers.readers.documents import (
    lists_in,
    named_parts,
    object_or_empty,
    parse_object,
    parts_of,
)
from sensitivity.consumers.readers.entries import check_count
from sensitivity.consumers.readers.torchao import FqnConfigList
from sensitivity.consumers.readers.torchao_keys import KeyMatcher
from sensitivity.consumers.rules import hits
from sensitivity.consumers.seen_names import Names
from sensitivity.core.format_name import FormatName


@dataclass(frozen=True, kw_only=True, slots=True)
class DiffusersList(FqnConfigList):
    """Substrings that keep Linears in bf16, then the keys of an `FqnToConfig`, in diffusers' order
    of precedence.
    """

    rules: Mapping[str, str] = field(default_factory=dict)
    """{component: the rule of its backend}, by which `_keep_in_fp32_modules` are matched too."""
    always_bf16: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """{component: parts of names that its backend never quantizes}."""

    def _assign_part(
        self, part: str, names: Mapping[str, str], tree: ModelTree
    ) -> dict[str, ListedFormat]:
        """{FQN: format} of one component's Linears, for `names` {FQN: name inside it}."""
        inside = Names((name, {name}) for name in names.values())
        matcher = KeyMatcher(self._keys(part), [*inside, *(f"{name}.weight" for name in inside)])
        found = {name: _decide(matcher, name) or self.defaults[part] for name in inside}
        own = [x for x in self.entries if x.rule != "weight-key" and x.component == part]
        for entry in own:
            becomes = entry.format or FormatName.BF16
            found.update(dict.fromkeys(hits(entry.rule, entry.text, inside), becomes))
        for text in self.always_bf16.get(part, ()):
            found.update(dict.fromkeys(hits(RULE, text, inside), FormatName.BF16))
        component = tree.component_of(next(iter(names)))
        for text in kept_in_fp32(tree.classes.get(component, "")):
            kept = hits(self.rules.get(part, RULE), text, inside)
            found.update(dict.fromkeys(kept, FormatName.BF16))
        return {fqn: found[name] for fqn, name in names.items()}


def _decide(matcher: KeyMatcher, name: str) -> ListedFormat | None:
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
    """JSON of a backend's config, for one model or for components of a pipeline."""

    name: ClassVar[str] = "diffusers"
    description: ClassVar[str] = (
        'JSON of a diffusers TorchAoConfig, {"quant_method": "torchao", "quant_type": ...,'
        ' "modules_to_not_convert": [...]}, or {component: TorchAoConfig}: entry + "." anywhere in'
        " the weight's name, then FqnToConfig; other backends by their own rules"
    )

    def read(self, text: str) -> DiffusersList:
        """What stays in bf16, then the keys."""
        value = pipeline_parts(parse_object(text, self.description))
        parts = parts_of(value, is_config, self.description)
        entries, defaults = list[Entry](), dict[str, ListedFormat]()
        rules: dict[str, str] = {}
        always: dict[str, tuple[str, ...]] = {}
        for component, config in parts.items():
            if config is None:
                defaults[component] = FormatName.BF16
                continue
            backend = read_backend(config, component)
            entries += backend.entries
            defaults[component], rules[component] = backend.default, backend.rule
            always[component] = backend.always_bf16
        check_count(len(entries))
        return DiffusersList(
            consumer=self.name,
            entries=tuple(entries),
            defaults=defaults,
            rules=rules,
            always_bf16=always,
            parts=named_parts(parts),
        )

    def looks_like(self, text: str) -> bool:
        """The object, or an object of one component, is the config of one of diffusers' backends;
        or the object is a pipeline's config.
        """
        return "quant_backend" in object_or_empty(text) or any(map(is_config, lists_in(text)))
