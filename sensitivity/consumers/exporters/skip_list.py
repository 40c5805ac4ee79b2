"""Which Linears stay in bf16, as a text that people read and any `filter_fn` can use?

One exact FQN a line; or globs of `sensitivity.patterns`, or the same as anchored regular
expressions for tools that use `re`, with the reason behind each. Comments above say model, latency
and LPIPS. It is what `sensitivity latency --skip FILE` reads back, but for the regular expressions.
In torchao:

    skip = {line for line in open("skip.txt").read().split("\\n") if line and not line.startswith("#")}
    quantize_(transformer, config, filter_fn=lambda module, fqn: isinstance(module, nn.Linear) and fqn not in skip)

Where a recipe is for several denoisers, entries begin with the component's name, and a comment says
so: in torchao, compare with f"transformer.{fqn}".

A skip-list has two formats: bf16 and one other, named in its first comment. A recipe with more has
no skip-list, and is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from sensitivity.consumers.exporters._base import Exporter, describe, quantized_formats, tree_of
from sensitivity.consumers.readers import get_reader
from sensitivity.core.format_name import FormatName
from sensitivity.core.pattern_cover import compress
from sensitivity.core.patterns import to_regex
from sensitivity.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class SkipListExporter(Exporter):
    """Text, one entry a line: exact FQNs (`fqns`), the shortest globs (`globs`), or those as
    regular expressions (`regex`); the last two hold for this model only.
    """

    name: ClassVar[str] = "skip-list"
    forms: ClassVar[Mapping[str, str]] = {"fqns": ".txt", "globs": ".txt", "regex": ".regex.txt"}
    max_formats: ClassVar[int] = 1

    def render(self, recipe: Recipe) -> str:
        """Comments, then entries."""
        header = [
            f"Linears that stay in bf16; every other Linear is {self._other(recipe)}.",
            *describe(recipe),
        ]
        if recipe.model.components:
            header.insert(
                1,
                "Names begin with their component's and a dot:"
                f" {', '.join(f'{name}.' for name in recipe.model.components)}",
            )
        lines = [f"# {line}" for line in header]
        if self.form == "fqns":
            lines += recipe.skip
        else:
            write = to_regex if self.form == "regex" else str
            lines += [
                f"{write(entry.pattern)}  # {entry.reason}"
                for entry in compress(recipe.skip, recipe.layers)
            ]
        return "\n".join(lines) + "\n"

    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, FormatName]:
        """What an entry hits is bf16, the rest is the one other format."""
        reader = get_reader({"fqns": "fqn", "globs": "glob", "regex": "regex"}[self.form])
        return reader.read(text).assign(tree_of(recipe, fqns), quantized=self._other(recipe))

    def _other(self, recipe: Recipe) -> FormatName:
        return next(iter(quantized_formats(recipe)), FormatName.BF16)
