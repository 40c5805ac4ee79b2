"""What does a run of the model consist of, and what would each Linear save? Layers, groups, shapes.

`ModelSide.of` runs the model without weights and prices it as the search did. Where that is not
possible, a report shows what the recipe alone says (`layers_of_recipe`).

    side = ModelSide.of(spec, way)
    side.layers(formats, damage)               # one record a Linear
    side.time(formats)                         # where the milliseconds of a run go

Nothing is loaded, measured or drawn here.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from sensitivity.consumers.named_consumers import limits_of
from sensitivity.core.format_name import FormatName, Granularity
from sensitivity.core.fqns import block_of, role_of
from sensitivity.latency import LatencyEstimate, LatencyModel
from sensitivity.latency.estimate import LinearCost
from sensitivity.latency.pricer import Pricer, at_priced_scale, latency_model
from sensitivity.latency.runtimes import choose_runtime
from sensitivity.recipes.recipe import Recipe
from sensitivity.search.candidates import Candidates
from sensitivity.search.grouping import make_candidates
from sensitivity.search.kept_prices import KeptPrices
from sensitivity.search.step_policies import EdgeSteps, policies_for
from sensitivity.shapes.run import run_shapes
from sensitivity.shapes.shape_run import ShapeRun
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.study_spec import StudySpec
from sensitivity.workflows.report.records import Group, Layer, Shape, Time
from sensitivity.workflows.shape_table import kept_latency

Formats = Mapping[str, FormatName]


@dataclass(frozen=True, kw_only=True, slots=True)
class Way:
    """How the search priced and grouped.

    Attributes:
        formats: that were searched.
        target: the GPU that is priced.
        runtime: the way of running; None is the default.
        granularity: what changes format together.
        prices: measured times that the study keeps; None where they were predicted.
        unfit: {FQN: reason} of Linears whose weights no format can hold.
        consumers: the tools that can express every choice.
        steps: which step policies were searched; None: the plain one alone.
    """

    formats: tuple[FormatName, ...]
    target: str
    runtime: str | None = None
    granularity: Granularity = "group"
    prices: KeptPrices | None = None
    unfit: Mapping[str, str] = field(default_factory=dict)
    consumers: tuple[str, ...] = ()
    steps: EdgeSteps | None = None


@dataclass(frozen=True, kw_only=True)
class ModelSide:
    """A model's shapes and prices, as the search had them.

    Attributes:
        run: the run without weights.
        table: its shapes at the scale that is priced.
        latency: what prices them.
        candidates: what the search could choose.
    """

    run: ShapeRun
    table: ShapeTable
    latency: LatencyModel
    candidates: Candidates

    @classmethod
    def of(cls, spec: StudySpec, way: Way) -> "ModelSide":
        """Run without weights, price and group.

        Raises:
            UserError: and its kinds, for a model that does not run without weights or an unknown
                target.
            MeasurementError: the model cannot be profiled.
        """
        run = run_shapes(spec)
        table = at_priced_scale(run.table, spec)
        predicted = latency_model(spec, way.target, runtime=choose_runtime(way.runtime))
        latency: LatencyModel = predicted
        if way.prices is not None:
            latency = kept_latency(way.prices, predicted=predicted)
        policies, steps = policies_for(way.steps, table, way.consumers, way.formats, run.classes)
        candidates = make_candidates(
            table,
            spec,
            formats=way.formats,
            latency=latency,
            granularity=way.granularity,
            unfit=way.unfit,
            limits=limits_of(way.consumers, way.formats, fqns=run.table.fqns, classes=run.classes),
            policies=policies,
            steps=steps,
        )
        candidates = replace(candidates, prices=way.prices)
        return cls(run=run, table=table, latency=latency, candidates=candidates)

    @property
    def pricer(self) -> Pricer:
        """The same as a `Pricer`."""
        return Pricer(run=self.run, table=self.table, latency=self.latency)

    @cached_property
    def full(self) -> tuple[LatencyEstimate, ...]:
        """For each searched format the price of everything that takes it."""
        found = self.candidates
        return tuple(
            self.latency.estimate(self.table, found.decode(found.all_quantized(option)))
            for option in range(1, len(found.formats))
        )

    @cached_property
    def _best(self) -> dict[str, LinearCost]:
        """{FQN: its cost in the searched format that saves most}, for those that take any."""
        best: dict[str, LinearCost] = {}
        for estimate in self.full:
            for cost in estimate.linears:
                known = best.get(cost.fqn)
                if cost.format.is_quantized and (
                    known is None or cost.quantized_us < known.quantized_us
                ):
                    best[cost.fqn] = cost
        return best

    def layers(self, formats: Formats, damage: Mapping[str, float]) -> tuple[Layer, ...]:
        """Every Linear, in the model's order.

        Args:
            formats: {FQN: format} of the recipe; Linears left out are bf16.
            damage: {FQN: its part of the calibrated damage}.
        """
        known = {linear.fqn: linear for linear in self.table.linears}
        found = []
        for fqn in self.candidates.fqns:
            own = known.get(fqn)
            state, why = _state(self.candidates, fqn)
            found.append(
                Layer(
                    fqn=fqn,
                    block=block_of(fqn),
                    role=role_of(fqn),
                    m=0 if own is None else own.m,
                    k=0 if own is None else own.k,
                    n=0 if own is None else own.n,
                    calls=0 if own is None else own.calls,
                    format=formats.get(fqn, FormatName.BF16).value,
                    state=state,
                    why=why,
                    damage=damage.get(fqn),
                    saved_ms=_saved_ms(self._best.get(fqn)),
                )
            )
        return tuple(found)

    def groups(self) -> tuple[Group, ...]:
        """What changes format together."""
        places = {fqn: place for place, fqn in enumerate(self.candidates.fqns)}
        return tuple(
            Group(
                name=group.name,
                members=tuple(tuple(places[fqn] for fqn in own) for own in group.members),
                gains_ms=tuple(round(gain * 1e3, 6) for gain in group.gains_s),
            )
            for group in self.candidates.groups
        )

    def time(self, formats: Formats) -> Time:
        """Where the milliseconds of a run in these formats go."""
        estimate = self.latency.estimate(self.table, formats)
        by_shape: dict[tuple[int, int, int], list[LinearCost]] = {}
        for cost in estimate.linears:
            by_shape.setdefault((cost.m, cost.k, cost.n), []).append(cost)
        shapes = [self._shape(place, costs) for place, costs in by_shape.items()]
        linears_ms = sum(shape.recipe_ms for shape in shapes)
        return Time(
            shapes=tuple(sorted(shapes, key=lambda shape: (-shape.bf16_ms, shape.m, shape.k))),
            other_ms=max(estimate.quantized_s * 1e3 - linears_ms, 0.0),
            host="" if estimate.host is None else str(estimate.host),
            note=estimate.note,
        )

    def _shape(self, place: tuple[int, int, int], costs: Sequence[LinearCost]) -> Shape:
        m, k, n = place
        counts = Counter(cost.format.value for cost in costs)
        best = [self._best.get(cost.fqn) for cost in costs]
        why = next((own.why for own in best if own is not None and own.why), "")
        bf16_ms = sum(cost.calls * cost.bf16_us for cost in costs) / 1e3
        best_ms = None
        if any(best):
            best_ms = sum(
                cost.calls * (cost.bf16_us if own is None else own.quantized_us) / 1e3
                for cost, own in zip(costs, best, strict=True)
            )
        return Shape(
            m=m,
            k=k,
            n=n,
            linears=len(costs),
            calls=sum(cost.calls for cost in costs),
            bf16_ms=bf16_ms,
            recipe_ms=sum(cost.calls * cost.quantized_us for cost in costs) / 1e3,
            best_ms=best_ms,
            formats=", ".join(f"{count} {name}" for name, count in sorted(counts.items())),
            why=why,
            launch_bound="launches" in why and best_ms is not None and best_ms > bf16_ms,
        )


def layers_of_recipe(recipe: Recipe) -> tuple[Layer, ...]:
    """Every Linear as far as the recipe alone knows it: name, format, why it was refused."""
    return tuple(
        Layer(
            fqn=fqn,
            block=block_of(fqn),
            role=role_of(fqn),
            format=name.value,
            state="refused" if fqn in recipe.refused else "free",
            why=recipe.refused.get(fqn, ""),
        )
        for fqn, name in recipe.layers.items()
    )


def _saved_ms(cost: LinearCost | None) -> float | None:
    return None if cost is None else cost.calls * (cost.bf16_us - cost.quantized_us) / 1e3


def _state(candidates: Candidates, fqn: str) -> tuple[str, str]:
    """The state of a Linear, and why it is not free."""
    why = candidates.fixed.get(fqn, "")
    if not why:
        return "free", ""
    if why.startswith("never called"):
        return "never called", why
    return "refused" if candidates.refused.get(fqn) == why else "fixed", why
