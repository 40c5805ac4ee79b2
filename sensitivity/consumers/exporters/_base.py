"""Does the exported text mean the recipe to the tool that reads it?

The contract of every exporter, and the proof.

Consumers match names by rules of their own: exact, glob, regular expression, substring. A list that
is right in one is wrong in another, and most are silent about it. So an exporter has two halves:
`render` writes the text, `assign` reads a text back and applies the consumer's rule to FQNs.
`export` gives out a text only if `assign` of it equals the recipe's layers; `verify` does the same
with the FQNs of a real model.

Conventions: an FQN that the consumer leaves alone is `bf16`. Headers are comments; they say
predicted or measured beside each latency.

It does not run the consumer: tests do, with the real torchao and diffusers, where a small model
allows it.

    text = exporter.export(recipe)
    exporter.verify(recipe, [name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)])
"""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from sensitivity.consumers.lists import ModelTree
from sensitivity.core.format_name import FormatName
from sensitivity.core.patterns import is_fqn
from sensitivity.core.words import printable, some
from sensitivity.errors import RecipeError
from sensitivity.recipes.recipe import Recipe

PRECISION = (FormatName.NVFP4, FormatName.FP8, FormatName.MXFP8, FormatName.BF16)
"""Formats from the coarsest to the finest: what stands in for a format that a consumer lacks comes
after it here.
"""


@dataclass(frozen=True, kw_only=True)
class Exporter(ABC):
    """Writes recipes for one consumer.

    Subclasses give `name`, `forms`, `render` and `assign`; `formats`, `max_formats` and `fused`
    where the consumer limits them.

    Attributes:
        form: one of `forms`; "" is the first.
    """

    name: ClassVar[str]
    """The word on the command line."""

    forms: ClassVar[Mapping[str, str]]
    """{form: the usual end of the file's name, with its dot}; the first is the default."""

    formats: ClassVar[frozenset[FormatName]] = frozenset(FormatName)
    """The formats that the consumer has; bf16 is always among them."""

    max_formats: ClassVar[int] = len(FormatName)
    """How many formats other than bf16 one file may name."""

    form: str = ""

    def __post_init__(self) -> None:
        form = self.form or next(iter(self.forms))
        if form not in self.forms:
            raise RecipeError(
                f"found the form {form!r}; allowed for {self.name} are {', '.join(self.forms)};"
                " name one of them"
            )
        object.__setattr__(self, "form", form)

    @property
    def suffix(self) -> str:
        """The usual end of the file's name, with its dot."""
        return self.forms[self.form]

    @abstractmethod
    def render(self, recipe: Recipe) -> str:
        """The text for the consumer, not yet proved."""

    @abstractmethod
    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, FormatName]:
        """What the consumer makes of each of `fqns` when it reads `text`: its matching rule,
        simulated.
        """

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:
        """What the consumer does otherwise than this tool measured, or wants beside the text, that
        the text itself cannot say.
        """
        del recipe, text
        return ()

    def fused(self, recipe: Recipe) -> Sequence[Sequence[str]]:
        """Linears that the consumer runs as one and so gives one format, by FQN."""
        del recipe
        return ()

    def obstacles(self, recipe: Recipe) -> list[str]:
        """Why the consumer cannot express this recipe, one sentence each; none if it can."""
        used = quantized_formats(recipe)
        found = [
            f"it has no {name}, which"
            f" {some(fqn for fqn, fmt in recipe.layers.items() if fmt == name)} should get"
            for name in used
            if name not in self.formats
        ]
        if len(used) > self.max_formats:
            found.append(
                f"its file names {self.max_formats} quantized format(s), and the recipe has"
                f" {len(used)} ({', '.join(used)})"
            )
        found += [
            f"it gives these {len(family)} Linears one format:"
            f" {', '.join(f'{fqn} ({recipe.layers[fqn]})' for fqn in _members(recipe, family))}"
            for family in self.fused(recipe)
            if len({recipe.layers[fqn] for fqn in family}) > 1
        ]
        return found

    def nearest(self, recipe: Recipe) -> dict[str, FormatName]:
        """The formats nearest to the recipe's that the consumer can express: no Linear gets a
        coarser one than the recipe gives it.

        A format that the consumer lacks gives way to the next finer one that it has, more formats
        than it takes to the finest of the recipe's, and Linears that it runs as one take the finest
        among them.
        """
        layers = {
            fqn: next(f for f in PRECISION[PRECISION.index(fmt) :] if f in self.formats)
            for fqn, fmt in recipe.layers.items()
        }
        while (
            len(
                used := sorted(
                    {fmt for fmt in layers.values() if fmt is not FormatName.BF16},
                    key=PRECISION.index,
                )
            )
            > self.max_formats
        ):
            layers = {fqn: used[1] if fmt is used[0] else fmt for fqn, fmt in layers.items()}
        for family in self.fused(recipe):
            finest = max((layers[fqn] for fqn in family), key=PRECISION.index)
            layers.update(dict.fromkeys(family, finest))
        return layers

    def export(self, recipe: Recipe, *, allow_random_weights: bool = False) -> str:
        """The text for the consumer, proved on the recipe's own FQNs.

        Raises:
            RecipeError: the consumer's form cannot say this recipe, and the message names layers;
                or it was searched on random weights and that is not allowed.
        """
        recipe.check_weights(allow_random=allow_random_weights)
        if obstacles := self.obstacles(recipe):
            more = f"; and {len(obstacles) - 5} more" if len(obstacles) > 5 else ""
            raise RecipeError(
                f"found a recipe that {self.name} ({self.form}) cannot express:"
                f" {'; '.join(obstacles[:5])}{more}. Allowed is exactly the recipe; choose another"
                " exporter, or take the nearest recipe that it can express: --nearest FILE"
            )
        text = self.render(recipe)
        self._prove(text, recipe, recipe.layers)
        return text

    def verify(self, recipe: Recipe, fqns: Iterable[str]) -> dict[str, FormatName]:
        """What the consumer would make of a model whose Linears are `fqns`: exactly the recipe, or
        an error.

        Raises:
            RecipeError: the model has other Linears than the recipe, or the consumer would give one
                another format; the message names them.
        """
        return self._prove(self.render(recipe), recipe, fqns)

    def _prove(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, FormatName]:
        names = list(dict.fromkeys(fqns))
        assigned = self.assign(text, recipe, names)
        problems = [f"{fqn} is not in the model" for fqn in recipe.layers if fqn not in assigned]
        for fqn, found in assigned.items():
            if fqn not in recipe.layers:
                problems.append(f"{fqn if is_fqn(fqn) else repr(fqn)} is not in the recipe")
            elif found != recipe.layers[fqn]:
                problems.append(f"{fqn} would be {found}, not {recipe.layers[fqn]}")
        if problems:
            more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
            raise RecipeError(
                f"found {len(problems)} Linear(s) that {self.name} would treat otherwise than the"
                f" recipe {recipe.name!r}: {'; '.join(problems[:10])}{more}. The export must mean"
                " exactly the recipe; use another exporter, or export for this model"
            )
        return assigned


