"""Which Linears change format together, and how many seconds does each change save?

`make_candidates` turns the shapes of a profiled model into `search.candidates.Candidates`.

Method. A Linear may change format if the run calls it, no always-skip pattern matches it and at
least one searched format takes it: the format by its rules on K and N, and its kernel on the GPU
that is priced. These Linears are grouped by role and depth band; roles that servers fuse, as q, k
and v, count as one role. The gain of a group in a format is the sum over its Linears of the priced
seconds saved in one pipeline run. It is negative where the format is slower.

    candidates = make_candidates(table, spec, formats=(FormatName.NVFP4,), latency=model)

Conventions. The blocks of one class (`transformer_blocks`) are split into `depth_bands` bands of
equal length. Where blocks contain blocks, as in UNets, each outermost block is split on its own,
since outermost blocks differ in width. A group never spans two components: where there are several,
roles begin with the component's name. With granularity "layer" every Linear is a group of its own,
except that fused roles of one block stay together.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from types import MappingProxyType

import torch

from sensitivity.consumers.limits import Limits
from sensitivity.core.format_name import FormatName, Granularity
from sensitivity.core.fqns import indices_of, stack_of
from sensitivity.core.patterns import expand
from sensitivity.core.step_policy import PLAIN, EdgeMode, StepPolicy
from sensitivity.errors import FormatError
from sensitivity.formats.registry import get_format
from sensitivity.latency import LatencyModel
from sensitivity.recipes.parts import NEVER_CALLED
from sensitivity.search.bound_groups import Reasons, bind, with_limits
from sensitivity.search.candidates import Candidates, Choice, Group, HostLimit
from sensitivity.shapes.by_hand import published_list, rule_of_thumb
from sensitivity.shapes.families import fused_families, role_of_family
from sensitivity.shapes.table import LinearProfile, ShapeTable
from sensitivity.spec.hand_lists import PublishedList
from sensitivity.spec.study_spec import StudySpec


def make_candidates(
    table: ShapeTable,
    spec: StudySpec,
    *,
    formats: Sequence[FormatName],
    latency: LatencyModel,
    granularity: Granularity = "group",
    unfit: Mapping[str, str] = MappingProxyType({}),
    limits: Sequence[Limits] = (),
    policies: Sequence[StepPolicy] = (PLAIN,),
    steps: int | None = None,
) -> Candidates:
    """Group the Linears of a profiled model and price each group in each format.

    Args:
        table: shapes at the priced scale (`latency.stand_for` where the model stands for a larger
            one). Formats are asked about the loaded model's K and N, which are the table's divided
            by that scale.
        spec: the study: always-skip patterns, fused roles, depth bands, rule of thumb.
        formats: searched formats, without bf16.
        latency: prices a Linear.
        granularity: "group" or "layer".
        unfit: {FQN: reason} of Linears whose weights no format can hold (`Switch.unfit`).
        limits: what the consumers ask that every choice is for (`search.bound_groups`).
        policies: the step policies that may be chosen (`search.step_policies`).
        steps: denoising steps of a run; needed where a policy is not the plain one.

    Raises:
        FormatError: no Linear takes any of the formats, or the target does not have a format.
    """
    always, dead = _always_skipped(table, spec, table.fqns)
    own = _own_refusals(table, spec, formats, latency)
    family = _family_refusals(table, spec, own)
    others = {fqn: unfit[fqn] for fqn in table.fqns if fqn in unfit} | always
    reasons, fixed = _fixed(table, family, others, limits)
    never = {fqn for fqn, why in own.items() if why[-1]} | unfit.keys()
    free = [linear for linear in table.linears if linear.fqn not in fixed]
    if not free:
        raise FormatError(_nothing_free(table, formats, fixed))
    grouped, bound = bind(_grouped(free, spec, granularity), limits)
    in_a16 = any(own.mode is EdgeMode.A16 for own in policies if not own.is_plain)
    groups = tuple(
        _priced(name, members, reasons, formats, latency, table.readers, in_a16=in_a16)
        for name, members in grouped.items()
    )
    bf16_s, host, groups = _with_host(groups, table, latency)
    found = Candidates(
        formats=(FormatName.BF16, *formats),
        groups=groups,
        fixed=fixed,
        refused=_joined(family),
        fqns=table.fqns,
        bf16_s=bf16_s,
        rule_of_thumb=(),
        dead=dead,
        host=host,
        policies=tuple(policies),
        steps=steps,
    )
    return _with_lists(found, table, spec, never, bound)


def _with_lists(
    found: Candidates,
    table: ShapeTable,
    spec: StudySpec,
    never: AbstractSet[str],
    bound: AbstractSet[str],
) -> Candidates:
    """The candidates with the choices of lists by hand; `never`: what no list quantizes here."""
    named = [
        _published(own, published_list(table, own) - never, found.groups, bound)
        for own in spec.published
    ]
    thumb = _choice(found.groups, rule_of_thumb(table, spec), bound)
    return replace(
        found,
        rule_of_thumb=found.with_policy(thumb),
        published=tuple((label, found.with_policy(options)) for label, options in named),
    )


def _fixed(
    table: ShapeTable, reasons: Reasons, others: Mapping[str, str], limits: Sequence[Limits]
) -> tuple[Reasons, dict[str, str]]:
    """The reasons with those of the consumers, and {FQN: why it stays bf16 in every choice}.

    Args:
        table: of the run.
        reasons: why formats refuse a Linear.
        others: {FQN: another reason for which no format is taken}.
        limits: what the consumers ask.
    """
    refused, fixed = _joined(reasons), dict.fromkeys(table.uncalled, NEVER_CALLED)
    fixed |= others
    fixed |= {fqn: refused[fqn] for fqn, why in reasons.items() if all(why) and fqn not in fixed}
    reasons = with_limits(reasons, fixed, limits)
    return reasons, {fqn: str(why[0]) for fqn, why in reasons.items() if all(why)} | fixed


def _joined(reasons: Reasons) -> dict[str, str]:
    """{FQN: its reasons in one line} of the Linears that have any."""
    return {fqn: "; ".join(filter(None, why)) for fqn, why in reasons.items() if any(why)}


def _with_host(
    groups: tuple[Group, ...], table: ShapeTable, latency: LatencyModel
) -> tuple[float, HostLimit | None, tuple[Group, ...]]:
    """Seconds of the bf16 run, what the host takes of them, and the groups with what they add to
    the host's; where the host is the limit of no choice, None and the groups as they are.
    """
    bf16, work = latency.estimate(table, {}), latency.host_work(table)
    if bf16.host is None or work is None:
        return bf16.bf16_s, None, groups
    gpu_s = bf16.bf16_s - bf16.host.bf16_lost_s
    host_s = bf16.host.bf16_s + gpu_s - bf16.host.gpu_bf16_s
    by_fqn = {linear.fqn: linear for linear in table.linears}
    added = [
        tuple(sum(work.added_s(by_fqn[fqn]) for fqn in own) for own in group.members)
        for group in groups
    ]
    most_s = host_s + sum(map(max, added))
    if most_s <= gpu_s - sum(max(group.gains_s) for group in groups):
        return bf16.bf16_s, None, groups
    limited = tuple(replace(group, host_s=own) for group, own in zip(groups, added, strict=True))
    return bf16.bf16_s, HostLimit(gpu_s=gpu_s, host_s=host_s), limited


def _published(
    listed: PublishedList,
    quantized: AbstractSet[str],
    groups: Sequence[Group],
    bound: AbstractSet[str],
) -> tuple[str, Choice]:
    """The label and the options of a published list.

    A choice quantizes whole groups, and nothing that the study always skips. The label is the
    list's own name only if the choice is that list; otherwise it says what the choice has of it.

    Args:
        listed: the list.
        quantized: FQNs that it quantizes and the last format takes.
        groups: what is chosen.
        bound: the names of groups that consumers made of several.
    """
    choice = _choice(groups, quantized, bound)
    scored = {fqn for group, o in zip(groups, choice, strict=True) for fqn in group.members[o]}
    if scored == quantized:
        return listed.name, choice
    kept, more = len(scored & quantized), len(scored - quantized)
    others = f" and {more} others" if more else ""
    return f"near {listed.name}: {kept} of its {len(quantized)} Linears{others}", choice


def _nothing_free(
    table: ShapeTable, formats: Sequence[FormatName], fixed: Mapping[str, str]
) -> str:
    """The message for a model whose Linears all stay bf16, with one of them and its reason."""
    fqn, reason = next(iter(fixed.items()), ("", "the model has no Linears"))
    count = len(table.linears) + len(table.uncalled)
    return (
        f"none of the {count} Linears of {table.model} may be quantized to {', '.join(formats)}"
        f" ({fqn}: {reason}); choose another `format`"
    )


def _always_skipped(
    table: ShapeTable, spec: StudySpec, fqns: Sequence[str]
) -> tuple[dict[str, str], tuple[str, ...]]:
    """({FQN: reason} of what the study always skips, its patterns that match nothing)."""
    skipped: dict[str, str] = {}
    dead: list[str] = []
    for entry in spec.search.always_skip:
        found = expand([entry.pattern], fqns, table.components)
        skipped |= dict.fromkeys(found.matched, f"always skipped: {entry.reason}")
        dead += found.dead
    return skipped, tuple(dead)


def _own_refusals(
    table: ShapeTable, spec: StudySpec, formats: Sequence[FormatName], latency: LatencyModel
) -> Reasons:
    """Why each format, or its kernel on the target, refuses each Linear by itself."""
    scale = spec.pricing.stands_for
    return {
        linear.fqn: [
            get_format(name).refusal(
                k=linear.k // scale, n=linear.n // scale, dtype=getattr(torch, linear.dtype)
            )
            or latency.refuses(linear, name)
            for name in formats
        ]
        for linear in table.linears
    }


def _family_refusals(table: ShapeTable, spec: StudySpec, own: Reasons) -> Reasons:
    """Why each format refuses each Linear, by itself or with those that a block fuses it with.

    If a format refuses one of the Linears that a block fuses, it refuses all of them.
    """
    reasons = {fqn: list(why) for fqn, why in own.items()}
    for family in fused_families(table.linears, spec.search.fused):
        for i in range(len(reasons[family[0].fqn])):
            first = next(((x.fqn, reasons[x.fqn][i]) for x in family if reasons[x.fqn][i]), None)
            if first is not None:
                for x in family:
                    reasons[x.fqn][i] = (
                        reasons[x.fqn][i] or f"fused with {first[0]}, of which {first[1]}"
                    )
    return reasons


def _grouped(
    linears: Iterable[LinearProfile], spec: StudySpec, granularity: Granularity
) -> dict[str, list[LinearProfile]]:
    """{group name: Linears}, in the order of the first Linear of each group."""
    linears = list(linears)
    blocks: dict[Level, set[tuple[int, ...]]] = {}
    for linear in linears:
        if linear.block:
            blocks.setdefault(_level(linear.block), set()).add(indices_of(linear.block))
    roles = {
        x.fqn: role_of_family(family, spec.search.fused)
        for family in fused_families(linears, spec.search.fused)
        for x in family
    }
    keyed: dict[tuple[str, str], list[LinearProfile]] = {}
    for linear in linears:
        band = _band(linear.block, blocks, spec.search.depth_bands, granularity)
        keyed.setdefault((roles[linear.fqn], band), []).append(linear)
    return {f"{role}[{band}]" if band else role: members for (role, band), members in keyed.items()}


Level = tuple[str, tuple[int, ...]]
"""The blocks that are split into depth bands together: their stack, and the index of the outermost
block that contains them, () where none does.
"""


def _level(block: str) -> Level:
    return stack_of(block), indices_of(block)[:-1][:1]


def _band(
    block: str,
    blocks: Mapping[Level, Collection[tuple[int, ...]]],
    bands: int,
    granularity: Granularity,
) -> str:
    """The depth band of a block as "first-last"; with granularity "layer" the block's own index; ""
    outside blocks. A block inside a block has an index such as 1.0.
    """
    if not block:
        return ""
    index = indices_of(block)
    ordered = [index] if granularity == "layer" else sorted(blocks[_level(block)])
    count = min(bands, len(ordered))
    band = ordered.index(index) * count // len(ordered)
    inside = [b for i, b in enumerate(ordered) if i * count // len(ordered) == band]
    return "-".join(".".join(map(str, b)) for b in dict.fromkeys((inside[0], inside[-1])))


def _priced(
    name: str,
    linears: Sequence[LinearProfile],
    reasons: Reasons,
    formats: Sequence[FormatName],
    latency: LatencyModel,
    readers: Mapping[str, int],
    *,
    in_a16: bool,
) -> Group:
    """A group with what takes each format and the seconds that saves; `in_a16`: also with what the
    weight-only form saves.
    """
    options = [
        [linear for linear in linears if reasons[linear.fqn][i] is None]
        for i in range(len(formats))
    ]

    def gains(edge: EdgeMode | None) -> tuple[float, ...]:
        saved = [
            sum(_saved_s(x, fmt, latency, readers.get(x.fqn, 1), edge) for x in chosen)
            for fmt, chosen in zip(formats, options, strict=True)
        ]
        return (0.0, *saved)

    return Group(
        name=name,
        fqns=tuple(linear.fqn for linear in linears),
        members=((), *(tuple(linear.fqn for linear in chosen) for chosen in options)),
        gains_s=gains(None),
        edge_gains_s=gains(EdgeMode.A16) if in_a16 else (),
    )


def _saved_s(
    linear: LinearProfile,
    fmt: FormatName,
    latency: LatencyModel,
    readers: int,
    edge: EdgeMode | None,
) -> float:
    """Seconds of one pipeline run that the format saves here in every step, or what it computes in
    at edge steps; negative where that is slower.
    """
    bf16_us = latency.mean_us(linear, FormatName.BF16, readers)
    if edge is None:
        own_us = latency.mean_us(linear, fmt, readers)
    else:
        own_us = latency.edge_us(linear, fmt, edge, readers)
    return linear.calls * (bf16_us - own_us) / 1e6


def _choice(
    groups: Sequence[Group], quantized: AbstractSet[str], bound: AbstractSet[str]
) -> Choice:
    """The last format for each group of which any Linear is quantized.

    A group that consumers made of several (`bound`) has it if the list quantizes all of it: what
    they run as one stays bf16 if part of it does.
    """

    def is_quantized(group: Group) -> bool:
        own = set(group.members[-1])
        return bool(own) and own <= quantized if group.name in bound else bool(own & quantized)

    return tuple(len(group.members) - 1 if is_quantized(group) else 0 for group in groups)
