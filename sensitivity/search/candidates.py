"""What may a search choose from? `Candidates`: groups of Linears, their formats and their gains.

A choice is a tuple of small integers, one for each group, in the order of the groups: 0 is bf16, 1
the first searched format, 2 the second. Each group saves priced seconds in each format; the seconds
of a choice are those of bf16 minus what its groups save. Where the host may be the limit of a run
(`latency.host`), each group adds to the host's seconds too, and the slower of GPU and host counts.

    assignment = candidates.decode(choice)       # {FQN: format} of every Linear, and the policy
    seconds = candidates.latency_s(choice)       # of one pipeline run

Steps. Where several step policies may be chosen (`core.step_policy`), a choice has one integer more
at its end: the place of its policy. A single policy holds for every choice, and is no part of it.
Seconds are linear in the steps: a group saves what it saves in every step, times the share of steps
that run quantized, plus, of A16 edge steps, what its weight-only form saves, times their share.

`search.grouping.make_candidates` builds the record from the shapes of a model. This module only
holds it, so that modules which read a choice need neither torch nor a latency model.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName
from sensitivity.core.short_reprs import ShortRepr
from sensitivity.core.step_policy import PLAIN, EdgeMode, StepPolicy
from sensitivity.errors import FormatError
from sensitivity.search.choice_memory import ChoiceMemory
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
        edge_gains_s: for each option the seconds that its weight-only form would save in every
            step; 0 for bf16. () where no policy has edge steps in A16.
    """

    name: str
    fqns: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]
    gains_s: tuple[float, ...]
    host_s: tuple[float, ...] = ()
    edge_gains_s: tuple[float, ...] = ()

    def without(self, options: Collection[int]) -> "Group":
        """The same group, but no Linear takes these options."""

        def left(seconds: tuple[float, ...]) -> tuple[float, ...]:
            return tuple(0.0 if o in options else own for o, own in enumerate(seconds))

        return replace(
            self,
            members=tuple(() if o in options else own for o, own in enumerate(self.members)),
            gains_s=left(self.gains_s),
            host_s=left(self.host_s),
            edge_gains_s=left(self.edge_gains_s),
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
        policies: the step policies that may be chosen; where there are several, the first is that
            of the baselines.
        steps: denoising steps of a run; None where the only policy is the plain one.
        memory: peak bytes of any choice; None where the run was not counted.
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
    policies: tuple[StepPolicy, ...] = (PLAIN,)
    steps: int | None = None
    memory: ChoiceMemory | None = None

    @property
    def chooses_policy(self) -> bool:
        """Whether a choice ends with the place of its policy."""
        return len(self.policies) > 1

    @property
    def length(self) -> int:
        """How many integers a choice has."""
        return len(self.groups) + self.chooses_policy

    def options_of(self, choice: Sequence[int]) -> Choice:
        """The options of the groups, without the policy."""
        return tuple(choice[: len(self.groups)])

    def place_of_policy(self, choice: Sequence[int]) -> int:
        """Which of `policies` a choice has."""
        return choice[len(self.groups)] if self.chooses_policy else 0

    def policy_of(self, choice: Sequence[int]) -> StepPolicy:
        """The step policy of a choice."""
        return self.policies[self.place_of_policy(choice)]

    def with_policy(self, options: Sequence[int], place: int = 0) -> Choice:
        """The choice of these options of the groups and the policy at this place.

        The policy is the first where nothing is quantized: it changes nothing there.
        """
        end = (place if any(options) else 0,) if self.chooses_policy else ()
        return (*map(int, options), *end)

    @property
    def none_quantized(self) -> Choice:
        """Everything bf16."""
        return (0,) * self.length

    def all_quantized(self, option: int = -1) -> Choice:
        """Every group in one format (the last by default), where the group takes it, even at a loss
        of time; with the first policy.
        """
        wanted = option % len(self.formats)
        return self.with_policy([wanted if group.members[wanted] else 0 for group in self.groups])

    def canonical(self, choice: Sequence[int]) -> Choice:
        """The same assignment, with 0 for every option that no Linear of the group takes, and the
        first policy where nothing is quantized.

        Raises FormatError on another length, option or policy.
        """
        options = self.options_of(choice)
        if (
            len(choice) != self.length
            or any(not 0 <= c < len(self.formats) for c in options)
            or not 0 <= self.place_of_policy(choice) < len(self.policies)
        ):
            policies = f" and {len(self.policies)} step policies" if self.chooses_policy else ""
            raise FormatError(
                f"a choice of {len(choice)} options does not fit {len(self.groups)} groups of"
                f" {len(self.formats)} formats{policies}; make it from these candidates"
            )
        taken = [c if own.members[c] else 0 for c, own in zip(options, self.groups, strict=True)]
        return self.with_policy(taken, self.place_of_policy(choice))

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

    def decode(self, choice: Sequence[int]) -> Assignment:
        """{FQN: format} of every Linear, bf16 ones included, and the step policy."""
        choice = self.canonical(choice)
        formats = dict.fromkeys(self.fqns, FormatName.BF16)
        for group, option in zip(self.groups, self.options_of(choice), strict=True):
            formats.update(dict.fromkeys(group.members[option], self.formats[option]))
        return Assignment(formats, self.policy_of(choice))

    def gains_s(self, place: int = 0) -> list[tuple[float, ...]]:
        """For each group and option the seconds of a run that it saves on the GPU under the policy
        at this place.
        """
        share, in_a16 = self._shares(place)
        if not in_a16:
            return [tuple(share * gain for gain in group.gains_s) for group in self.groups]
        return [
            tuple(share * own + in_a16 * edge for own, edge in zip(*kinds, strict=True))
            for kinds in ((group.gains_s, group.edge_gains_s) for group in self.groups)
        ]

    def _shares(self, place: int) -> tuple[float, float]:
        """The share of a run's steps that run quantized, and of those that run in A16."""
        policy = self.policies[place]
        if policy.is_plain or self.steps is None:
            return 1.0, 0.0
        share = policy.share(steps=self.steps)
        return share, (1 - share) * (policy.mode is EdgeMode.A16)

    def latency_s(self, choice: Sequence[int]) -> float:
        """Priced seconds of one pipeline run with this choice.

        The host's part of a step in A16 is that of a quantized one: as much is launched.
        """
        choice = self.canonical(choice)
        chosen = list(zip(self.groups, self.options_of(choice), strict=True))
        share, in_a16 = self._shares(self.place_of_policy(choice))
        added_s = sum(group.host_s[o] for group, o in chosen) if self.host else 0.0
        seconds = self._seconds(sum(group.gains_s[o] for group, o in chosen), added_s)
        if share == 1.0:
            return seconds
        edge_s = sum(group.edge_gains_s[o] for group, o in chosen) if in_a16 else 0.0
        edges = self._seconds(edge_s, added_s if in_a16 else 0.0)
        return share * seconds + (1 - share) * edges

    def memory_bytes(self, choice: Sequence[int]) -> int | None:
        """Predicted peak of GPU memory in a run with this choice; None where it is not known."""
        if self.memory is None:
            return None
        choice = self.canonical(choice)
        policy = self.policy_of(choice)
        keeps_copies = not policy.is_plain and policy.mode is EdgeMode.BF16
        return self.memory.peak_bytes(self.options_of(choice), keeps_copies=keeps_copies)

    def _seconds(self, saved_s: float, added_s: float) -> float:
        """Of a run with all steps alike, with these changes of the GPU's and the host's."""
        if self.host is None:
            return self.bf16_s - saved_s
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
