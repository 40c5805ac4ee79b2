"""Does an exported text mean the recipe to the tool that reads it? The contract of every exporter,
and the proof.

Each consumer matches names by its own rules: exact names, globs, regular expressions, substrings. A
list that is right for one consumer is wrong for another, and most consumers report no mismatch. So
an exporter has two halves. `render` writes the text. `assign` reads a text as the consumer does and
gives every Linear its format. `export` returns a text only if `assign` of it gives the recipe's
layers; `verify` checks the same on the Linears of a real model.

    text = exporter.export(recipe)
    exporter.verify(recipe, [name for name, _ in linears_of_the_model])

Conventions. A Linear that the consumer does not quantize is `bf16`. `formats` are those that the
consumer has; all others are refused, with the reason of `lacking`. Where a file describes weights
that lie beside it, one of its words may stand for two formats (`reads_as`): NVFP4 weights are NVFP4
however their scales were chosen.

Steps. A recipe may have a step policy, and most consumers run every step alike. A policy that an
exporter does not carry is an obstacle (`policy_obstacles`), and what a text says of steps is proved
like its formats (`step_policy`): no exporter drops a policy by saying nothing of it.

It does not run the consumer. The tests do so with the real consumers, where a small model allows
it.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from sensitivity.consumers.limits import Limits
from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import QUANTIZED_FORMATS, FormatName
from sensitivity.core.patterns import is_fqn
from sensitivity.core.step_policy import PLAIN, StepPolicy
from sensitivity.core.words import and_more
from sensitivity.errors import PatternError, RecipeError
from sensitivity.recipes.recipe import Recipe

CALIBRATED = (
    "it scales nvfp4's activations by one number a tensor from calibration; this tool's nvfp4"
    " computes it at each call"
)
"""A note for consumers whose nvfp4 has a static scale of the activations."""


CALIBRATES = frozenset({FormatName.NVFP4, FormatName.NVFP4_4O6})
"""The formats that `CALIBRATED` is about."""

SAME_WORD: Mapping[FormatName, FormatName] = {FormatName.NVFP4_4O6: FormatName.NVFP4}
"""{format: the one that a file names instead}, where the file describes weights that lie beside it:
four-over-six scales are among these.
"""

FOUR_OVER_SIX = (
    "its text says nvfp4: that the scales are four-over-six is in the weights, which have to be"
    " quantized so (exporter modelopt, form quant-cfg)"
)
"""A note for consumers whose files have one word for nvfp4 and nvfp4-4o6."""

INT8_NOTE = (
    "it divides the largest value of a row by 127 for int8's scale; torchao's int8, which this tool"
    " measures, by 127.5, rounded to bf16"
)
"""A note for consumers whose int8 is not torchao's."""

NO_WORD_FOR: Mapping[FormatName, str] = {
    FormatName.NVFP4_4O6: "it cannot be told to choose four-over-six scales",
    FormatName.FP8_LB: "it cannot be told a lower bound of activations",
    **dict.fromkeys(
        (name for name in FormatName if name.is_rotated), "it cannot be told to rotate activations"
    ),
    **{name: f"it has no weight-only {name.plain}" for name in FormatName if name.is_weight_only},
}
"""{format: why a consumer without it lacks it}."""


