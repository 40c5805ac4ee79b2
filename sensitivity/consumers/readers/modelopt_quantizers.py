"""What becomes of a Linear whose quantizers a `quant_cfg` turns on and off?

A Linear has a weight_quantizer, an input_quantizer and an output_quantizer. The entries of a
`quant_cfg` are applied in order to every quantizer that they match. At the start, the weight and
the input are on, in ModelOpt's default (int8), and the output is off.

    QuantizerList(consumer="modelopt", entries=entries, steps=entries).assign(tree, quantized=...)

A Linear whose weight is quantized and whose input is turned off by an entry is weight-only: in
this tool's format where its scales are (one a row for fp8 and int8), else under a name of its own.
One with two formats that entries give has both in its name, but for four-over-six weights with
nvfp4 inputs, which are nvfp4-4o6. What is left in ModelOpt's default on one side only was surely
forgotten, and is refused.

`readers.modelopt_quant_cfg` makes such a list from a text, and has the sources.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from sensitivity.consumers.lists import ConsumerList, Entry, ModelTree
from sensitivity.consumers.other_formats import ListedFormat, OtherFormat
from sensitivity.consumers.readers.modelopt_numerics import Numerics
from sensitivity.consumers.rules import hits
from sensitivity.core.format_name import FormatName
from sensitivity.core.patterns import META
from sensitivity.core.words import and_more
from sensitivity.errors import PatternError

QUANTIZERS = ("weight_quantizer", "input_quantizer", "output_quantizer")
LINEAR = "nn.Linear"
LOW_RANK = " with a low-rank part (svdquant)"

WEIGHT_ONLY: Mapping[ListedFormat, FormatName] = {
    name: name.weight_only
    for name in (FormatName.NVFP4, FormatName.MXFP8, FormatName.FP8, FormatName.INT8)
}
"""{format of a weight: the one of a Linear whose input is off}."""


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
        by_part: whether the list is for some components only; ModelOpt is not called on others.
        low_rank: whether a low-rank part runs beside each quantized Linear (svdquant).
    """

    steps: tuple[QuantizerEntry, ...]
    by_part: bool = False
    low_rank: bool = False

    def without_parts(self, parts: Collection[str]) -> Self:
        """The same list without its parts for some components, and without their entries."""
        return replace(
            ConsumerList.without_parts(self, parts),
            steps=tuple(step for step in self.steps if step.component not in parts),
        )

    def hits(
        self, entry: Entry, tree: ModelTree, names: Mapping[str, set[str]] | None = None
    ) -> frozenset[str]:
        """The Linears whose weight_quantizer or input_quantizer an entry matches."""
        names = self.names(tree) if names is None else names
        return frozenset().union(
            *(self._matched(entry, kind, names, tree) for kind in QUANTIZERS[:2])
        )

    def assign(self, tree: ModelTree, *, quantized: FormatName) -> dict[str, ListedFormat]:
        """{FQN: format} of every Linear.

        Args:
            tree: the model.
            quantized: the format of what is on where no entry gives a format.

        Raises:
            PatternError: an entry is malformed; or a Linear would have only its input or its output
                quantized, or be left in ModelOpt's default.
        """
        states = self.states(tree)
        default = None if any(step.numerics for step in self.steps) else quantized
        decided: dict[str, ListedFormat] = {}
        problems = []
        named = {step.component for step in self.steps}
        for fqn in tree.fqns:
            if self.by_part and tree.classes and tree.component_of(fqn) not in named:
                decided[fqn] = FormatName.BF16
                continue
            found = _decide(*(states[kind][fqn] for kind in QUANTIZERS), default=default)
            if isinstance(found, (FormatName, OtherFormat)):
                svd = self.low_rank and found.is_quantized
                decided[fqn] = OtherFormat(f"{found}{LOW_RANK}") if svd else found
            else:
                problems.append(f"{fqn} {found}")
        if problems:
            raise PatternError(
                f"found {len(problems)} Linear(s) that this quant_cfg leaves half quantized:"
                f" {and_more(problems, most=3, separator='; ')}. Expected weights and inputs"
                ' in one format, or the input or both off; begin with {"quantizer_name": "*",'
                ' "enable": False} and name both quantizers'
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
            found = set().union(*(names[name] for name in _hit(entry.text, kind, names)))
        return frozenset(
            fqn
            for fqn in found
            if not (entry.component and tree.classes) or tree.component_of(fqn) == entry.component
        )


def _hit(text: str, kind: str, names: Mapping[str, set[str]]) -> frozenset[str]:
    """The names of the modules whose quantizer of one kind a pattern matches."""
    quantizer = text.rpartition(".")[2]
    if quantizer in QUANTIZERS:  # what is in front of it is a pattern on the modules' own names
        module = text.removesuffix(f".{kind}")
        return hits("fnmatch", module, names) if quantizer == kind and module else frozenset()
    seen = {f"{name}.{kind}": name for name in names}
    return frozenset(seen[name] for name in hits("fnmatch", text, seen))


def _decide(
    weight: QuantizerState,
    inputs: QuantizerState,
    output: QuantizerState,
    *,
    default: FormatName | None,
) -> ListedFormat | str:
    """A Linear's format, or what is wrong with it; `default` is what a quantizer without numerics
    has, None where that is ModelOpt's own.
    """
    if not weight.on and not inputs.on:
        return "has only its output quantized" if output.on else FormatName.BF16
    if not weight.on:
        return "has only its input quantized"
    found = [state.numerics.format if state.numerics else default for state in (weight, inputs)]
    if output.on and output.numerics is None:
        return "has its output quantized, in ModelOpt's default (int8)"
    if found[0] is None or (found[1] is None and inputs.on):
        return "is left in ModelOpt's default (int8)"
    outputs = ", outputs too" if output.on else ""
    if not inputs.on:
        rowwise = weight.numerics is None or weight.numerics.rowwise
        ours = WEIGHT_ONLY.get(found[0]) if rowwise and not outputs else None
        return ours or OtherFormat(f"{found[0]} weight-only{outputs}")
    if found == [FormatName.NVFP4_4O6, FormatName.NVFP4] and not outputs:
        return FormatName.NVFP4_4O6
    if found == [FormatName.NVFP4_4O6] * 2:
        return OtherFormat(f"nvfp4-4o6 weights and activations{outputs}")
    if found[0] == found[1] and not outputs:
        return found[0]
    both = f"{found[0]} weights, {found[1]} activations"
    return OtherFormat((found[0] if found[0] == found[1] else both) + outputs)