CALIBRATED = (
    "it scales nvfp4's activations by one number a tensor from calibration; this tool's nvfp4"
    " computes it at each call"
)
"""A note for consumers whose NVFP4 is static in that number."""


def tree_of(recipe: Recipe, fqns: Iterable[str]) -> ModelTree:
    """What a matcher sees of a model with these Linears, for `ConsumerList.assign`."""
    return ModelTree(
        fqns=tuple(fqns), classes=recipe.model.classes, several=bool(recipe.model.components)
    )


def _members(recipe: Recipe, family: Sequence[str]) -> Sequence[str]:
    """A family whose formats disagree, or where it is large, the first Linear of each format."""
    firsts = {recipe.layers[fqn]: fqn for fqn in reversed(family)}
    return family if len(family) <= 8 else sorted(firsts.values(), key=list(family).index)


def quantized_formats(recipe: Recipe) -> tuple[FormatName, ...]:
    """The formats other than bf16 that the recipe uses, in the order of `FormatName`."""
    used = set(recipe.layers.values())
    return tuple(name for name in FormatName if name in used and name is not FormatName.BF16)


def describe(recipe: Recipe) -> tuple[str, ...]:
    """What a reader wants to know above a list: model, formats, latency, LPIPS, the recipe's
    notice. One printable line each, no comment signs.
    """
    model, latency = recipe.model, recipe.latency
    counts = Counter(recipe.layers.values())
    lines = (
        (
            f"{recipe.name}:"
            f" {', '.join(f'{counts[name]} {name}' for name in FormatName if counts[name])} of"
            f" {len(recipe.layers)} Linears"
        ),
        (
            f"model: {model.id}, revision {model.revision or 'not given'}, {model.weights} weights,"
            f" {', '.join(f'{name} ({kind})' for name, kind in model.classes.items())} of"
            f" {model.pipeline_class}"
        ),
        (
            f"latency: {latency.bf16_s:.4g} s in bf16, {latency.quantized_s:.4g} s quantized,"
            f" {latency.speedup:.3g}x, {latency.source} for"
            f" {latency.target}{f' at {latency.stands_for} x its dimensions' if latency.stands_for > 1 else ''},"
            f" batch size {latency.batch_size}, compile mode {latency.compile_mode or 'none'}"
        ),
        *_describe_pictures(recipe),
    )
    return tuple(map(printable, lines))


def _describe_pictures(recipe: Recipe) -> tuple[str, ...]:
    """LPIPS, where it was measured, and the recipe's notice."""
    if recipe.fidelity is None:
        return (recipe.caveat,)
    lpips = recipe.fidelity.lpips
    floor = "not measured" if lpips.noise_floor is None else f"{lpips.noise_floor:.4g}"
    said = (
        f"LPIPS ({lpips.net}): {lpips.mean:.4g}, 95% interval {lpips.ci95[0]:.4g} to"
        f" {lpips.ci95[1]:.4g}, noise floor {floor}, {len(lpips.per_prompt)} pictures"
    )
    return (said, recipe.caveat) if recipe.caveat else (said,)
