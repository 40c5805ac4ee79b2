"""How does SDNQ read a list?

The list is an `SDNQConfig` as JSON, or {component: SDNQConfig}. A saved model has it as
`quantization_config` in its config.json.

    {"quant_method": "sdnq", "weights_dtype": "float8_e4m3fn", "use_quantized_matmul": true,
     "modules_to_not_convert": ["proj_out"], "modules_dtype_dict": {"int8": [".blocks.0."]}}

Rule, for each Linear's weight:

1. an entry of `modules_to_not_convert` that hits keeps it as it is, and so does a weight that is
   too small (`minimum_allowed_numel`, `minimum_allowed_channel_size`), where its shape is known;
2. the first entry of `modules_quant_config` that hits gives it other arguments;
3. the first entry of `modules_dtype_dict` that hits gives it another type;
4. an entry of `modules_to_not_use_matmul` that hits has its product run in 16 bits.

An entry hits a parameter if it is the whole name (with `.weight`) or one part of it between dots.
After a dot in front it hits what begins so. With `*` it is a `re.match` in which a star is any run
of characters, and all else is a regular expression still.

With `add_skip_keys`, which is on if nothing is said, SDNQ adds names for the model's class when it
quantizes: embedders, final layers. They are not seen here; a saved model's lists have them. What
the class keeps in fp32 is seen.

Source: sdnq 0.2.8 (`check_param_name_in`, `check_quant_is_allowed`, `get_quant_kwargs`), read, and
run beside this in the tests. The types are in `readers.sdnq_configs`.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sensitivity.consumers.lists import ConsumerList, ModelTree
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers._base import Reader
from sensitivity.consumers.readers.diffusers import kept_in_fp32
from sensitivity.consumers.readers.diffusers_backends import pipeline_parts
from sensitivity.consumers.readers.documents import (
    lists_in,
    named_parts,
    object_or_empty,
    parse_object,
    parts_of,
)
from sensitivity.consumers.readers.entries import check_count
from sensitivity.consumers.readers.sdnq_configs import (
    CONFIGS,
    DTYPES,
    KEPT,
    NO_MATMUL,
    RULE,
    SdnqConfig,
    SdnqEntry,
    dtype_of,
    format_of,
    read_sdnq_config,
)
from sensitivity.consumers.rules import hits
from sensitivity.consumers.seen_names import Names
from sensitivity.core.format_name import FormatName

ADDS_NAMES = (
    "SDNQ adds names for the model's class to modules_to_not_convert when it quantizes; these are"
    " not seen here. A saved model's config has them, and `add_skip_keys` false leaves them out"
)
LEAST_WIDTH, MULTIPLE = 32, 16
"""What a quantized product asks of K and N."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SdnqList(ConsumerList):
    """The lists of one config, or of one a component, in SDNQ's order of precedence.

    Attributes:
        configs: {component: config}; "" is every component, None a component that stays bf16.
    """

    configs: Mapping[str, SdnqConfig | None] = field(default_factory=dict)

    def assign(self, tree: ModelTree, *, quantized: FormatName) -> dict[str, ListedFormat]:
        """{FQN: format} of every Linear; `quantized` is ignored, since configs name their types.

        Components that the list does not name stay bf16.

        Raises:
            PatternError: an entry takes too long to match.
        """
        del quantized
        found = dict[str, ListedFormat]()
        for component in dict.fromkeys(tree.component_of(fqn) for fqn in tree.fqns):
            fqns = [fqn for fqn in tree.fqns if tree.component_of(fqn) == component]
            part = self._part_for(component)
            config = None if part is None else self.configs[part]
            if config is None:
                found |= dict.fromkeys(fqns, FormatName.BF16)
                continue
            own = [entry for entry in self.entries if entry.component == part]
            found |= _assign(config, [x for x in own if isinstance(x, SdnqEntry)], fqns, tree)
        return {fqn: found[fqn] for fqn in tree.fqns}

    def _part_for(self, component: str) -> str | None:
        """The list's part for a component of the tree; None if it has none."""
        if "" in self.configs:
            return ""
        if not component and len(self.configs) == 1:
            return next(iter(self.configs))
        return component if component in self.configs else None


