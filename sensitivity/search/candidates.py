"""Which Linears may change format, which change together, and what does each change gain?

`Candidates`.

Method. Linears that were called, that no always-skip pattern names and that at least one searched
format takes are grouped: those with the same role (or roles that consumers fuse, as q/k/v) in the
same depth band of their block class. Each group may be bf16 or one of the formats. Its gain in a
format is the sum of its Linears' priced seconds saved in one whole pipeline run, negative where the
format is slower.

    candidates = make_candidates(table, spec, formats=(FormatName.NVFP4,), latency=model)
    choice = candidates.rule_of_thumb            # one option a group: 0 is bf16, 1 the first format, ...
    formats = candidates.decode(choice)          # {fqn: format} of every Linear

Conventions. A choice is a tuple of small integers, one a group, in the groups' order. Depth bands
split the blocks of one class (`transformer_blocks`) into `depth_bands` runs of equal length; where
blocks are inside of blocks, as in UNets, those of each outermost block for themselves, since
outermost blocks differ in width. No group is of two components: roles begin with the component's
name where there are several. With granularity "layer" every Linear is a group of its own (fused
roles of one block still together).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch

from sensitivity.core.format_name import FormatName, Granularity
from sensitivity.core.fqns import indices_of, stack_of
from sensitivity.core.patterns import expand
from sensitivity.errors import FormatError
from sensitivity.formats.registry import get_format
from sensitivity.latency import LatencyModel
from sensitivity.shapes.by_hand import published_list, rule_of_thumb
from sensitivity.shapes.families import _role_of_family, fused_families
from sensitivity.shapes.table import LinearProfile, ShapeTable
from sensitivity.spec.study_spec import StudySpec

Choice = tuple[int, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Group:
    """Linears that change format together.

    Attributes:
        name: role and blocks, as in "transformer_blocks.attn.to_k+to_q+to_v[0-5]".
        fqns: its Linears.
        members: for each option the FQNs that take that format (others stay bf16); empty for bf16.
        gains_s: for each option the seconds of one pipeline run that it saves; 0 for bf16.
    """

    name: str
    fqns: tuple[str, ...]
    members: tuple[tuple[str, ...], ...]
    gains_s: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidates:
    """Everything a search may choose from.

    Attributes:
        formats: the options of every group; the first is bf16.
        groups: what is chosen.
        fixed: {FQN: reason} of Linears that stay bf16 whatever is chosen.
        refused: {FQN: reason} of Linears that at least one searched format refuses.
        fqns: every Linear of the denoiser, called or not.
        rule_of_thumb: the choice that people make by hand.
        bf16_s: priced seconds of the run with nothing quantized.
        published: (name, choice) of the study's published lists; a group is quantized where its
            list quantizes any of it.
        dead: the study's always-skip patterns that match no Linear.
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

    @property
    def none_quantized(self) -> Choice:
        """Everything bf16."""
        return (0,) * len(self.groups)

    def all_quantized(self, option: int = -1) -> Choice:
        """Every group in one format: the last one by default, whatever it costs or gains."""
        wanted = option % len(self.formats)
        return tuple(wanted if group.members[wanted] else 0 for group in self.groups)

    def canonical(self, choice: Sequence[int]) -> Choice:
        """The same assignment with options that no Linear of the group takes written as bf16.

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
        """The same candidates, but that no Linear takes these (group, option)s: choices that name
        them mean bf16 there.
        """

        def kept(g: int, group: Group) -> Group:
            gone = [(g, o) in options for o in range(len(self.formats))]
            members = tuple(
                () if lost else own for own, lost in zip(group.members, gone, strict=True)
            )
            return replace(
                group,
                members=members,
                gains_s=tuple(
                    0.0 if lost else gain for gain, lost in zip(group.gains_s, gone, strict=True)
                ),
            )

        return (
            replace(self, groups=tuple(kept(g, group) for g, group in enumerate(self.groups)))
            if options
            else self
        )

    def decode(self, choice: Sequence[int]) -> dict[str, FormatName]:
        """{FQN: format} of every Linear, bf16 ones included."""
        formats = dict.fromkeys(self.fqns, FormatName.BF16)
        for group, option in zip(self.groups, self.canonical(choice), strict=True):
            formats.update(dict.fromkeys(group.members[option], self.formats[option]))
        return formats

    def latency_s(self, choice: Sequence[int]) -> float:
        """Priced seconds of one pipeline run with this choice."""
        return self.bf16_s - sum(
            group.gains_s[option]
            for group, option in zip(self.groups, self.canonical(choice), strict=True)
        )


def make_candidates(
    table: ShapeTable,
    spec: StudySpec,
    *,
    formats: Sequence[FormatName],
    latency: LatencyModel,
    granularity: Granularity = "group",
    unfit: Mapping[str, str] = MappingProxyType({}),
) -> Candidates:
    """Group the Linears of a profiled model and price each group in each format.

    Args:
        table: shapes at the priced scale (`latency.stand_for` where the model stands for a larger
            one); refusals use `table`'s own K and N divided by that scale, that is the loaded
            model's.
        spec: the study: always-skip patterns, fused roles, depth bands, rule of thumb.
        formats: searched formats, without bf16.
        latency: prices a Linear.
        granularity: "group" or "layer".
        unfit: {FQN: reason} of Linears that must stay bf16 for their weights' sake
            (`Switch.unfit`).

    Raises:
        FormatError: no Linear takes any of the formats, or the target does not have a format.
    """
    scale, fqns = (
        spec.pricing.stands_for,
        tuple(linear.fqn for linear in table.linears) + table.uncalled,
    )
    fixed = dict.fromkeys(table.uncalled, "never called in the profiled run") | {
        fqn: unfit[fqn] for fqn in fqns if fqn in unfit
    }
    dead: list[str] = []
    for entry in spec.search.always_skip:
        skipped = expand([entry.pattern], fqns, table.components)
        fixed |= dict.fromkeys(skipped.matched, f"always skipped: {entry.reason}")
        dead += skipped.dead
    reasons = _refusals(table, spec, formats, scale)
    refused = {
        fqn: "; ".join(reason for reason in why if reason)
        for fqn, why in reasons.items()
        if any(why)
    }
    fixed |= {fqn: refused[fqn] for fqn, why in reasons.items() if all(why) and fqn not in fixed}
    free = [linear for linear in table.linears if linear.fqn not in fixed]
    if not free:
        some = next(iter(fixed.items()), ("", "the model has no Linears"))
        raise FormatError(
            f"none of the {len(fqns)} Linears of {table.model} may be quantized to"
            f" {', '.join(formats)} ({some[0]}: {some[1]}); choose another --format"
        )
    groups = [
        _price(
            name,
            members,
            [[reasons[m.fqn][i] is None for m in members] for i in range(len(formats))],
            formats,
            latency,
            table.readers,
        )
        for name, members in _group(free, spec, granularity).items()
    ]
    thumb = rule_of_thumb(table, spec)
    bf16_s = latency.estimate(table, {}).bf16_s
    return Candidates(
        formats=(FormatName.BF16, *formats),
        groups=tuple(groups),
        fixed=fixed,
        refused=refused,
        fqns=fqns,
        bf16_s=bf16_s,
        rule_of_thumb=_choice(groups, thumb),
        published=tuple(
            (a.name, _choice(groups, published_list(table, a))) for a in spec.published
        ),
        dead=tuple(dead),
    )


def _refusals(
    table: ShapeTable, spec: StudySpec, formats: Sequence[FormatName], scale: int
) -> dict[str, list[str | None]]:
    """{FQN: for each format why it is refused, or None}.

    What a format refuses to one of a block's fused Linears it refuses to all of them.
    """
    reasons: dict[str, list[str | None]] = {}
    for linear in table.linears:
        dtype = getattr(torch, linear.dtype)
        reasons[linear.fqn] = [
            get_format(name).refusal(k=linear.k // scale, n=linear.n // scale, dtype=dtype)
            for name in formats
        ]
    for family in fused_families(table.linears, spec.search.fused):
        for i in range(len(formats)):
            first = next(((x.fqn, reasons[x.fqn][i]) for x in family if reasons[x.fqn][i]), None)
            if first is not None:
                for fqn in (x.fqn for x in family):
                    reasons[fqn][i] = (
                        reasons[fqn][i] or f"fused with {first[0]}, of which {first[1]}"
                    )
    return reasons


def _group(
    linears: Iterable[LinearProfile], spec: StudySpec, granularity: Granularity
) -> dict[str, list[LinearProfile]]:
    """{group name: Linears}, in the order of the first Linear of each group."""
    linears = list(linears)
    blocks: dict[Level, set[tuple[int, ...]]] = {}
    for linear in linears:
        if linear.block:
            blocks.setdefault(_level(linear.block), set()).add(indices_of(linear.block))
    roles = {
        x.fqn: _role_of_family(family, spec.search.fused)
        for family in fused_families(linears, spec.search.fused)
        for x in family
    }
    keyed: dict[tuple[str, str], list[LinearProfile]] = {}
    for linear in linears:
        keyed.setdefault(
            (roles[linear.fqn], _band(linear.block, blocks, spec.search.depth_bands, granularity)),
            [],
        ).append(linear)
    return {f"{role}[{band}]" if band else role: members for (role, band), members in keyed.items()}


Level = tuple[str, tuple[int, ...]]
"""Blocks that are split into depth bands: their stack, and the index of the outermost block that
they are in, () where they are in none.
"""


def _level(block: str) -> Level:
    return stack_of(block), indices_of(block)[:-1][:1]


def _band(
    block: str,
    blocks: Mapping[Level, Collection[tuple[int, ...]]],
    bands: int,
    granularity: Granularity,
) -> str:
    """ "first-last" block of the depth band that a block is in; its own index for layers; "" outside
    blocks. A block in a block has an index such as 1.0.
    """
    if not block:
        return ""
    index = indices_of(block)
    ordered = [index] if granularity == "layer" else sorted(blocks[_level(block)])
    band = ordered.index(index) * min(bands, len(ordered)) // len(ordered)
    inside = [
        b for i, b in enumerate(ordered) if i * min(bands, len(ordered)) // len(ordered) == band
    ]
    return "-".join(".".join(map(str, b)) for b in dict.fromkeys((inside[0], inside[-1])))


def _price(
    name: str,
    linears: Sequence[LinearProfile],
    takes: Sequence[Sequence[bool]],
    formats: Sequence[FormatName],
    latency: LatencyModel,
    readers: Mapping[str, int],
) -> Group:
    members: list[tuple[str, ...]] = [()]
    gains = [0.0]
    for fmt, taken in zip(formats, takes, strict=True):
        chosen = [linear for linear, ok in zip(linears, taken, strict=True) if ok]
        members.append(tuple(linear.fqn for linear in chosen))
        gains.append(
            sum(_saved_s(linear, fmt, latency, readers.get(linear.fqn, 1)) for linear in chosen)
        )
    return Group(
        name=name,
        fqns=tuple(linear.fqn for linear in linears),
        members=tuple(members),
        gains_s=tuple(gains),
    )


def _saved_s(linear: LinearProfile, fmt: FormatName, latency: LatencyModel, readers: int) -> float:
    """Seconds of one pipeline run that quantizing this Linear saves; negative where it is slower."""
    return (
        linear.calls
        * (
            latency.mean_us(linear, FormatName.BF16, readers)
            - latency.mean_us(linear, fmt, readers)
        )
        / 1e6
    )


def _choice(groups: Sequence[Group], quantized: AbstractSet[str]) -> Choice:
    """The last format for each group of which any Linear is quantized."""
    return tuple(
        len(group.members) - 1 if set(group.members[-1]) & quantized else 0 for group in groups
    )


def baselines(candidates: Candidates) -> list[tuple[str, Choice]]:
    """The first trials: (label, choice); equal choices once, under the first label."""
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
