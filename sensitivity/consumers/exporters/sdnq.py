"""How does SDNQ read a recipe? As the arguments of `SDNQConfig`.

    config = SDNQConfig(**json.load(open("recipe.sdnq.json")))
    Transformer.from_pretrained(path, subfolder="transformer", quantization_config=config)

The JSON has two lists of the same model: `modules_to_not_convert` is what stays in bf16, and
`modules_dtype_dict` is what gets the type. So it does not rest on a default. `add_skip_keys` is
off, as SDNQ would add names of its own; both bounds on a weight's size are 0, as it would leave out
small ones. Entries are names of weights, or names with stars, each checked on this model's Linears.

The format is fp8: weights in float8_e4m3fn with one scale a row (`group_size` -1), products in FP8
with one scale a token. SDNQ has no MXFP8 and no NVFP4: its float4_e2m1fn has other scales, and
products run in 8 or 16 bits. Its int8 and its weight-only formats are not this tool's.

Source: sdnq 0.2.8. How the consumer reads lists is in `readers.sdnq`.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.consumers.exporters._base import Exporter, indented_json, one_or_all, tree_of
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers.sdnq import SdnqReader
from sensitivity.consumers.readers.sdnq_configs import DTYPES, FP8, KEPT, RULE
from sensitivity.consumers.rules import hits
from sensitivity.consumers.seen_names import Names
from sensitivity.core.format_name import FormatName, quantized, skipped
from sensitivity.core.pattern_cover import compress
from sensitivity.core.patterns import META
from sensitivity.recipes.recipe import Recipe

ARGUMENTS: Mapping[str, Any] = {
    "quant_method": "sdnq",
    "weights_dtype": FP8,
    "quantized_matmul_dtype": FP8,
    "use_quantized_matmul": True,
    "group_size": -1,
    "add_skip_keys": False,
    "minimum_allowed_numel": 0,
    "minimum_allowed_channel_size": 0,
}
"""The arguments beside the lists."""

FEW_ROWS = (
    "SDNQ multiplies inputs of fewer than 32 rows in 16 bits (modulation, embedders of the time);"
    " and Linears with K or N below 32 in all calls"
)


@dataclass(frozen=True, kw_only=True)
class SdnqExporter(Exporter):
    """JSON of the arguments of `SDNQConfig`; {component: arguments} for several."""

    name: ClassVar[str] = "sdnq"
    forms: ClassVar[Mapping[str, str]] = {"json": ".sdnq.json"}
    formats: ClassVar[frozenset[FormatName]] = frozenset({FormatName.BF16, FormatName.FP8})

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:  # noqa: ARG002
        """When SDNQ multiplies in 16 bits."""
        return (FEW_ROWS,) if quantized(recipe.layers) else ()

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
    chosen = list(quantized(layers))
    return {
        **ARGUMENTS,
        KEPT: _entries(skipped(layers), list(layers)),
        DTYPES: {FP8: _entries(chosen, list(layers))} if chosen else {},
    }


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