def _assign(
    config: SdnqConfig, entries: Collection[SdnqEntry], fqns: Collection[str], tree: ModelTree
) -> dict[str, ListedFormat]:
    """{FQN: format} of the Linears of one component, by those entries that are left."""
    names = {fqn: tree.inside(fqn) for fqn in fqns}
    inside = Names((name, {name}) for name in names.values())
    lists: dict[str, list[tuple[SdnqEntry, frozenset[str]]]] = {}
    for entry in entries:
        lists.setdefault(entry.among, []).append((entry, hits(RULE, entry.text, inside)))

    def hit_by(among: str, name: str) -> list[SdnqEntry]:
        return [entry for entry, hit in lists.get(among, ()) if name in hit]

    kind = tree.classes.get(tree.component_of(next(iter(fqns))), "") if fqns else ""
    in_fp32 = kept_in_fp32(kind) if config.adds_names else ()
    kept = frozenset[str]().union(*(hits(RULE, text, inside) for text in in_fp32))
    found: dict[str, ListedFormat] = {}
    for fqn, name in names.items():
        shape = tree.shapes.get(fqn)
        is_small = shape is not None and _is_small(shape, config.arguments)
        if is_small or name in kept or hit_by(KEPT, name):
            found[fqn] = FormatName.BF16
            continue
        own = next((config.others[entry.text] for entry in hit_by(CONFIGS, name)), {})
        arguments = {**config.arguments, **own}
        given = (dtype_of(entry.key, arguments) for entry in hit_by(DTYPES, name))
        multiplies = not hit_by(NO_MATMUL, name) and (shape is None or _multiplies(shape))
        dtype = next((one for one in given if one), None)
        found[fqn] = format_of(arguments, dtype, matmul=multiplies)
    return found


def _is_small(shape: tuple[int, int], arguments: Mapping[str, Any]) -> bool:
    """Whether SDNQ leaves a weight of (K, N) as it is."""
    k, n = shape
    least = arguments.get("minimum_allowed_numel", 16384)
    width = arguments.get("minimum_allowed_channel_size", 32)
    return isinstance(least, int) and isinstance(width, int) and (k * n < least or k < width)


def _multiplies(shape: tuple[int, int]) -> bool:
    """Whether SDNQ quantizes the product of a Linear of (K, N)."""
    return min(shape) >= LEAST_WIDTH and all(size % MULTIPLE == 0 for size in shape)


class SdnqReader(Reader):
    """JSON of an `SDNQConfig`, for one model or for components of a pipeline."""

    name: ClassVar[str] = "sdnq"
    description: ClassVar[str] = (
        'JSON of an SDNQConfig, {"weights_dtype": ..., "modules_to_not_convert": [...],'
        ' "modules_dtype_dict": {TYPE: [...]}}, or {component: SDNQConfig}: one part of a name, the'
        " whole name of the weight, what begins so after a dot, * in it"
    )

    def read(self, text: str) -> SdnqList:
        """What stays as it is, then types and arguments of single modules."""
        value = pipeline_parts(parse_object(text, self.description))
        parts = parts_of(value, _is_config, self.description)
        configs = {
            component: None if part is None else read_sdnq_config(part)
            for component, part in parts.items()
        }
        entries = [
            entry
            for component, config in configs.items()
            if config
            for entry in config.entries(component)
        ]
        check_count(len(entries))
        adds = any(config.adds_names for config in configs.values() if config)
        return SdnqList(
            consumer=self.name,
            entries=tuple(entries),
            defaults={
                component: config.default if config else FormatName.BF16
                for component, config in configs.items()
            },
            configs=configs,
            parts=named_parts(parts),
            notes=(ADDS_NAMES,) * adds,
        )

    def looks_like(self, text: str) -> bool:
        """Every config in the text is SDNQ's, and says so."""
        value = object_or_empty(text)
        if value.get("quant_backend") == "sdnq":
            return True
        own = [part for part in lists_in(text) if "quant_method" in part or DTYPES in part]
        return bool(own) and all(_says_so(part) for part in own)


def _says_so(part: Mapping[str, Any]) -> bool:
    return part.get("quant_method") == "sdnq" or ("quant_method" not in part and DTYPES in part)


def _is_config(part: Mapping[str, Any]) -> bool:
    return _says_so(part) or ("quant_method" not in part and "weights_dtype" in part)
