"""What becomes of a Linear whose quantizers a `quant_cfg` turns on and off?

A Linear has a weight_quantizer, an input_quantizer and an output_quantizer. The entries of a
`quant_cfg` are applied in order to every quantizer that they match. At the start, the weight and
the input are on, in ModelOpt's default (int8), and the output is off.

    QuantizerList(consumer="modelopt", entries=entries, steps=entries).assign(tree, quantized=...)

`readers.modelopt_quant_cfg` makes such a list from a text, and has the sources.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from sensitivity.consumers.lists import ConsumerList, Entry, ModelTree
from sensitivity.consumers.readers.modelopt_numerics import Numerics
from sensitivity.consumers.rules import hits
from sensitivity.core.format_name import FormatName
from sensitivity.core.patterns import META
from sensitivity.core.words import and_more
from sensitivity.errors import PatternError

QUANTIZERS = ("weight_quantizer", "input_quantizer", "output_quantizer")
LINEAR = "nn.Linear"


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizerEntry(Entry):
    """One entry of a `quant_cfg`.

    Attributes:
        numerics: the format that it gives; None where it only turns quantizers on or off.
        enable: whether it turns quantizers on; None where it leaves that as it is.
        parent: the class of the modules that it is for; "" is every class.
    """

    numerics: Numerics | None = None
    enable: bool | None = True
    parent: str = ""

    @property
    def is_about_linears(self) -> bool:
        """Whether it could match the weight or the input of a Linear of some name."""
        if self.parent not in ("", LINEAR):
            return False
        tail = self.text[max(self.text.rfind(sign) for sign in "*?]") + 1 :]
        return not tail.endswith("_quantizer") or any(
            tail.endswith(name) or name.endswith(tail) for name in QUANTIZERS[:2]
        )


class QuantizerState(NamedTuple):
    """What the entries so far have made of one quantizer."""

    numerics: Numerics | None
    on: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class QuantizerList(ConsumerList):
    """A `quant_cfg`.

    Attributes:
        entries: those about the weights and inputs of Linears.
        steps: all entries, in order.
    """

    steps: tuple[QuantizerEntry, ...]

    def hits(self, entry: Entry, tree: ModelTree) -> frozenset[str]:
        """The Linears whose weight_quantizer or input_quantizer an entry matches."""
        names = self.names(tree)
        return frozenset().union(
            *(self._matched(entry, kind, names, tree) for kind in QUANTIZERS[:2])
        )

    def assign(self, tree: ModelTree, *, quantized: FormatName) -> dict[str, FormatName]:
        """{FQN: format} of every Linear.

        Args:
            tree: the model.
            quantized: the format of what is on where no entry gives a format.

        Raises:
            PatternError: an entry is malformed; or a Linear would have only its weight or input
                quantized, have them in two formats, or in a format that this tool does not have.
        """
        states = self.states(tree)
        default = None if any(step.numerics for step in self.steps) else quantized
        decided: dict[str, FormatName] = {}
        problems = []
        for fqn in tree.fqns:
            found = _decide(*(states[kind][fqn] for kind in QUANTIZERS), default=default)
            if isinstance(found, FormatName):
                decided[fqn] = found
            else:
                problems.append(f"{fqn} {found}")
        if problems:
            raise PatternError(
                f"found {len(problems)} Linear(s) that this quant_cfg leaves in no format of this"
                f" tool: {and_more(problems, most=3, separator='; ')}. Expected weights and inputs"
                ' in one format, or both off; begin with {"quantizer_name": "*", "enable": False}'
                " and name both quantizers"
            )
        return decided

    def states(self, tree: ModelTree) -> dict[str, dict[str, QuantizerState]]:
        """{quantizer: {FQN: its state after all entries}}."""
        names = self.names(tree)
        states = {
            kind: dict.fromkeys(tree.fqns, QuantizerState(None, on=kind != "output_quantizer"))
            for kind in QUANTIZERS
        }
        for step in self.steps:
            for kind, state in states.items():
                for fqn in self._matched(step, kind, names, tree):
                    state[fqn] = QuantizerState(
                        step.numerics or state[fqn].numerics,
                        state[fqn].on if step.enable is None else step.enable,
                    )
        return states

    def _matched(
        self, entry: Entry, kind: str, names: Mapping[str, set[str]], tree: ModelTree
    ) -> frozenset[str]:
        """The FQNs of the Linears whose quantizer of one kind an entry matches."""
        if getattr(entry, "parent", "") not in ("", LINEAR):
            return frozenset()
        if META.isdisjoint(entry.text):
            module, _, quantizer = entry.text.rpartition(".")
            found = names.get(module, set()) if quantizer == kind else set()
        else:
            seen = {f"{name}.{kind}": name for name in names}
            found = set().union(*(names[seen[name]] for name in hits("fnmatch", entry.text, seen)))
        return frozenset(
            fqn
            for fqn in found
            if not (entry.component and tree.classes) or tree.component_of(fqn) == entry.component
        )


def _decide(
    weight: QuantizerState,
    inputs: QuantizerState,
    output: QuantizerState,
    *,
    default: FormatName | None,
) -> FormatName | str:
    """A Linear's format, or what is wrong with it; `default` is what a quantizer without numerics
    has, None where that is ModelOpt's own.
    """
    if output.on:
        return "has its output quantized"
    if not weight.on and not inputs.on:
        return FormatName.BF16
    if weight.on != inputs.on:
        return f"has only its {'weight' if weight.on else 'input'} quantized"
    found = [state.numerics.format if state.numerics else default for state in (weight, inputs)]
    formats = {name for name in found if name is not None}
    if None in found:
        return "is left in ModelOpt's default (int8)"
    return formats.pop() if len(formats) == 1 else f"has {' and '.join(sorted(formats))} mixed"
