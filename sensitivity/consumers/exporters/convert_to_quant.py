r"""Which options make convert_to_quant quantize exactly the recipe's layers of a checkpoint?

    text = get_exporter("convert-to-quant").export(recipe)

The text is a command for a shell, or one for each denoiser, under a comment with its name:

    ctq -i model.safetensors -o model-quantized.safetensors --comfy_quant --save-quant-metadata \
      --custom-type nvfp4 --custom-simple \
      --custom-layers '^(model\.diffusion_model\.)?double_blocks\.[0-9]\.img_attn\.qkv\.weight$' \
      --exclude-layers .

`-i` is the original checkpoint in bf16, as ComfyUI takes it; the output is a file for ComfyUI. What
`custom_layers` names gets `custom_type`, and everything else is excluded: other matrices in the
file too, such as embeddings, which would be quantized otherwise. A recipe with two formats has the
other one as the main format, and excludes all but its layers. Rounding is to the nearest, as here
(`simple`); convert_to_quant's own default is a learned rounding.

Formats are nvfp4, mxfp8, int8 (`scaling_mode` row) with and without a rotation (`convrot`, groups
of 256), and weight-only nvfp4, mxfp8 and int8 (`full_precision_matrix_mult`); two of them in one
file. What is said of the main format holds for custom layers too, so a rotation or a weight-only
product that only one of the two has is the custom one's. Its fp8 has one scale a tensor, and with
one a row ComfyUI has no such format, so neither is this tool's fp8. As in ComfyUI (exporter
`comfyui`), what is one matrix in the original checkpoint takes one format.

Source: convert_to_quant 1.3.4. How it reads its options is in `readers.convert_to_quant`.
"""

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from sensitivity.consumers.exporters._base import INT8_NOTE
from sensitivity.consumers.exporters._header import describe
from sensitivity.consumers.exporters._served import ServedExporter
from sensitivity.consumers.exporters.exact_targets import counted_regexes
from sensitivity.consumers.readers import Reader
from sensitivity.consumers.readers.comfyui import DEFAULT_GROUP
from sensitivity.consumers.readers.convert_to_quant import ConvertToQuantReader
from sensitivity.core.format_name import FormatName
from sensitivity.errors import RecipeError
from sensitivity.recipes.recipe import Recipe

PREFIX = r"(model\.diffusion_model\.)?"
MAX_ARGUMENT = 128 * 1024 - 1
"""The most characters of one argument that Linux passes to a program."""

PROGRAM_NOTE = (
    "convert_to_quant corrects each bias by the weight's error on random inputs, also with its"
    " simple rounding; this tool's formats leave biases alone"
)
TYPES = (
    *(FormatName.NVFP4, FormatName.MXFP8, FormatName.INT8, FormatName.INT8_ROT),
    *(FormatName.NVFP4_A16, FormatName.MXFP8_A16, FormatName.INT8_A16),
)
"""The formats that its options say."""

APART: Mapping[frozenset[FormatName], str] = {
    frozenset({FormatName.INT8_ROT, own}): (
        "the options of a rotation or of weight-only products for one of them are for both"
    )
    for own in TYPES
    if own.is_weight_only
}
"""{two formats that one command cannot say: why}."""

LACKS: Mapping[FormatName, str] = {
    FormatName.FP8_A16: "ComfyUI has no fp8 with one scale a row, which `scaling_mode` row makes",
}
"""{format: why it lacks it}."""

ROTATION_NOTE = (
    "convert_to_quant rotates in groups of 256, and leaves custom layers whose K is no multiple of"
    " 256 unrotated; this tool rotates these in groups of 64 or 16"
)
KITCHEN_NOTE = "convert_to_quant's mxfp8 needs comfy-kitchen with mxfp8, and a GPU"


