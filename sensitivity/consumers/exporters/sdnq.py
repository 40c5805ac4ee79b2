"""How does SDNQ read a recipe? As the arguments of `SDNQConfig`.

    config = SDNQConfig(**json.load(open("recipe.sdnq.json")))
    Transformer.from_pretrained(path, subfolder="transformer", quantization_config=config)

The JSON has two lists of the same model: `modules_to_not_convert` is what stays in bf16, and
`modules_dtype_dict` is what gets the type. So it does not rest on a default. `add_skip_keys` is
off, as SDNQ would add names of its own; both bounds on a weight's size are 0, as it would leave out
small ones. Entries are names of weights, or names with stars, each checked on this model's Linears.

Formats are fp8 and int8: weights in float8_e4m3fn or int8 with one scale a row (`group_size` -1),
products in the same type with one scale a token; int8-rot, which is int8 with `use_hadamard`; and
fp8 and int8 of weights alone. Where a recipe has several, the one of most Linears is the config's,
and `modules_quant_config` gives the others' arguments. SDNQ has no MXFP8 and no NVFP4: its
float4_e2m1fn has other scales, and products run in 8 or 16 bits.

Source: sdnq 0.2.8. How the consumer reads lists is in `readers.sdnq`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.consumers.exporters._base import (
    INT8_NOTE,
    Exporter,
    indented_json,
    one_or_all,
    quantized_formats,
    tree_of,
)
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers.sdnq import SdnqReader
from sensitivity.consumers.readers.sdnq_configs import CONFIGS, DTYPES, FP8, INT8, KEPT, RULE
from sensitivity.consumers.rules import hits
from sensitivity.consumers.seen_names import Names
from sensitivity.core.format_name import FormatName, quantized, skipped
from sensitivity.core.pattern_cover import compress
from sensitivity.core.patterns import META
from sensitivity.core.rotation_block import BLOCKS
from sensitivity.recipes.recipe import Recipe


def _arguments(dtype: str, *, matmul: bool = True, **more: Any) -> dict[str, Any]:
    return {
        "weights_dtype": dtype,
        "quantized_matmul_dtype": dtype,
        "use_quantized_matmul": matmul,
        "group_size": -1,
        **more,
    }


OF_FORMATS: Mapping[FormatName, Mapping[str, Any]] = {
    FormatName.FP8: _arguments(FP8),
    FormatName.INT8: _arguments(INT8),
    FormatName.INT8_ROT: _arguments(INT8, use_hadamard=True, hadamard_group_size=BLOCKS[0]),
    FormatName.FP8_A16: _arguments(FP8, matmul=False),
    FormatName.INT8_A16: _arguments(INT8, matmul=False),
}
"""{format: the arguments of its Linears}."""

ARGUMENTS: Mapping[str, Any] = {
    "add_skip_keys": False,
    "minimum_allowed_numel": 0,
    "minimum_allowed_channel_size": 0,
}
"""The arguments beside the lists that no format changes."""

ROTATION_NOTE = (
    "SDNQ rotates by another matrix (Sylvester's, of size 128 or 32) where the largest power of two"
    " up to 256 that divides K is none of 4; this tool takes 64 or 16 there"
)

FEW_ROWS = (
    "SDNQ multiplies inputs of fewer than 32 rows in 16 bits (modulation, embedders of the time);"
    " and Linears with K or N below 32 in all calls"
)


@dataclass(frozen=True, kw_only=True)
class SdnqExporter(Exporter):
    """JSON of the arguments of `SDNQConfig`; {component: arguments} for several."""

    name: ClassVar[str] = "sdnq"
    forms: ClassVar[Mapping[str, str]] = {"json": ".sdnq.json"}
    formats: ClassVar[frozenset[FormatName]] = frozenset({FormatName.BF16, *OF_FORMATS})

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:  # noqa: ARG002
        """When SDNQ multiplies in 16 bits, and where its int8 differs."""
        used = quantized_formats(recipe)
        return (
            *((FEW_ROWS,) if any(not own.is_weight_only for own in used) else ()),
            *((INT8_NOTE,) if any(own.plain is FormatName.INT8 for own in used) else ()),
            *((ROTATION_NOTE,) if FormatName.INT8_ROT in used else ()),
        )

    def render(self, recipe: Recipe) -> str:
        """The JSON text, indented."""
        configs = {
            component: _config(layers) for component, layers in recipe.layers_by_component.items()
        }
        return indented_json(one_or_all(recipe, configs))

    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, ListedFormat]:
        """What the reader makes of the text."""
        return SdnqReader().read(text).assign(tree_of(recipe, fqns), quantized=FormatName.BF16)


def _config(layers: Mapping[str, FormatName]) -> dict[str, Any]:
    """The arguments for one component, `layers` by the names inside it."""
    chosen, names = quantized(layers), list(layers)
    counts = Counter(chosen.values())
    used = sorted(counts, key=lambda own: (-counts[own], own))
    main = used[0] if used else FormatName.FP8

    def entries(own: FormatName) -> list[str]:
        return _entries([fqn for fqn, name in chosen.items() if name is own], names)

    dtype = OF_FORMATS[main]["weights_dtype"]
    config = {
        "quant_method": "sdnq",
        **OF_FORMATS[main],
        **ARGUMENTS,
        KEPT: _entries(skipped(layers), names),
        DTYPES: {dtype: entries(main)} if used else {},
    }
    others = {entry: dict(OF_FORMATS[own]) for own in used[1:] for entry in entries(own)}
    off = {"use_hadamard": False} if main.is_rotated else {}
    return config | (
        {CONFIGS: {entry: off | own for entry, own in others.items()}} if others else {}
    )


def _entries(fqns: list[str], universe: list[str]) -> list[str]:
    """Entries that hit exactly `fqns`: globs where these are exact to SDNQ too, else weights."""
    names, wanted = Names((fqn, {fqn}) for fqn in universe), frozenset(fqns)
    chosen, left = list[str](), dict.fromkeys(fqns)
    for pattern in compress(fqns, universe) if fqns else ():
        entry = f"{pattern.pattern}.weight"
        if "*" not in entry and not META.isdisjoint(entry):
            entry += "*"  # SDNQ takes an entry for a pattern only if it has a star
        hit = hits(RULE, entry, names)
        if hit and hit <= wanted:
            chosen.append(entry)
            for fqn in hit:
                left.pop(fqn, None)
    return [*chosen, *(f"{fqn}.weight" for fqn in left)]
