"""Which Linears stay in bf16, as a text that people read and any `filter_fn` can use?

One exact FQN a line, or globs of `sensitivity.patterns` with the reason behind each; comments above say model, latency and LPIPS. It is
what `sensitivity latency --skip FILE` reads back. In torchao:

    skip = {line for line in open("skip.txt").read().split("\\n") if line and not line.startswith("#")}
    quantize_(transformer, config, filter_fn=lambda module, fqn: isinstance(module, nn.Linear) and fqn not in skip)

Where a recipe is for several denoisers, entries begin with the component's name, and a comment says so: in torchao, compare with f"transformer.{fqn}".

A skip-list has two formats: bf16 and one other, named in its first comment. A recipe with more has no skip-list, and is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from sensitivity.exporters._base import Exporter, describe, quantized_formats
from sensitivity.patterns import compress, expand, read_list
from sensitivity.recipe import Recipe
from sensitivity.spec import FormatName


@dataclass(frozen=True, kw_only=True)
class SkipListExporter(Exporter):
    """Text, one entry a line: exact FQNs (`fqns`), or the shortest globs (`globs`), which hold for this model only."""

    name: ClassVar[str] = "skip-list"
    forms: ClassVar[Mapping[str, str]] = {"fqns": ".txt", "globs": ".txt"}
    max_formats: ClassVar[int] = 1

    def render(self, recipe: Recipe) -> str:
        """Comments, then entries."""
        formats = quantized_formats(recipe)
        other = formats[0] if formats else "bf16"
        header = [f"Linears that stay in bf16; every other Linear is {other}.", *describe(recipe)]
        if recipe.model.components:
            header.insert(1, f"Names begin with their component's and a dot: {', '.join(f'{name}.' for name in recipe.model.components)}")
        lines = [f"# {line}" for line in header]
        if self.form == "globs":
            lines += [f"{entry.pattern}  # {entry.reason}" for entry in compress(recipe.skip, recipe.layers)]
        else:
            lines += recipe.skip
        return "\n".join(lines) + "\n"

    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, FormatName]:
        """Entries match exactly or as globs; what matches is bf16, the rest is the one other format."""
        names = tuple(fqns)
        kept = expand(read_list(text), names).matched
        other = next(iter(quantized_formats(recipe)), FormatName.BF16)
        return {fqn: FormatName.BF16 if fqn in kept else other for fqn in names}
