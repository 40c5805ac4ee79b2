"""What does an audit know of a model? `AuditedModel`: its Linears and their prices.

    model = audited_model(resolve_spec("flux1-dev"))
    model.gain_s("proj_out", FormatName.NVFP4)

The model is profiled once, by a run without weights; no weight is read.

Conventions. Gains are seconds of one whole pipeline run on the target, predicted or from measured
shapes, positive where quantized is faster. A **family** is Linears of one block that the study
keeps together, as q, k and v. They change format together, so gains are judged by family; every
other Linear is a family of its own. **Fused** are the Linears of a family that read one input: q of
a cross attention reads another input than k and v. FQNs begin with the component's name where there
are several.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from sensitivity.consumers.lists import ModelTree
from sensitivity.consumers.other_formats import ListedFormat
from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import role_of
from sensitivity.formats.registry import get_format
from sensitivity.latency import LinearCost
from sensitivity.latency.pricer import MakeLatency, Pricer
from sensitivity.latency.refusals import REFUSED
from sensitivity.latency.runtimes import Runtime
from sensitivity.shapes.families import fused_families
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.shapes.table import LinearProfile
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.audit.findings import RoleRow

Families = tuple[tuple[str, ...], ...]


@dataclass(frozen=True, kw_only=True)
class AuditedModel:
    """A model, profiled without weights.

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
        """Every Linear once, in its family. Linears that were never called stand alone."""
        called = fused_families(self.linears.values(), self.spec.search.fused)
        return (
            *(tuple(x.fqn for x in family) for family in called),
            *((fqn,) for fqn in self.tree.fqns if fqn not in self.linears),
        )

    @property
    def fused(self) -> Families:
        """The families of more than one Linear."""
        return tuple(family for family in self.families if len(family) > 1)

    @cached_property
    def _costs(self) -> dict[FormatName, dict[str, LinearCost]]:
        return {}

    def costs(self, name: FormatName) -> dict[str, LinearCost]:
        """{FQN: its price in a format} of the Linears that were called.

        One that the target's kernel refuses has no price in the format, and gets that of bf16.

        Raises:
            FormatError: the target lacks the format.
        """
        if name not in self._costs:
            formats = dict.fromkeys(self.linears, name)
            formats |= dict.fromkeys(self.pricer.refused(formats), FormatName.BF16)
            estimate = self.pricer.latency.estimate(self.pricer.table, formats)
            self._costs[name] = {cost.fqn: cost for cost in estimate.linears}
        return self._costs[name]

    def gain_s(self, fqn: str, name: ListedFormat) -> float:
        """Seconds of a run that a Linear saves in a format; 0 if it was never called, or the format
        is none of this tool's.
        """
        is_priced = isinstance(name, FormatName) and name.is_quantized
        cost = self.costs(FormatName(name)).get(fqn) if is_priced else None
        return 0.0 if cost is None else cost.calls * (cost.bf16_us - cost.quantized_us) / 1e6

    @cached_property
    def bf16_s(self) -> float:
        """Priced seconds of the bf16 run."""
        return self.pricer.latency.estimate(self.pricer.table, {}).bf16_s

    def refusal(self, fqn: str, name: ListedFormat) -> str | None:
        """Why a format refuses a Linear, or the target's kernel does; None if it takes it, or the
        Linear was never called, or the format is none of this tool's.

        A format is asked about the shape and dtype of the model itself, a kernel about the shape
        at the scale that it stands for.
        """
        row = self._own.get(fqn)
        if row is None or not isinstance(name, FormatName):
            return None
        return self._refused_by_format(row, name) or self.pricer.latency.refuses(
            self.linears[fqn], name
        )

    def unmeasured(self, fqn: str, name: ListedFormat) -> str | None:
        """Why a Linear has no measured time in a format, though nothing is known to refuse it: the
        GPU ran out of memory, or timing it failed. None if it has one, or something refuses it.
        """
        why = self.refusal(fqn, name)
        if why is None or why.startswith(REFUSED) or not isinstance(name, FormatName):
            return None
        return None if self._refused_by_format(self._own[fqn], name) else why

    @staticmethod
    def _refused_by_format(row: LinearProfile, name: FormatName) -> str | None:
        return get_format(name).refusal(k=row.k, n=row.n, dtype=getattr(torch, row.dtype))

    @cached_property
    def _own(self) -> dict[str, LinearProfile]:
        return {linear.fqn: linear for linear in self.run.table.linears}

    def rows(self, fqns: Iterable[str], formats: Mapping[str, ListedFormat]) -> tuple[RoleRow, ...]:
        """These Linears by role and shape, with their gains in these formats; largest gain or loss
        first.
        """
        groups: dict[tuple[str, int, int, int], list[str]] = {}
        for fqn in fqns:
            row = self.linears.get(fqn)
            shape = (row.m, row.k, row.n) if row else (0, 0, 0)
            groups.setdefault((role_of(fqn), *shape), []).append(fqn)
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


def audited_model(
    spec: StudySpec,
    *,
    target: str | None = None,
    runtime: Runtime | None = None,
    latency: MakeLatency | None = None,
    formats: Iterable[FormatName] = (),
) -> AuditedModel:
    """Profile a study's model without weights.

    Args:
        spec: the study.
        target: the GPU that is priced; None is the study's.
        runtime: how the run is run; None is the default.
        latency: makes the model that prices; by default the predicted one prices.
        formats: the quantized formats that `latency` is made for.

    Raises:
        UserError: and its kinds, for a model that cannot be profiled, settings that it does not
            take, or an unknown target.
    """
    from sensitivity.models.skeleton import build_skeleton
    from sensitivity.shapes.run import run_shapes

    run = run_shapes(spec)
    components = build_skeleton(spec).components
    found = _Modules(components, run.classes)
    scale = spec.pricing.stands_for
    fqns = tuple(linear.fqn for linear in run.table.linears) + run.table.uncalled
    tree = ModelTree(
        fqns=fqns,
        classes=dict(run.classes),
        several=found.several,
        others=tuple(name for name in components if name not in run.classes),
        shapes={
            fqn: (found.linears[fqn].in_features * scale, found.linears[fqn].out_features * scale)
            for fqn in fqns
            if fqn in found.linears
        },
        biased=frozenset(fqn for fqn, part in found.linears.items() if part.bias is not None),
    )
    pricer = Pricer.of(spec, run, target=target, runtime=runtime, latency=latency, formats=formats)
    return AuditedModel(spec=spec, run=run, tree=tree, modules=found.without_linears, pricer=pricer)


class _Modules:
    """The modules of a skeleton's denoisers, by FQN."""

    def __init__(self, components: Mapping[str, Any], denoisers: Mapping[str, str]) -> None:
        parts = {name: part for name, part in components.items() if name in denoisers}
        self.several = len(parts) > 1
        self.linears: dict[str, nn.Linear] = {}
        self.without_linears: dict[str, str] = {}
        for component, part in parts.items():
            for inner, module in part.named_modules():
                fqn = f"{component}.{inner}" if self.several and inner else inner
                if isinstance(module, nn.Linear):
                    self.linears[fqn] = module
                elif inner and not any(isinstance(child, nn.Linear) for child in module.modules()):
                    self.without_linears[fqn] = type(module).__name__
                for name, _ in module.named_parameters(recurse=False):
                    if name not in ("weight", "bias"):
                        self.without_linears[f"{fqn}.{name}".strip(".")] = "Parameter"
