"""What is audited, and what is found? `AuditedModel`, a list on it (`Subject`), and `Finding`.

A model is profiled once without weights; a list is matched against it once. Every check is a
function of a `Subject` that gives findings and changes nothing.

Conventions. Gains are predicted seconds of one whole pipeline run on the target: positive where
quantized is faster. A **family** is Linears of one block that the study keeps together (q, k and
v): they change format together, so gains are judged by family; every other Linear is a family of
its own. **Fused** are those of a family that read one input; q of a cross attention reads another
one than k and v. FQNs begin with the component's name where there are several.
"""

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property
from typing import Any

import torch
from torch import nn

from sensitivity.consumers.lists import ConsumerList, Entry, ModelTree
from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import role_of
from sensitivity.errors import PatternError
from sensitivity.formats.registry import get_format
from sensitivity.latency import LinearCost
from sensitivity.latency.pricer import Pricer
from sensitivity.models.skeleton import build_skeleton
from sensitivity.shapes.families import fused_families
from sensitivity.shapes.run import ShapeRun, run_shapes
from sensitivity.shapes.table import LinearProfile
from sensitivity.spec.study_spec import StudySpec

Families = tuple[tuple[str, ...], ...]
MATCH_SECONDS = 10.0
"""What matching all entries may take: some thousand patterns, or any number of names."""


class Severity(StrEnum):
    """How bad a finding is: an error is surely not what the author wants, a warning is predicted or
    probable, a note is worth knowing.
    """

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


class Kind(StrEnum):
    """What is found."""

    FORM = "wrong-form"
    DEAD = "dead-entry"
    OVER = "over-matching"
    REDUNDANT = "redundant-entry"
    REFUSED = "refused-by-format"
    LOSS = "quantized-at-a-loss"
    SENSITIVE = "sensitive-quantized"
    FUSED = "fused-conflict"
    PATTERNS = "too-many-block-patterns"
    SKIPPED = "skipped-for-nothing"
    SMALL = "below-rule-of-thumb"
    VARIES = "depends-on-the-run"
    UNCALLED = "never-called"


@dataclass(frozen=True, kw_only=True, slots=True)
class RoleRow:
    """Linears of one role and shape: how many, their calls in a run, and the seconds that they gain
    together (negative: lose).
    """

    role: str
    linears: int
    m: int
    k: int
    n: int
    calls: int
    gain_s: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One fault, or one thing worth knowing.

    Attributes:
        kind, severity: what, and how bad.
        message: a sentence, with the next step where there is one.
        entry: the list's entry that it is about, "" where it is about none.
        line: where the entry stands.
        fqns: every Linear that it is about.
        rows: these by role and shape, where they are priced.
        cost_s: predicted seconds of a run that it costs, None where it has no price.
        closest: live names that a dead entry may mean.
    """

    kind: Kind
    severity: Severity
    message: str
    entry: str = ""
    line: int | None = None
    fqns: tuple[str, ...] = ()
    rows: tuple[RoleRow, ...] = ()
    cost_s: float | None = None
    closest: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Every FQN is in it; keys that say nothing are left out."""
        data: dict[str, Any] = {
            "kind": self.kind.value,
            "severity": self.severity.value,
            "message": self.message,
        }
        data |= {"entry": self.entry, "line": self.line} if self.entry else {}
        data |= {"closest": list(self.closest)} if self.closest else {}
        data |= {"cost_s": self.cost_s} if self.cost_s is not None else {}
        rows = [
            {
                "role": r.role,
                "linears": r.linears,
                "m": r.m,
                "k": r.k,
                "n": r.n,
                "calls": r.calls,
                "gain_s": r.gain_s,
            }
            for r in self.rows
        ]
        return (
            data
            | ({"roles": rows} if rows else {})
            | {"linears": len(self.fqns), "fqns": list(self.fqns)}
        )


