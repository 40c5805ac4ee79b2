"""What does a list do to a model? `Subject`: which Linears each entry hits, and each one's format.

    subject = Subject.of(model, get_reader("glob").read(text), FormatName.NVFP4)
    subject.formats["proj_out"], subject.hits[0]

A list is matched against a model once. Every check of an audit is a function of a `Subject` that
yields findings and changes nothing.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from sensitivity.consumers.lists import ConsumerList, Entry, ModelTree
from sensitivity.consumers.other_formats import ListedFormat, OtherFormat
from sensitivity.core.format_name import FormatName, quantized
from sensitivity.core.fqns import stack_of
from sensitivity.errors import PatternError
from sensitivity.workflows.audit.model import AuditedModel
from sensitivity.workflows.audit.wording import place

MATCH_SECONDS = 10.0
"""What matching all entries may take: some thousand patterns, or any number of names."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A list on a model. `of` makes it.

    Attributes:
        model: the model.
        listed: the list as its consumer understands it.
        format: the format that skipped Linears are judged by: the one that was asked for if the
            list uses it, else the list's most frequent one.
        hits: the Linears that each entry hits, in the order of the entries.
        formats: {FQN: format} as the consumer decides. A format may be one that this tool does not
            have; then the list has no price (`is_priced`).
        unknown_parts: parts of the list that apply to nothing.
        left_out: the entries of these parts.
    """

    model: AuditedModel
    listed: ConsumerList
    format: FormatName
    hits: tuple[frozenset[str], ...]
    formats: Mapping[str, ListedFormat] = field(default_factory=dict)
    unknown_parts: tuple[str, ...] = ()
    left_out: tuple[Entry, ...] = ()

    @classmethod
    def of(cls, model: AuditedModel, listed: ConsumerList, format: FormatName) -> "Subject":
        """Match a list.

        Args:
            model: the model.
            listed: the list.
            format: what Linears become that the list quantizes without saying to what.

        Raises:
            PatternError: the consumer cannot read an entry (the message has its line), fails on
                the list, or matching takes too long.
        """
        unknown = listed.unknown_parts(model.tree)
        left_out = tuple(entry for entry in listed.entries if entry.component in unknown)
        listed = listed.without_parts(unknown) if unknown else listed
        hits = _hits(listed, model.tree)
        formats = assigned(listed, model.tree, format)
        used = Counter(name for name in quantized(formats).values() if isinstance(name, FormatName))
        judged_by = format if format in used or not used else used.most_common(1)[0][0]
        return cls(
            model=model,
            listed=listed,
            format=judged_by,
            hits=hits,
            formats=formats,
            unknown_parts=unknown,
            left_out=left_out,
        )

    @property
    def other_formats(self) -> tuple[OtherFormat, ...]:
        """The formats of quantized Linears that this tool does not have, most frequent first."""
        used = Counter(name for name in self.formats.values() if isinstance(name, OtherFormat))
        return tuple(name for name, _ in used.most_common())

    @property
    def is_priced(self) -> bool:
        """Whether the list has a price: whether all of its formats are this tool's."""
        return not self.other_formats

    @property
    def quantized(self) -> tuple[str, ...]:
        """The Linears that the list quantizes, in the model's order."""
        return tuple(quantized(self.formats))

    def gain_s(self, fqns: Iterable[str]) -> float:
        """Seconds of a run that these Linears save, or would save if they were quantized."""
        return sum(self.model.gain_s(fqn, self.judged[fqn]) for fqn in fqns)

    def gain_with(self, formats: Mapping[str, ListedFormat], fqns: Iterable[str]) -> float:
        """Seconds of a run that these Linears save with other formats. bf16 saves nothing."""
        return sum(self.model.gain_s(fqn, formats[fqn]) for fqn in fqns)

    @cached_property
    def judged(self) -> dict[str, ListedFormat]:
        """{FQN: the format that its gain is stated for}: its own, or `format` if it is skipped."""
        return {
            fqn: name if name.is_quantized else self.format for fqn, name in self.formats.items()
        }

    @cached_property
    def names(self) -> dict[str, set[str]]:
        """{name that the consumer's rules see: the FQNs that it stands for}."""
        return self.listed.names(self.model.tree)

    @cached_property
    def seen(self) -> dict[str, list[str]]:
        """{FQN: the names that the consumer knows it by}."""
        names: dict[str, list[str]] = {}
        for name, fqns in self.names.items():
            for fqn in fqns:
                names.setdefault(fqn, []).append(name)
        return names

    def called(self, fqn: str) -> str:
        """What the consumer calls a Linear; "" if it has no name there.

        Of several names it is the one that stands for most Linears.
        """
        return max(self.seen.get(fqn, [fqn]), key=lambda name: len(self.names.get(name, ())))

    @cached_property
    def lists_of_blocks(self) -> frozenset[str]:
        """The names of the model's lists of blocks, such as `transformer_blocks`."""
        inside = self.model.tree.inside
        return frozenset(
            inside(fqn).partition(".")[0] for fqn in self.formats if stack_of(inside(fqn))
        )


def _hits(listed: ConsumerList, tree: ModelTree) -> tuple[frozenset[str], ...]:
    """What each entry hits. Raises PatternError as `Subject.of` does."""
    hits, ends = list[frozenset[str]](), time.monotonic() + MATCH_SECONDS
    names = listed.names(tree)
    for entry in listed.entries:
        if time.monotonic() > ends:
            raise PatternError(
                f"found {len(listed.entries)} entries, of which {len(hits)} took"
                f" {MATCH_SECONDS:g} s to match; expected a list that takes no longer: write names,"
                " or fewer patterns"
            )
        try:
            hits.append(listed.hits(entry, tree, names))
        except PatternError as error:
            raise PatternError(f"{place(entry)}{error}") from None
    return tuple(hits)


def assigned(listed: ConsumerList, tree: ModelTree, format: FormatName) -> dict[str, ListedFormat]:
    """{FQN: format} as the consumer decides. The list's least width holds for functions too."""
    narrow = {fqn for fqn, (k, n) in tree.shapes.items() if min(k, n) < listed.min_width}
    return {
        fqn: FormatName.BF16 if fqn in narrow else name
        for fqn, name in listed.assign(tree, quantized=format).items()
    }
