"""Can a server that renames and fuses Linears run the recipe? What the exporters for vLLM-Omni,
SGLang, ComfyUI and convert_to_quant share.

Such a server has obstacles that other consumers do not have. It may have no class for the model, or
one whose names are not known here. It never quantizes some Linears. It runs several Linears as one,
or cannot tell them apart. All of this comes from `consumers.served_names`; `limits` says it.
"""

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, replace

from sensitivity.consumers.exporters._base import Exporter, tree_of
from sensitivity.consumers.limits import Limits
from sensitivity.consumers.lists import ModelTree
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
from sensitivity.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class ServedExporter(Exporter):
    """An exporter whose `served_as` is one of `served_names.CONSUMERS`."""

    @property
    def served_as(self) -> str:
        """The consumer of `served_names` whose names are used: the exporter's own, if not others'.

        A tool that prepares files for another one uses the other's names.
        """
        return self.name

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
        return served_names(self.served_as, tree_of(recipe, recipe.layers))

    def limits(self, tree: ModelTree) -> Limits:
        """Unknown names alone, if there are any; else what the server always runs in bf16, and the
        Linears of one run-time name, or without a name, by component.
        """
        limits = super().limits(tree)
        if unknown := self._unknown(tree):
            return replace(limits, unknown=tuple(unknown))
        served = served_names(self.served_as, tree)
        families: dict[tuple[str, str], list[str]] = {}
        for fqn, name in served.items():
            if name is not ALWAYS_BF16:
                families.setdefault((tree.component_of(fqn), name), []).append(fqn)
        return replace(
            limits,
            kept={fqn: "" for fqn, name in served.items() if name is ALWAYS_BF16},
            fused=[family for family in families.values() if len(family) > 1],
        )

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

    def _unknown(self, tree: ModelTree) -> list[str]:
        """Which of the model's classes or Linears have no known names; a sentence for each."""
        classes = known_classes(self.served_as)
        found = [
            f"the names that it gives the Linears of {kind} are not known here (known are those of"
            f" {', '.join(classes)})"
            for kind in tree.classes.values()
            if kind not in classes
        ]
        stray = [] if found else unknown_linears(self.served_as, tree)
        return found + [f"the names that it gives {some(stray)} are not known here"] * bool(stray)
