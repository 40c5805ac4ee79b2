r"""Which Linears stay in bf16? A text that people read, and that any `filter_fn` can use.

There are three forms: one exact FQN a line (`fqns`); globs of `core.patterns` (`globs`); or the
same as anchored regular expressions, for tools that use `re` (`regex`). The last two have a reason
behind each entry. Comments above have the model, the latency and LPIPS. `sensitivity latency` reads
the first two. In torchao:

    lines = open("skip.txt").read().split("\n")
    skip = {line for line in lines if line and not line.startswith("#")}

    def filter_fn(module, fqn):
        return isinstance(module, nn.Linear) and fqn not in skip

In a list for several denoisers, entries begin with the component's name, and a comment says so. In
torchao, compare with f"transformer.{fqn}" then.

A skip-list has two formats: bf16, and one other that its first comment names. A recipe with more
formats cannot be a skip-list, and is refused.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from sensitivity.consumers.exporters._base import Exporter, only_format, tree_of
from sensitivity.consumers.exporters._header import describe
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers import get_reader
from sensitivity.core.pattern_cover import compress
from sensitivity.core.patterns import to_regex
from sensitivity.recipes.recipe import Recipe

_READERS = {"fqns": "fqn", "globs": "glob", "regex": "regex"}
"""{form: the reader of its texts}."""


@dataclass(frozen=True, kw_only=True)
class SkipListExporter(Exporter):
    """Text, one entry a line: exact FQNs, the shortest globs, or these as regular expressions.

    Globs and regular expressions hold for this model only.
    """

    name: ClassVar[str] = "skip-list"
    forms: ClassVar[Mapping[str, str]] = {"fqns": ".txt", "globs": ".txt", "regex": ".regex.txt"}
    max_formats: ClassVar[int] = 1

    def render(self, recipe: Recipe) -> str:
        """Comments, then entries."""
        header = [
            f"Linears that stay in bf16; every other Linear is {only_format(recipe)}.",
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

    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, ListedFormat]:
        """bf16 for what an entry hits, and the one other format for the rest."""
        listed = get_reader(_READERS[self.form]).read(text)
        return listed.assign(tree_of(recipe, fqns), quantized=only_format(recipe))
