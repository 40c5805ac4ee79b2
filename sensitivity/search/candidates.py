"""What may a search choose from? `Candidates`: groups of Linears, their formats and their gains.

A choice is a tuple of small integers, one for each group, in the order of the groups: 0 is bf16, 1
the first searched format, 2 the second. Each group saves priced seconds in each format; the seconds
of a choice are those of bf16 minus what its groups save. Where the host may be the limit of a run
(`latency.host`), each group adds to the host's seconds too, and the slower of GPU and host counts.

    formats = candidates.decode(choice)          # {FQN: format} of every Linear
    seconds = candidates.latency_s(choice)       # of one pipeline run

`search.grouping.make_candidates` builds the record from the shapes of a model. This module only
holds it, so that modules which read a choice need neither torch nor a latency model.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from sensitivity.core.format_name import FormatName
from sensitivity.core.short_reprs import ShortRepr
from sensitivity.errors import FormatError
from sensitivity.search.kept_prices import KeptPrices

Choice = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Linears that change format together.

    Attributes:
        name: role and blocks, as in "transformer_blocks.attn.to_k+to_q+to_v[0-5]".
        fqns: its Linears.
        members: for each option the FQNs that take that format (the others stay bf16); empty for
            bf16.
        gains_s: for each option the seconds of one pipeline run that it saves; 0 for bf16.
        host_s: for each option the seconds that it adds to the host's; () where the host is no
            limit.
    """

    name: str
    fqns: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]
    gains_s: tuple[float, ...]
    host_s: tuple[float, ...] = ()

    def without(self, options: Collection[int]) -> "Group":
        """The same group, but no Linear takes these options."""
        return replace(
            self,
            members=tuple(() if o in options else own for o, own in enumerate(self.members)),
            gains_s=tuple(0.0 if o in options else gain for o, gain in enumerate(self.gains_s)),
            host_s=tuple(0.0 if o in options else added for o, added in enumerate(self.host_s)),
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class HostLimit:
    """What one pipeline run takes with nothing quantized; the larger of the two decides.

    Attributes:
        gpu_s: seconds of the GPU.
        host_s: seconds of what launches the denoisers, and of everything that is no denoiser.
    """

    gpu_s: float
    host_s: float


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Candidates(ShortRepr):
    """Everything that a search may choose from.

    Attributes:
        formats: the options of every group; the first is bf16.
        groups: what is chosen.
        fixed: {FQN: reason} of Linears that stay bf16 in every choice.
        refused: {FQN: reason} of Linears that at least one searched format refuses.
        fqns: every Linear of the denoiser, called or not.
        rule_of_thumb: the choice that people make by hand.
        bf16_s: priced seconds of the run with nothing quantized.
        published: (label, choice) of the study's published lists; a group is quantized where its
            list quantizes any of it. The label is the list's name only if the choice is the list.
        dead: the study's always-skip patterns that match no Linear.
        host: what the host and the GPU take with nothing quantized; None where the host is no
            limit, whatever is quantized.
        prices: the measured times that gains come from; None where they are predicted.
    """

    formats: tuple[FormatName, ...]
    groups: tuple[Group, ...]
    fixed: Mapping[str, str]
    refused: Mapping[str, str]
    fqns: tuple[str, ...]
    rule_of_thumb: Choice
    bf16_s: float
    published: tuple[tuple[str, Choice], ...] = ()
    dead: tuple[str, ...] = ()
    host: HostLimit | None = None
    prices: KeptPrices | None = None

    @property
    def none_quantized(self) -> Choice:
        """Everything bf16."""
        return (0,) * len(self.groups)

    def all_quantized(self, option: int = -1) -> Choice:
        """Every group in one format (the last by default), where the group takes it, even at a loss
        of time.
        """
        wanted = option % len(self.formats)
        return tuple(wanted if group.members[wanted] else 0 for group in self.groups)

    def canonical(self, choice: Sequence[int]) -> Choice:
        """The same assignment, with 0 for every option that no Linear of the group takes.

        Raises FormatError on another length or option.
        """
        if len(choice) != len(self.groups) or any(not 0 <= c < len(self.formats) for c in choice):
            raise FormatError(
                f"a choice of {len(choice)} options does not fit {len(self.groups)} groups of"
                f" {len(self.formats)} formats; make it from these candidates"
            )
        return tuple(
            int(c) if group.members[c] else 0 for c, group in zip(choice, self.groups, strict=True)
        )

    def without(self, options: Collection[tuple[int, int]]) -> "Candidates":
        """The same candidates without these (group, option) pairs.

        The options keep their numbers; a choice that names a removed one means bf16 there.
        """
        if not options:
            return self
        groups = tuple(
            group.without({option for at, option in options if at == g})
            for g, group in enumerate(self.groups)
        )
        return replace(self, groups=groups)

    def decode(self, choice: Sequence[int]) -> dict[str, FormatName]:
        """{FQN: format} of every Linear, bf16 ones included."""
        formats = dict.fromkeys(self.fqns, FormatName.BF16)
        for group, option in zip(self.groups, self.canonical(choice), strict=True):
            formats.update(dict.fromkeys(group.members[option], self.formats[option]))
        return formats

    def latency_s(self, choice: Sequence[int]) -> float:
        """Priced seconds of one pipeline run with this choice."""
        chosen = list(zip(self.groups, self.canonical(choice), strict=True))
        saved_s = sum(group.gains_s[option] for group, option in chosen)
        if self.host is None:
            return self.bf16_s - saved_s
        added_s = sum(group.host_s[option] for group, option in chosen)
        return max(self.host.gpu_s - saved_s, self.host.host_s + added_s)


def baselines(candidates: Candidates) -> list[tuple[str, Choice]]:
    """(label, choice) of what every search scores first: nothing quantized, everything quantized in
    each format, the rule of thumb, published lists.

    Equal choices come once, under the first label.
    """
    named = [("none", candidates.none_quantized)]
    named += [
        (f"all {fmt}", candidates.all_quantized(option))
        for option, fmt in enumerate(candidates.formats)
        if option
    ]
    named.append(("rule of thumb", candidates.canonical(candidates.rule_of_thumb)))
    named += [(name, candidates.canonical(choice)) for name, choice in candidates.published]
    first: dict[Choice, str] = {}
    for label, choice in named:
        first.setdefault(choice, label)
    return [(label, choice) for choice, label in first.items()]
