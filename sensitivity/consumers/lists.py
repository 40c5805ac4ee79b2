"""What does a list say to the tool that reads it?

A list has entries. Each entry has a matching rule and the format that the Linears it hits become.
A reader turns a text in one consumer's form into a `ConsumerList`; the list then says which format
each Linear of a model gets (`assign`), and which Linears each entry hits (`hits`). Exporters prove
their texts with it, and the audit looks for faults in it.

    listed = get_reader("diffusers").read(text)
    formats = listed.assign(tree, quantized=FormatName.NVFP4)

Conventions. FQNs are those of the recipe: names inside the denoiser, or names that begin with the
component's where the model has several denoisers. A rule sees names inside the component, as
consumers do; plain lists may use either. `renamed` maps these names to the consumer's own names at
run time. Linears that the consumer fuses share one such name, and an entry hits them together.

Parts. A list may have one part a component: {"transformer": ..., "text_encoder": ...}. A part for
another component of the pipeline says nothing about the denoisers (`without_parts` drops it). A
part that applies to no Linear and names no component is a mistake, and `unknown_parts` tells it.

It parses no text and runs no consumer.
"""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Self

from sensitivity.consumers.other_formats import ListedFormat, OtherFormat
from sensitivity.consumers.rules import hits
from sensitivity.consumers.seen_names import Names
from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import is_in, within
from sensitivity.core.short_reprs import ShortRepr
from sensitivity.core.step_policy import StepPolicy


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelTree:
    """What a matcher can see of a model.

    Attributes:
        fqns: every Linear.
        classes: {component: class name}; one item for a model with one denoiser.
        several: whether FQNs begin with the component's name.
        others: the pipeline's other components: text encoders, the VAE, ...
        shapes: {FQN: (K, N)}, where they are known.
        biased: the Linears with a bias; None where that is not known.
    """

    fqns: tuple[str, ...]
    classes: Mapping[str, str] = field(default_factory=dict)
    several: bool = False
    others: tuple[str, ...] = ()
    shapes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    biased: frozenset[str] | None = None

    def component_of(self, fqn: str) -> str:
        """The component that a Linear belongs to; "" if none has it, or no component is named."""
        if not self.several:
            return next(iter(self.classes), "")
        return next((name for name in self.classes if is_in(fqn, name)), "")

    def inside(self, fqn: str) -> str:
        """A Linear's name inside its component."""
        return within(fqn, tuple(self.classes)) if self.several else fqn


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One entry of a list.

    Attributes:
        text: the entry as it was written.
        rule: its matching rule, a key of `rules.RULES`.
        format: the format of the Linears that it hits; None is the format that the user names. It
            may be one that this tool does not have.
        component: it hits only Linears of this component; "" is every component.
        line: its line in the file, counted from 1.
        reason: its comment.
    """

    text: str
    rule: str
    format: ListedFormat | None = FormatName.BF16
    component: str = ""
    line: int | None = None
    reason: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class ListedPolicy:
    """A policy by denoising step that stands beside a list, as it was written.

    Attributes:
        tools: who may read the list, as keys of `step_policies.POLICY_TOOLS`.
        config: the `quantization_config` that has the policy, unchecked.
        component: the component that it is for; "" is every component.
        own: the policy of a recipe, which no tool has to read; `config` is empty then.
    """

    tools: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    component: str = ""
    own: StepPolicy | None = None


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class ConsumerList(ShortRepr):
    """A list as its consumer understands it.

    Attributes:
        consumer: the name of the form that it is in.
        entries: in the order in which the consumer tries them.
        default: the format of a Linear that no entry hits; None is the format that the user names.
        defaults: {component: the same for its Linears}, where a list has a default for each.
        last_wins: whether the last entry that hits a Linear decides, instead of the first.
        min_width: Linears with K or N below it stay bf16, whatever the entries say. It applies only
            where the shape is known.
        renamed: gives the consumer's run-time names, {FQN: name}; None where these are the names
            inside the component.
        either_name: whether entries may also name a Linear with its component in front.
        parts: the components that the list has a part for; () where it has one for all.
        policies: step policies beside the list; formats are those of the steps between.
        notes: what a user should know about how the text was read.
    """

    consumer: str
    entries: tuple[Entry, ...]
    default: ListedFormat | None = None
    defaults: Mapping[str, ListedFormat | None] = field(default_factory=dict)
    last_wins: bool = False
    min_width: int = 0
    renamed: Callable[[ModelTree], Mapping[str, str]] | None = None
    either_name: bool = False
    parts: tuple[str, ...] = ()
    policies: tuple[ListedPolicy, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def formats(self) -> frozenset[ListedFormat]:
        """The formats that the list names."""
        named = (self.default, *self.defaults.values(), *(entry.format for entry in self.entries))
        return frozenset(name for name in named if name is not None)

    @property
    def other_formats(self) -> tuple[OtherFormat, ...]:
        """Those of `formats` that this tool does not have, in alphabetical order."""
        return tuple(sorted(name for name in self.formats if isinstance(name, OtherFormat)))

    def unknown_parts(self, tree: ModelTree) -> tuple[str, ...]:
        """The parts that apply to no Linear, and are for no other component of the pipeline."""
        applied = {self.part_of(fqn, tree) for fqn in tree.fqns} | set(tree.others)
        return tuple(part for part in self.parts if part not in applied) if tree.classes else ()

    def without_parts(self, parts: Collection[str]) -> Self:
        """The same list without its parts for some components, and without their entries."""
        return replace(
            self,
            entries=tuple(entry for entry in self.entries if entry.component not in parts),
            defaults={name: one for name, one in self.defaults.items() if name not in parts},
            parts=tuple(part for part in self.parts if part not in parts),
            policies=tuple(own for own in self.policies if own.component not in parts),
        )

    def hits(
        self, entry: Entry, tree: ModelTree, names: Mapping[str, set[str]] | None = None
    ) -> frozenset[str]:
        """The FQNs that one entry hits by itself, whatever the other entries say.

        Args:
            entry: the entry.
            tree: the model.
            names: `names(tree)`, where it is known already; for many entries it is made once.

        Raises:
            PatternError: the entry is malformed, or takes too long to match.
        """
        return self._matching(entry, self.names(tree) if names is None else names, tree)

    def assign(self, tree: ModelTree, *, quantized: FormatName) -> dict[str, ListedFormat]:
        """{FQN: format} of every Linear.

        Args:
            tree: the model.
            quantized: the format where the list names none.

        Raises:
            PatternError: an entry is malformed, or takes too long to match.
        """
        names, decided = self.names(tree), dict[str, ListedFormat | None]()
        for entry in reversed(self.entries) if self.last_wins else self.entries:
            for fqn in self._matching(entry, names, tree):
                decided.setdefault(fqn, entry.format)
        for fqn, (k, n) in tree.shapes.items():
            if min(k, n) < self.min_width:
                decided[fqn] = FormatName.BF16
        for fqn in tree.fqns:
            decided.setdefault(fqn, self._default_of(fqn, tree))
        return {fqn: decided[fqn] or quantized for fqn in tree.fqns}

    def names(self, tree: ModelTree) -> dict[str, set[str]]:
        """{name that a rule sees: the FQNs that it stands for}."""
        names = Names()
        renamed = self.renamed(tree) if self.renamed else {}
        for fqn in tree.fqns:
            seen = (renamed.get(fqn, tree.inside(fqn)), *([fqn] if self.either_name else []))
            for name in seen:
                names.setdefault(name, set()).add(fqn)
        return names

    def part_of(self, fqn: str, tree: ModelTree) -> str:
        """The part of the list that applies to a Linear, where a list has one part a component."""
        return tree.component_of(fqn)

    def _default_of(self, fqn: str, tree: ModelTree) -> ListedFormat | None:
        """The format of a Linear that no entry hits."""
        return self.defaults.get(self.part_of(fqn, tree), self.default)

    def _matching(
        self, entry: Entry, names: Mapping[str, set[str]], tree: ModelTree
    ) -> frozenset[str]:
        """The FQNs that an entry hits, given `names` as `names(tree)` returns them."""
        matched = hits(entry.rule, entry.text, names)
        found = frozenset[str]().union(*(names[name] for name in matched))
        if not entry.component or not tree.classes:
            return found
        return frozenset(fqn for fqn in found if self.part_of(fqn, tree) == entry.component)
