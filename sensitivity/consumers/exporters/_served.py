"""Can a server that renames and fuses Linears run the recipe?

What the exporters for vLLM-Omni, SGLang and ComfyUI share.

Obstacles that plain names do not have: the server has no class of this kind, or its names are not
known; it never quantizes some Linears; it runs several as one, or cannot tell them apart. All come
from the tables of `consumers.served_names`; `nearest` gives way to each.
"""

from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sensitivity.consumers.exporters._base import Exporter, tree_of
from sensitivity.consumers.readers import Reader
from sensitivity.consumers.served_names import KEPT, known_classes, served_names, unknown_linears
from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import is_in
from sensitivity.core.words import some
from sensitivity.errors import RecipeError
from sensitivity.recipes.recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class ServedExporter(Exporter):
    """An exporter whose `name` is a key of `served_names.TABLES`."""

    @property
    @abstractmethod
    def reader(self) -> Reader:
        """The reader of the texts, which simulates the server."""

    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, FormatName]:
        """What the reader makes of the text."""
        return self.reader.read(text).assign(tree_of(recipe, fqns), quantized=FormatName.BF16)

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:  # noqa: ARG002 - the contract's signature
        """What its reader notes."""
        return self.reader.read(text).notes

    def served(self, recipe: Recipe) -> dict[str, str | None]:
        """{FQN: run-time name} as `served_names` gives it."""
        return served_names(self.name, tree_of(recipe, recipe.layers))

    def fused(self, recipe: Recipe) -> Sequence[Sequence[str]]:
        """Linears of one run-time name, and those of none, by component."""
        if self._unknown(recipe):
            return ()
        tree = tree_of(recipe, recipe.layers)
        families: dict[tuple[str, str], list[str]] = {}
        for fqn, name in self.served(recipe).items():
            if name is not KEPT:
                families.setdefault((tree.component_of(fqn), name), []).append(fqn)
        return [family for family in families.values() if len(family) > 1]

    def obstacles(self, recipe: Recipe) -> list[str]:
        """As every exporter's, after what is unknown and what the server never quantizes."""
        if unknown := self._unknown(recipe):
            return unknown
        kept = [
            fqn
            for fqn, name in self.served(recipe).items()
            if name is KEPT and recipe.layers[fqn] is not FormatName.BF16
        ]
        found = [f"it always runs {some(kept)} in bf16, which the recipe quantizes"] if kept else []
        return found + super().obstacles(recipe)

    def nearest(self, recipe: Recipe) -> dict[str, FormatName]:
        """As every exporter's; what the server never quantizes stays bf16.

        Raises:
            RecipeError: the names of the recipe's class are not known.
        """
        if unknown := self._unknown(recipe):
            raise RecipeError(
                f"found no recipe near {recipe.name!r} for {self.name}: {'; '.join(unknown)}; use"
                " another exporter"
            )
        kept = {fqn for fqn, name in self.served(recipe).items() if name is KEPT}
        return {
            fqn: FormatName.BF16 if fqn in kept else name
            for fqn, name in super().nearest(recipe).items()
        }

    def bf16_names(self, recipe: Recipe, component: str) -> list[str]:
        """Run-time names of a component's bf16 Linears, each once, without those that the server
        never quantizes and those that go by none.
        """
        return [
            name
            for name, found in self._formats(recipe, component).items()
            if found is FormatName.BF16
        ]

    def quantized_names(self, recipe: Recipe, component: str) -> dict[str, FormatName]:
        """{run-time name: format} of a component's quantized Linears."""
        return {
            name: found
            for name, found in self._formats(recipe, component).items()
            if found is not FormatName.BF16
        }

    def _formats(self, recipe: Recipe, component: str) -> dict[str, FormatName]:
        own = {fqn for fqn in recipe.layers if not recipe.model.components or is_in(fqn, component)}
        return {
            name: recipe.layers[fqn]
            for fqn, name in self.served(recipe).items()
            if fqn in own and name
        }

    def _unknown(self, recipe: Recipe) -> list[str]:
        classes = known_classes(self.name)
        found = [
            f"the names that it gives the Linears of {kind} are not known here (known are those of"
            f" {', '.join(classes)})"
            for kind in recipe.model.classes.values()
            if kind not in classes
        ]
        stray = [] if found else unknown_linears(self.name, tree_of(recipe, recipe.layers))
        return found + [f"the names that it gives {some(stray)} are not known here"] * bool(stray)


def by_component(recipe: Recipe, parts: Mapping[str, Any]) -> Any:
    """The one part, or {component: part} where the recipe is for several."""
    return dict(parts) if recipe.model.components else next(iter(parts.values()))