@dataclass(frozen=True, kw_only=True)
class ConvertToQuantExporter(ServedExporter):
    """Commands for a shell, one for each denoiser."""

    name: ClassVar[str] = "convert-to-quant"
    forms: ClassVar[Mapping[str, str]] = {"commands": ".ctq.sh"}
    formats: ClassVar[frozenset[FormatName]] = frozenset({FormatName.BF16, *TYPES})
    max_formats: ClassVar[int] = 2
    lacks: ClassVar[Mapping[FormatName, str]] = LACKS
    apart: ClassVar[Mapping[frozenset[FormatName], str]] = APART

    @property
    def served_as(self) -> str:
        """ComfyUI, for which it makes files."""
        return "comfyui"

    @property
    def reader(self) -> Reader:
        """The reader of its command lines."""
        return ConvertToQuantReader()

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:
        """The reader's notes, and what the tool does beside the rounding."""
        used = set(recipe.layers.values())
        return (
            *super().notes(recipe, text),
            *((PROGRAM_NOTE,) if used != {FormatName.BF16} else ()),
            *((KITCHEN_NOTE,) if used & {FormatName.MXFP8, FormatName.MXFP8_A16} else ()),
            *((INT8_NOTE,) if any(own.plain is FormatName.INT8 for own in used) else ()),
            *((ROTATION_NOTE,) if FormatName.INT8_ROT in used else ()),
        )

    def render(self, recipe: Recipe) -> str:
        """Comments, then the commands.

        Raises:
            RecipeError: an option is longer than Linux takes.
        """
        lines = ["For convert_to_quant 1.3.4 (`pip install convert-to-quant`).", *describe(recipe)]
        text = "".join(f"# {line}\n" for line in lines)
        for component in recipe.model.classes:
            names = self.quantized_names(recipe, component)
            stem = component if recipe.model.components else "model"
            text += f"\n# component: {component}\n" if recipe.model.components else "\n"
            text += " \\\n  ".join(_command(stem, names)) + "\n"
        return text


def _command(stem: str, names: Mapping[str, FormatName]) -> list[str]:
    """The lines of one command; `names`: {the original name: format} of what is quantized."""
    by_format: dict[FormatName, list[str]] = {}
    for name, own in names.items():
        by_format.setdefault(own, []).append(name)
    # What the main format would pass on is custom; else the longer list is given by itself, since
    # it may be one of many alternatives.
    used = sorted(by_format, key=lambda own: (not _is_special(own), -len(by_format[own]), own))
    lines = [
        f"ctq -i {stem}.safetensors -o {stem}-quantized.safetensors --comfy_quant"
        " --save-quant-metadata"
    ]
    for own in used[:1]:
        expression = "|".join(rf"^{PREFIX}{one}\.weight$" for one in _regexes(by_format[own]))
        lines += [
            f"--custom-type {own.plain} --custom-simple{_custom(own)}",
            f"--custom-layers {_quoted(expression)}",
        ]
    for own in used[1:]:
        others = rf"^(?!{PREFIX}({'|'.join(_regexes(by_format[own]))})\.weight$)"
        lines += [f"--{own.plain} --simple{_main(own)}", f"--exclude-layers {_quoted(others)}"]
    return lines if len(used) > 1 else [*lines, "--exclude-layers ."]


def _is_special(name: FormatName) -> bool:
    """Whether a format has an option that the main format's layers would pass on."""
    return name.is_weight_only or name.is_rotated


def _custom(name: FormatName) -> str:
    """The options that make the custom layers' type this format."""
    return (
        " --custom-scaling-mode row" * (name.plain is FormatName.INT8)
        + f" --custom-convrot --custom-convrot-group-size {DEFAULT_GROUP}" * name.is_rotated
        + " --custom-fpmm" * name.is_weight_only
    )


def _main(name: FormatName) -> str:
    """The same for the main type."""
    return " --scaling_mode row" * (name.plain is FormatName.INT8) + (
        " --full_precision_matrix_mult" * name.is_weight_only
    )


def _regexes(names: Iterable[str]) -> list[str]:
    return [expression for expression, _ in counted_regexes(names)]


def _quoted(expression: str) -> str:
    if len(expression) > MAX_ARGUMENT:
        raise RecipeError(
            f"found an expression of {len(expression)} characters; expected at most {MAX_ARGUMENT},"
            " which Linux takes as one argument; use the exporter comfyui"
        )
    return shlex.quote(expression)
