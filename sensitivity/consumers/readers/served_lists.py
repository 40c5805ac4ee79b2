"""Lists that match run-time names: what the readers of vLLM-Omni, SGLang and ComfyUI share.

    listed = ServedList(
        consumer="vllm-omni", served="vllm-omni", entries=..., defaults={"": FormatName.FP8}
    )
    listed.assign(tree, quantized=FormatName.FP8)      # bf16 for what vLLM-Omni never quantizes

Linears that the consumer never quantizes stay bf16, whatever the list says. Entries see them under
diffusers' own names. So an entry that names such a Linear to be safe still hits it, and is not
reported as dead.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from sensitivity.consumers.lists import ConsumerList, ModelTree
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.consumers.seen_names import Names
from sensitivity.consumers.served_names import ALWAYS_BF16, served_names
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedList(ConsumerList):
    """A list that its consumer matches with run-time names.

    Attributes:
        served: the consumer of `served_names` whose names are used; `renamed` is made from it.
        own_parts: the last parts of diffusers' names that entries may use for Linears of which they
            are the end, though the consumer fuses these Linears.
        own_only: whether these Linears are seen by diffusers' name only, and not by the fused one.
        defaults: {component: the format of a Linear that no entry hits}; None is the format that
            the user names. The key "" is every component. Where components are named, the others
            stay bf16.
    """

    served: str
    defaults: Mapping[str, ListedFormat | None]
    own_parts: frozenset[str] = frozenset()
    own_only: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "renamed", partial(run_time_names, self.served))

    def names(self, tree: ModelTree) -> dict[str, set[str]]:
        """{name that a rule sees: the FQNs that it stands for}."""
        names = Names()
        for fqn, name in run_time_names(self.served, tree).items():
            inside = tree.inside(fqn)
            seen = {name}
            if inside.rpartition(".")[2] in self.own_parts:
                seen = {inside} if self.own_only else {inside, name}
            for own in seen:
                names.setdefault(own, set()).add(fqn)
        return names

    def assign(self, tree: ModelTree, *, quantized: FormatName) -> dict[str, ListedFormat]:
        """{FQN: format} of every Linear.

        Args:
            tree: the model.
            quantized: the format where the list names none.

        Raises:
            PatternError: an entry is malformed, the names of a class are not known, or entries hit
                only some of the Linears that the consumer runs as one.
        """
        seen = self.names(tree)
        formats: dict[str, ListedFormat] = {
            fqn: self._default_of(fqn, tree) or quantized for fqn in tree.fqns
        }
        for entry in reversed(self.entries):  # the first entry that hits a Linear decides
            hit = self._matching(entry, seen, tree)
            formats.update(dict.fromkeys(hit, entry.format or quantized))
        first_of: dict[tuple[str, str], str] = {}  # (component, run-time name) -> its first Linear
        for fqn, name in served_names(self.served, tree).items():
            if name is ALWAYS_BF16:
                formats[fqn] = FormatName.BF16
                continue
            first = first_of.setdefault((tree.component_of(fqn), name), fqn)
            if formats[first] != formats[fqn]:
                raise PatternError(
                    f"found entries that hit only one of {first} and {fqn}; {self.consumer} runs"
                    " them as one Linear and fails on that; list both, or neither"
                )
        return formats

    def _default_of(self, fqn: str, tree: ModelTree) -> ListedFormat | None:
        if "" in self.defaults:
            return self.defaults[""]
        return self.defaults.get(self.part_of(fqn, tree), FormatName.BF16)


def run_time_names(served: str, tree: ModelTree) -> dict[str, str]:
    """{FQN: the name that entries are matched with}.

    It is diffusers' own name for Linears that the consumer never quantizes.
    """
    return {
        fqn: tree.inside(fqn) if name is ALWAYS_BF16 else name
        for fqn, name in served_names(served, tree).items()
    }
