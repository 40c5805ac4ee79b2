"""What does a list cost? `Pricer`: formats of a run's Linears in, seconds and bytes out."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

from sensitivity.core.format_name import CompileMode, FormatName
from sensitivity.formats.registry import get_format
from sensitivity.latency._base import LatencyEstimate, LatencyModel, ShapeScale, stand_for
from sensitivity.latency.devices import get_device
from sensitivity.latency.memory import estimate_memory
from sensitivity.latency.predicted import PredictedLatency
from sensitivity.shapes.run import ShapeRun
from sensitivity.shapes.table import ShapeTable
from sensitivity.spec.study_spec import StudySpec


@dataclass(frozen=True, kw_only=True, slots=True)
class PricedList:
    """One skip-list or recipe: its price, the formats it gives, its patterns that match nothing,
    the Linears that the format refuses, the recipe's notice.
    """

    name: str
    formats: Mapping[str, FormatName]
    estimate: LatencyEstimate
    dead: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    notice: str = ""

    @property
    def quantized(self) -> int:
        """Linears of the run that are quantized."""
        return sum(cost.format is not FormatName.BF16 for cost in self.estimate.linears)


@dataclass(frozen=True, kw_only=True, slots=True)
class Pricer:
    """Prices lists on one run.

    `table` is the run's at the scale that is priced, `bf16_seconds` the measured bf16 run where
    there is one.
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
        compile_mode: CompileMode = "reduce-overhead",
    ) -> "Pricer":
        """By the predicted model, for the study's target or another.

        Raises UserError for an unknown one.
        """
        return cls(
            run=run,
            table=_scaled(spec, run),
            latency=latency_model(spec, target, compile_mode=compile_mode),
        )

    def price(
        self,
        name: str,
        formats: Mapping[str, FormatName],
        *,
        dead: tuple[str, ...] = (),
        refused: tuple[str, ...] = (),
    ) -> PricedList:
        """One list's price, memory included.

        Raises PatternError for FQNs that the run does not have, FormatError for a format that the
        target lacks.
        """
        estimate = self.latency.estimate(self.table, formats, bf16_seconds=self.bf16_seconds)
        memory = estimate_memory(
            self.table, formats, lambda name, k, n: get_format(name).weight_bytes(k=k, n=n)
        )
        return PricedList(
            name=name,
            formats=formats,
            estimate=dataclasses.replace(estimate, memory=memory),
            dead=dead,
            refused=refused,
        )


def _scaled(spec: StudySpec, run: ShapeRun) -> ShapeTable:
    """The run's table at the scale that it is priced at."""
    return (
        stand_for(run.table, ShapeScale(factor=spec.pricing.stands_for))
        if spec.pricing.stands_for > 1
        else run.table
    )


def latency_model(
    spec: StudySpec, target: str | None, *, compile_mode: CompileMode = "reduce-overhead"
) -> LatencyModel:
    """The model that prices a study's Linears on a GPU.

    Raises UserError, with the closest names, for an unknown one.
    """
    return PredictedLatency(
        get_device(spec.pricing.target if target is None else target), compile_mode=compile_mode
    )