@dataclass(frozen=True, kw_only=True)
class AuditedModel:
    """A model of which all but the weights is known.

    Attributes:
        spec: its study.
        run: a whole run without weights.
        tree: its Linears, with K and N at the priced scale.
        modules: {name: class} of modules that hold no Linear: norms, convolutions, embeddings.
        pricer: prices lists on this run.
    """

    spec: StudySpec
    run: ShapeRun
    tree: ModelTree
    modules: Mapping[str, str]
    pricer: Pricer

    @cached_property
    def linears(self) -> dict[str, LinearProfile]:
        """{FQN: row at the priced scale} of the Linears that were called."""
        return {linear.fqn: linear for linear in self.pricer.table.linears}

    @cached_property
    def families(self) -> Families:
        """Every Linear once, with those that servers run as one with it; Linears that were never
        called stand alone.
        """
        called = fused_families(self.linears.values(), self.spec.search.fused)
        return (
            *(tuple(x.fqn for x in family) for family in called),
            *((fqn,) for fqn in self.tree.fqns if fqn not in self.linears),
        )

    @property
    def fused(self) -> Families:
        """The families of several."""
        return tuple(family for family in self.families if len(family) > 1)

    @cached_property
    def _costs(self) -> dict[FormatName, dict[str, LinearCost]]:
        return {}

    def costs(self, name: FormatName) -> dict[str, LinearCost]:
        """{FQN: what it costs in a format}, of the Linears that were called.

        Raises FormatError where the target lacks the format.
        """
        if name not in self._costs:
            estimate = self.pricer.latency.estimate(
                self.pricer.table, dict.fromkeys(self.linears, name)
            )
            self._costs[name] = {cost.fqn: cost for cost in estimate.linears}
        return self._costs[name]

    def gain_s(self, fqn: str, name: FormatName) -> float:
        """Seconds of a run that a Linear saves in a format; 0 where it was never called."""
        cost = self.costs(name).get(fqn) if name is not FormatName.BF16 else None
        return 0.0 if cost is None else cost.calls * (cost.bf16_us - cost.quantized_us) / 1e6

    @cached_property
    def bf16_s(self) -> float:
        """Predicted seconds of the bf16 run."""
        return self.pricer.latency.estimate(self.pricer.table, {}).bf16_s

    def refusal(self, fqn: str, name: FormatName) -> str | None:
        """Why a format refuses a Linear of the model itself (not of the scale that it stands for);
        None if it takes it, or was never called.
        """
        row = self._own.get(fqn)
        return (
            None
            if row is None
            else get_format(name).refusal(k=row.k, n=row.n, dtype=getattr(torch, row.dtype))
        )

    @cached_property
    def _own(self) -> dict[str, LinearProfile]:
        return {linear.fqn: linear for linear in self.run.table.linears}

    def rows(self, fqns: Iterable[str], formats: Mapping[str, FormatName]) -> tuple[RoleRow, ...]:
        """These Linears by role and shape, with their gains in these formats, the largest loss or
        gain first.
        """
        groups: dict[tuple[str, int, int, int], list[str]] = {}
        for fqn in fqns:
            row = self.linears.get(fqn)
            groups.setdefault(
                (role_of(fqn), row.m, row.k, row.n) if row else (role_of(fqn), 0, 0, 0), []
            ).append(fqn)
        made = [
            RoleRow(
                role=role,
                linears=len(names),
                m=m,
                k=k,
                n=n,
                calls=sum(self.linears[name].calls for name in names if name in self.linears),
                gain_s=sum(self.gain_s(name, formats[name]) for name in names),
            )
            for (role, m, k, n), names in groups.items()
        ]
        return tuple(sorted(made, key=lambda row: -abs(row.gain_s)))


