"""What does a skip-list cost? `Pricer`: formats of a run's Linears in, seconds and bytes out.

    pricer = Pricer.of(spec, run_shapes(spec))
    pricer.price("mine", {"blocks.0.attn.to_q": FormatName.NVFP4}).estimate.speedup

Prices are those of the scale that the study stands for (`at_priced_scale`).
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from sensitivity.core.assignment import Assignment
from sensitivity.core.format_name import FormatName
from sensitivity.core.short_reprs import ShortRepr
from sensitivity.formats.registry import get_format
from sensitivity.latency._base import LatencyModel
from sensitivity.latency.devices import get_device
from sensitivity.latency.estimate import LatencyEstimate
from sensitivity.latency.memory import estimate_memory
from sensitivity.latency.runtimes import Runtime
from sensitivity.latency.scale import ShapeScale, stand_for
from sensitivity.latency.targets.target_latency import predicted_latency
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.study_spec import StudySpec

MakeLatency = Callable[[ShapeRun, ShapeTable, tuple[FormatName, ...], LatencyModel], LatencyModel]
"""(run, its table as priced, formats, the predicted model) -> the model that prices."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class PricedList(ShortRepr):
    """The price of one skip-list or recipe.

    Attributes:
        name: What it is called in tables.
        formats: FQN -> format; Linears left out are bf16.
        estimate: Its price, memory included.
        dead: Patterns of the list that match no Linear.
        refused: {FQN: reason} of Linears that the list does not skip and that stay bf16: the format
            does not take them, or the target's kernel refuses their shape.
        notice: What a recipe has to say of itself; "" if nothing.
    """

    name: str
    formats: Mapping[str, FormatName]
    estimate: LatencyEstimate
    dead: tuple[str, ...] = ()
    refused: Mapping[str, str] = field(default_factory=dict)
    notice: str = ""

    @property
    def quantized(self) -> int:
        """How many Linears of the run are quantized."""
        return sum(cost.format.is_quantized for cost in self.estimate.linears)


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Pricer(ShortRepr):
    """Prices lists on one run.

    Attributes:
        run: The run.
        table: Its shapes at the scale that is priced.
        latency: The model that prices them.
        bf16_seconds: Measured seconds of the whole bf16 run, as an anchor; None without one.
    """

    run: ShapeRun
    table: ShapeTable
    latency: LatencyModel
    bf16_seconds: float | None = None

    @classmethod
    def of(
        cls,
        spec: StudySpec,
        run: ShapeRun,
        *,
        target: str | None = None,
        runtime: Runtime | None = None,
        latency: MakeLatency | None = None,
        formats: Iterable[FormatName] = (),
    ) -> "Pricer":
        """A pricer for `target` or the study's own.

        Args:
            spec: The study.
            run: The run.
            target: The GPU; None is the study's.
            runtime: How the run is run; None is the default.
            latency: Makes the model that prices; by default the predicted one prices.
            formats: What `latency` is made for.

        Raises:
            UserError: No such target.
        """
        table = at_priced_scale(run.table, spec)
        predicted = latency_model(spec, target, runtime=runtime)
        made = predicted if latency is None else latency(run, table, tuple(formats), predicted)
        return cls(run=run, table=table, latency=made)

    def price(
        self,
        name: str,
        formats: Mapping[str, FormatName],
        *,
        dead: tuple[str, ...] = (),
        refused: Mapping[str, str] = MappingProxyType({}),
    ) -> PricedList:
        """One list's price, memory included; `PricedList` has the arguments. An `Assignment` is
        priced with its step policy.

        Linears that the target's kernels refuse are priced in bf16, and are among its `refused`.

        Raises:
            PatternError: `formats` names FQNs that the run does not have.
            FormatError: The target lacks a format.
            UserError: There is a step policy, and the run does not say how many steps it has.
        """
        by_kernel = self.refused(formats)
        policy = Assignment.of(formats).policy
        formats = Assignment({**formats, **dict.fromkeys(by_kernel, FormatName.BF16)}, policy)
        estimate = self.latency.estimate(self.table, formats, bf16_seconds=self.bf16_seconds)
        memory = estimate_memory(
            self.table, formats, lambda name, k, n: get_format(name).weight_bytes(k=k, n=n)
        )
        return PricedList(
            name=name,
            formats=formats,
            estimate=dataclasses.replace(estimate, memory=memory),
            dead=dead,
            refused={**refused, **by_kernel},
        )

    def refused(self, formats: Mapping[str, FormatName]) -> dict[str, str]:
        """{FQN: reason} of the Linears whose shape the target's kernels refuse in their format."""
        return {
            linear.fqn: reason
            for linear in self.table.linears
            if (name := formats.get(linear.fqn, FormatName.BF16)).is_quantized
            and (reason := self.latency.refuses(linear, name))
        }


def at_priced_scale(table: ShapeTable, spec: StudySpec) -> ShapeTable:
    """A table at the scale that is priced: scaled if the study stands for a larger model."""
    factor = spec.pricing.stands_for
    return stand_for(table, ShapeScale(factor=factor)) if factor > 1 else table


def latency_model(
    spec: StudySpec, target: str | None, *, runtime: Runtime | None = None
) -> LatencyModel:
    """The predicted model for `target`; None is the study's own target.

    Raises:
        UserError: No such target; the message names the closest one.
    """
    return predicted_latency(
        get_device(spec.pricing.target if target is None else target), runtime=runtime
    )