@dataclass(frozen=True, kw_only=True)
class Exporter(ABC):
    """Writes recipes for one consumer.

    Subclasses give `name`, `forms`, `render` and `assign`. Where the consumer has limits they also
    give `formats`, `max_formats`, `reads_as`, `lacks`, `apart` and `limits`.

    Attributes:
        form: one of `forms`; "" is the first.
    """

    name: ClassVar[str]
    """The exporter's name, a key of `EXPORTERS`."""

    forms: ClassVar[Mapping[str, str]]
    """{form: the usual end of the file's name, with its dot}; the first form is the default."""

    formats: ClassVar[frozenset[FormatName]] = frozenset(FormatName)
    """The formats that the consumer has; bf16 is always among them."""

    max_formats: ClassVar[int] = len(FormatName)
    """How many quantized formats one file may name."""

    reads_as: ClassVar[Mapping[FormatName, FormatName]] = {}
    """{format: the one that the file names instead}, where the file describes weights in which the
    difference lies.
    """

    lacks: ClassVar[Mapping[FormatName, str]] = {}
    """{format: why the consumer lacks it}, where `NO_WORD_FOR` does not say it."""

    apart: ClassVar[Mapping[frozenset[FormatName], str]] = {}
    """{two formats that one file cannot name: why}."""

    form: str = ""

    def __post_init__(self) -> None:
        form = self.form or next(iter(self.forms))
        if form not in self.forms:
            raise RecipeError(
                f"found the form {form!r} of {self.name}; expected one of {', '.join(self.forms)};"
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

    def policy_obstacles(self, assignment: Assignment, classes: Mapping[str, str]) -> list[str]:
        """Why the consumer does not run a model by this step policy, one sentence each; none if it
        does, or if every step runs alike.

        Args:
            assignment: formats and policy of a recipe.
            classes: {component: class} of its denoisers.
        """
        del classes
        if assignment.policy.is_plain:
            return []
        return [f"it runs every step alike, and the recipe runs its {assignment.policy.words}"]

    def step_policy(self, text: str, recipe: Recipe) -> StepPolicy:
        """The step policy by which the consumer runs the model when it reads `text`.

        The plain one, unless an exporter that carries policies says otherwise.
        """
        del text, recipe
        return PLAIN

    @abstractmethod
    def assign(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, ListedFormat]:
        """{FQN: format} that the consumer gives each of `fqns` when it reads `text`."""

    def notes(self, recipe: Recipe, text: str) -> tuple[str, ...]:
        """What the text itself cannot say: where the consumer differs from what this tool measured,
        or what it needs beside the text.
        """
        del recipe, text
        return ()

    def limits(self, tree: ModelTree) -> Limits:
        """What the consumer asks of the formats of a model's Linears."""
        return Limits(
            consumer=self.name,
            form=self.form,
            formats=self.formats,
            max_formats=self.max_formats,
            lacks={**NO_WORD_FOR, **self.lacks},
            reads_as=self.reads_as,
            apart=self.apart,
            classes=", ".join(dict.fromkeys(tree.classes.values())),
        )

    def obstacles(self, recipe: Recipe) -> list[str]:
        """Why the consumer cannot express this recipe, one sentence each; none if it can."""
        found = self.limits(tree_of(recipe, recipe.layers)).obstacles(recipe.layers)
        return found + self.policy_obstacles(recipe.assignment, recipe.model.classes)

    def nearest(self, recipe: Recipe) -> dict[str, FormatName]:
        """{FQN: format} of the nearest recipe that the consumer can express.

        No Linear gets a coarser format than the recipe gives it. A format that the consumer lacks
        is replaced by the next finer one that it has. Where the recipe has more formats than the
        consumer takes, the coarsest are replaced. Linears that the consumer runs as one take the
        finest format among them. What the consumer never quantizes becomes bf16.

        Raises:
            RecipeError: the consumer does not know the model, so no recipe is near; or it quantizes
                Linears that should stay bf16.
        """
        return self.limits(tree_of(recipe, recipe.layers)).nearest(recipe.layers)

    def export(self, recipe: Recipe, *, allow_random_weights: bool = False) -> str:
        """The text for the consumer, proved on the recipe's own FQNs.

        Args:
            recipe: the recipe.
            allow_random_weights: take a recipe that was searched on random weights, which says
                nothing about the model.

        Raises:
            RecipeError: the consumer cannot express the recipe, and the message names layers; or
                the recipe is of random weights and that is not allowed.
        """
        recipe.check_weights(allow_random=allow_random_weights)
        self.check(recipe)
        text = self.render(recipe)
        self._prove(text, recipe, recipe.layers)
        return text

    def check(self, recipe: Recipe) -> None:
        """Raise RecipeError if the consumer cannot express the recipe; the message names layers."""
        if obstacles := self.obstacles(recipe):
            raise RecipeError(
                f"found a recipe that {self.name} ({self.form}) cannot express:"
                f" {and_more(obstacles, most=5, separator='; ')}. Expected a recipe that it can"
                f" express exactly{self._takes(recipe)}; choose another exporter,"
                f" {self._way_out(recipe)}"
            )

    def _way_out(self, recipe: Recipe) -> str:
        """What else can be done about obstacles."""
        if self.policy_obstacles(recipe.assignment, recipe.model.classes):
            return (
                "run it with `Recipe.apply` and `precision_by_step`, or export the list alone"
                " (`without_step_policy`)"
            )
        return "or the nearest recipe that it can express (`nearest`)"

    def _takes(self, recipe: Recipe) -> str:
        """The formats that the consumer has, and what runs the others, where it lacks one."""
        if self.formats >= set(recipe.layers.values()):
            return ""
        names = ", ".join(name for name in QUANTIZED_FORMATS if name in self.formats)
        return f" (it takes {names}; `Recipe.apply` runs the others)"

    def as_read(self, layers: Mapping[str, FormatName]) -> dict[str, FormatName]:
        """{FQN: format} as the consumer's text names them (`reads_as`)."""
        return {fqn: self.reads_as.get(name, name) for fqn, name in layers.items()}

    def verify(self, recipe: Recipe, fqns: Iterable[str]) -> dict[str, FormatName]:
        """{FQN: format} that the consumer gives a model whose Linears are `fqns`: the recipe's.

        Raises:
            RecipeError: the model has other Linears than the recipe, or the consumer would give one
                another format; the message names them.
        """
        return self._prove(self.render(recipe), recipe, fqns)

    def _prove(self, text: str, recipe: Recipe, fqns: Iterable[str]) -> dict[str, FormatName]:
        names = list(dict.fromkeys(fqns))
        try:
            assigned, policy = self.assign(text, recipe, names), self.step_policy(text, recipe)
        except PatternError as error:
            raise RecipeError(
                f"found a recipe of {len(recipe.layers)} Linears whose text for {self.name}"
                f" ({self.form}) is not read back: {error}. Expected one that is; use another form"
                " or exporter"
            ) from None
        problems = [f"{fqn} is not in the model" for fqn in recipe.layers if fqn not in assigned]
        expected = self.as_read(recipe.layers)
        for fqn, found in assigned.items():
            if fqn not in expected:
                problems.append(f"{fqn if is_fqn(fqn) else repr(fqn)} is not in the recipe")
            elif found != expected[fqn]:
                problems.append(f"{fqn} would be {found}, not {expected[fqn]}")
        if policy != recipe.assignment.policy:
            raise RecipeError(
                f"found a text by which {self.name} would run {policy.words!r}, and the recipe"
                f" {recipe.name!r} runs {recipe.assignment.policy.words!r}. Expected the same; use"
                " another exporter, or export the list alone (`without_step_policy`)"
            )
        if problems:
            raise RecipeError(
                f"found {len(problems)} Linear(s) that {self.name} would treat otherwise than the"
                f" recipe {recipe.name!r}: {and_more(problems, most=10, separator='; ')}. Expected"
                " a text that means exactly the recipe; use another exporter, or export a recipe of"
                " this model"
            )
        return {fqn: recipe.layers[fqn] for fqn in assigned}


def tree_of(recipe: Recipe, fqns: Iterable[str]) -> ModelTree:
    """What a matcher sees of a model with these Linears, for `ConsumerList.assign`."""
    return ModelTree(
        fqns=tuple(fqns), classes=recipe.model.classes, several=bool(recipe.model.components)
    )


def quantized_formats(recipe: Recipe) -> tuple[FormatName, ...]:
    """The quantized formats that the recipe uses, in the order of `FormatName`."""
    used = set(recipe.layers.values())
    return tuple(name for name in FormatName if name in used and name.is_quantized)


def only_format(recipe: Recipe) -> FormatName:
    """The quantized format of a recipe that has one, the first of several, else bf16."""
    return next(iter(quantized_formats(recipe)), FormatName.BF16)


def indented_json(value: Any) -> str:
    """A value as the JSON text of an export."""
    return json.dumps(value, indent=1) + "\n"


def one_or_all(recipe: Recipe, parts: Mapping[str, Any]) -> Any:
    """The one part of a recipe for one denoiser; {component: part} of a recipe for several."""
    return dict(parts) if recipe.model.components else next(iter(parts.values()))