def audited_model(spec: StudySpec, *, target: str | None = None) -> AuditedModel:
    """Profile a study's model without weights.

    Raises:
        UserError: and its kinds, for a model that cannot be profiled, settings that it does not
            take, or an unknown target.
    """
    run = run_shapes(spec)
    pricer = Pricer.of(spec, run, target=target)
    parts = {
        name: part for name, part in build_skeleton(spec).components.items() if name in run.classes
    }
    several = len(parts) > 1
    shapes, modules, biased = dict[str, tuple[int, int]](), dict[str, str](), set[str]()
    for component, part in parts.items():
        for inner, module in part.named_modules():
            fqn = f"{component}.{inner}" if several and inner else inner
            if isinstance(module, nn.Linear):
                shapes[fqn] = (
                    module.in_features * spec.pricing.stands_for,
                    module.out_features * spec.pricing.stands_for,
                )
                biased |= {fqn} if module.bias is not None else set()
            elif inner and not any(isinstance(child, nn.Linear) for child in module.modules()):
                modules[fqn] = type(module).__name__
    fqns = tuple(linear.fqn for linear in run.table.linears) + run.table.uncalled
    tree = ModelTree(
        fqns=fqns,
        classes=dict(run.classes),
        several=several,
        shapes={fqn: shapes[fqn] for fqn in fqns if fqn in shapes},
        biased=frozenset(biased),
    )
    return AuditedModel(spec=spec, run=run, tree=tree, modules=modules, pricer=pricer)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A list on a model. `of` makes it.

    Attributes:
        model: the model.
        listed: the list as its consumer understands it.
        format: what Linears become that the list quantizes without saying to what, and what skipped
            ones are judged by; the list's most frequent where it says.
        hits: what each entry hits, in the order of the entries.
        formats: {FQN: format} as the consumer decides.
    """

    model: AuditedModel
    listed: ConsumerList
    format: FormatName
    hits: tuple[frozenset[str], ...]
    formats: Mapping[str, FormatName] = field(default_factory=dict)

    @classmethod
    def of(cls, model: AuditedModel, listed: ConsumerList, format: FormatName) -> "Subject":
        """Match a list.

        Raises PatternError, with the line, where its consumer cannot read an entry or fails on the
        list, or where matching takes too long.
        """
        hits, ends = list[frozenset[str]](), time.monotonic() + MATCH_SECONDS
        for entry in listed.entries:
            if time.monotonic() > ends:
                raise PatternError(
                    f"found {len(listed.entries)} entries, of which {len(hits)} took"
                    f" {MATCH_SECONDS:g} s to match; allowed are lists that take no longer: write"
                    " names, or fewer patterns"
                )
            try:
                hits.append(listed.hits(entry, model.tree))
            except PatternError as error:
                raise PatternError(f"{place(entry)}{error}") from None
        formats = assigned(listed, model.tree, format)
        used = Counter(name for name in formats.values() if name is not FormatName.BF16)
        judged_by = format if format in used or not used else used.most_common(1)[0][0]
        return cls(model=model, listed=listed, format=judged_by, hits=tuple(hits), formats=formats)

    @property
    def quantized(self) -> tuple[str, ...]:
        """The Linears that the list quantizes, in the model's order."""
        return tuple(fqn for fqn, name in self.formats.items() if name is not FormatName.BF16)

    def gain_s(self, fqns: Iterable[str]) -> float:
        """Seconds of a run that these Linears save, or would save: in their own formats, in
        `format` where they stay bf16.
        """
        return sum(self.model.gain_s(fqn, self.judged[fqn]) for fqn in fqns)

    def gain_with(self, formats: Mapping[str, FormatName], fqns: Iterable[str]) -> float:
        """Seconds of a run that these Linears save with other formats; those in bf16 save nothing."""
        return sum(
            self.model.gain_s(fqn, formats[fqn])
            for fqn in fqns
            if formats[fqn] is not FormatName.BF16
        )

    @cached_property
    def judged(self) -> dict[str, FormatName]:
        """{FQN: the format that its gain is that of}."""
        return {
            fqn: self.format if name is FormatName.BF16 else name
            for fqn, name in self.formats.items()
        }

    @cached_property
    def seen(self) -> dict[str, list[str]]:
        """{FQN: the names that it goes by for this consumer}."""
        names: dict[str, list[str]] = {}
        for name, fqns in self.listed.names(self.model.tree).items():
            for fqn in fqns:
                names.setdefault(fqn, []).append(name)
        return names


def assigned(listed: ConsumerList, tree: ModelTree, format: FormatName) -> dict[str, FormatName]:
    """{FQN: format} as the consumer decides; a least width counts whatever the list is, a function
    too.
    """
    narrow = {fqn for fqn, (k, n) in tree.shapes.items() if min(k, n) < listed.min_width}
    return {
        fqn: FormatName.BF16 if fqn in narrow else name
        for fqn, name in listed.assign(tree, quantized=format).items()
    }


def place(entry: Entry) -> str:
    """Where an entry stands, in front of a message."""
    return "" if entry.line is None else f"line {entry.line}: "


def some(names: Iterable[str], most: int = 3) -> str:
    """The first names, and how many more."""
    distinct = list(dict.fromkeys(names))
    return ", ".join(distinct[:most]) + (
        f" and {len(distinct) - most} more" if len(distinct) > most else ""
    )


def some_roles(roles: Iterable[str], most: int = 3) -> str:
    """The first roles, what they begin with said once: `blocks.attn1.{to_q, to_k} and 2 more`."""
    distinct = list(dict.fromkeys(roles))
    shown, more = (
        distinct[:most],
        (f" and {len(distinct) - most} more" if len(distinct) > most else ""),
    )
    parts = [role.split(".")[:-1] for role in shown]
    common = 0
    while len(shown) > 1 and all(
        len(own) > common and own[common] == parts[0][common] for own in parts
    ):
        common += 1
    if not common:
        return ", ".join(shown) + more
    return f"{'.'.join(parts[0][:common])}.{{{', '.join('.'.join(role.split('.')[common:]) for role in shown)}}}{more}"


def counted(number: int, noun: str) -> str:
    """A number with its noun: 1 Linear, 2 Linears."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def milliseconds(seconds: float) -> str:
    """Seconds as milliseconds, with as many digits as matter."""
    return f"{seconds * 1e3:.3g} ms" if abs(seconds) < 0.1 else f"{seconds * 1e3:.0f} ms"
