"""Can a server that renames and fuses Linears run the recipe? What the exporters for vLLM-Omni,
SGLang and ComfyUI share.

Such a server has obstacles that other consumers do not have. It may have no class for the model, or
one whose names are not known here. It never quantizes some Linears. It runs several Linears as one,
or cannot tell them apart. All of this comes from `consumers.served_names`; `nearest` avoids each of
these obstacles but the unknown names.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sensitivity.consumers.exporters._base import Exporter, tree_of
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.readers import Reader
from sensitivity.consumers.served_names import (
    ALWAYS_BF16,
    known_classes,
    served_names,
    unknown_linears,
)
from sensitivity.core.format_name import FormatName, quantized, skipped
from sensitivity.core.fqns import is_in
from sensitivity.core.words import some
from sensitivity.errors import RecipeError
from sensitivity.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class ServedExporter(Exporter):
    """An exporter whose `name` is one of `served_names.CONSUMERS`."""

    @property
    @abstractmethod
    def reader(self) -> Reader:
        """The reader of the texts, which simulates the server."""

    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, ListedFormat]:
        """What the reader makes of the text."""
        return self.reader.read(text).assign(tree_of(recipe, fqns), quantized=FormatName.BF16)

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:  # noqa: ARG002
        """The reader's notes."""
        return self.reader.read(text).notes

    def served(self, recipe: Recipe) -> dict[str, str | None]:
        """{FQN: run-time name}, as `served_names` gives it."""
        return served_names(self.name, tree_of(recipe, recipe.layers))

    def fused(self, recipe: Recipe) -> Sequence[Sequence[str]]:
        """The Linears of one run-time name, and those without a name, by component."""
        if self._unknown(recipe):
            return ()
        tree = tree_of(recipe, recipe.layers)
        families: dict[tuple[str, str], list[str]] = {}
        for fqn, name in self.served(recipe).items():
            if name is not ALWAYS_BF16:
                families.setdefault((tree.component_of(fqn), name), []).append(fqn)
        return [family for family in families.values() if len(family) > 1]

    def obstacles(self, recipe: Recipe) -> list[str]:
        """Unknown names alone, if there are any; else quantized Linears that the server always runs
        in bf16, and the obstacles of every exporter.
        """
        if unknown := self._unknown(recipe):
            return unknown
        always = self._always_bf16(recipe)
        kept = [fqn for fqn in quantized(recipe.layers) if fqn in always]
        if kept and len(always) == len(recipe.layers):
            kinds = ", ".join(dict.fromkeys(recipe.model.classes.values()))
            return [f"it quantizes no Linear of {kinds}: all of the model runs in bf16 there"]
        found = [f"it always runs {some(kept)} in bf16, which the recipe quantizes"] if kept else []
        return found + super().obstacles(recipe)

    def nearest(self, recipe: Recipe) -> dict[str, FormatName]:
        """The nearest formats of every exporter, with bf16 for what the server never quantizes.

        Raises:
            RecipeError: the names of the recipe's class are not known.
        """
        if unknown := self._unknown(recipe):
            raise RecipeError(
                f"found no recipe near {recipe.name!r} for {self.name}: {'; '.join(unknown)};"
                " expected a model whose names are known; use another exporter"
            )
        kept = self._always_bf16(recipe)
        return {
            fqn: FormatName.BF16 if fqn in kept else name
            for fqn, name in super().nearest(recipe).items()
        }

    def bf16_names(self, recipe: Recipe, component: str) -> list[str]:
        """The run-time names of a component's bf16 Linears, each once.

        Linears that the server never quantizes, and those without a name, are left out.
        """
        return skipped(self._formats(recipe, component))

    def quantized_names(self, recipe: Recipe, component: str) -> dict[str, FormatName]:
        """{run-time name: format} of a component's quantized Linears."""
        return quantized(self._formats(recipe, component))

    def _formats(self, recipe: Recipe, component: str) -> dict[str, FormatName]:
        """{run-time name: format} of a component's Linears that the server can quantize."""
        return {
            name: recipe.layers[fqn]
            for fqn, name in self.served(recipe).items()
            if name and (not recipe.model.components or is_in(fqn, component))
        }

    def _always_bf16(self, recipe: Recipe) -> frozenset[str]:
        served = self.served(recipe)
        return frozenset(fqn for fqn, name in served.items() if name is ALWAYS_BF16)

    def _unknown(self, recipe: Recipe) -> list[str]:
        """Which of the recipe's classes or Linears have no known names; a sentence for each."""
        classes = known_classes(self.name)
        found = [
            f"the names that it gives the Linears of {kind} are not known here (known are those of"
            f" {', '.join(classes)})"
            for kind in recipe.model.classes.values()
            if kind not in classes
        ]
        stray = [] if found else unknown_linears(self.name, tree_of(recipe, recipe.layers))
        return found + [f"the names that it gives {some(stray)} are not known here"] * bool(stray)
