"""What are the parts of a recipe? Model, latency, memory, search, choice and front.

`recipes.recipe.Recipe` is made of these records and of those in `fidelity_records`, and its module
has the conventions. All are frozen. Fields that a record does not know survive a round trip, and
fields that came with a later version have defaults, so that older recipes are read.

    recipe.latency.speedup, recipe.choice.rule        # 1.47, "knee"
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from sensitivity.core.format_name import Source
from sensitivity.recipes._base import Count, Real, Record, check_order, check_ratio
from sensitivity.recipes.step_policy_record import StepPolicyRecord

IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_]*$"

Identifier = Annotated[str, Field(pattern=IDENTIFIER, max_length=256)]


class ModelInfo(Record):
    """The weights that the recipe is for.

    `component` is the denoiser's attribute of the pipeline, and `component_class` the name of its
    class. A recipe for several denoisers has all of them in `components`, {component: class},
    `component` first; the names of its layers begin with the component's.
    """

    id: Annotated[str, Field(min_length=1)]
    revision: str | None
    pipeline_class: Identifier
    component: Identifier
    component_class: Identifier
    components: Annotated[
        Mapping[Identifier, Identifier],
        Field(max_length=16, json_schema_extra={"additionalProperties": False}),
    ] = Field(default_factory=dict)
    weights: Literal["pretrained", "random", "trained-tiny"]

    @model_validator(mode="after")
    def _check_components(self) -> Self:
        main = (self.component, self.component_class)
        if next(iter(self.components.items()), main) != main or len(self.components) == 1:
            found = ", ".join(f"{name} ({kind})" for name, kind in self.components.items())
            raise ValueError(
                f"found the components {found}; expected two or more, {self.component}"
                f" ({self.component_class}) first, or none: export the recipe again"
            )
        return self

    @property
    def classes(self) -> dict[str, str]:
        """{component: class} of all denoisers that the recipe is for, one or several."""
        return dict(self.components) or {self.component: self.component_class}


class ShapeSum(Record):
    """Seconds of a run as the sum of its shapes, each priced by itself.

    It stands beside a time that was measured end to end, and covers the same part of a run
    (`Latency.shapes`) or the whole of it (`Latency.whole_run`). `source` says where the shapes'
    times come from.
    """

    bf16_s: Annotated[Real, Field(gt=0)]
    quantized_s: Annotated[Real, Field(gt=0)]
    speedup: Annotated[Real, Field(gt=0)]
    source: Source

    @model_validator(mode="after")
    def _check_speedup(self) -> Self:
        check_ratio(self.speedup, self.bf16_s, self.quantized_s)
        return self


class Latency(Record):
    """Seconds of one pipeline call; `speedup` is bf16 over quantized.

    They are those of a model that is `stands_for` times larger in each dimension (1: of this one).
    `runtime` is how the model was run, and `covers` what the seconds cover ("": an older file does
    not say); `note` says what else to know of them. `speedup_interval90` is a 90 % interval of the
    speedup (null: not known). Times that were measured end to end have the sum of shapes beside
    them, in `shapes`. Where they are those of the denoisers' calls alone, `whole_run` has the sum
    of shapes of the whole run, which is what the search ranks by (null: they cover as much).
    """

    bf16_s: Annotated[Real, Field(gt=0)]
    quantized_s: Annotated[Real, Field(gt=0)]
    speedup: Annotated[Real, Field(gt=0)]
    source: Source
    target: str
    batch_size: Annotated[int, Field(strict=True, ge=1)]
    compile_mode: str | None
    stands_for: Annotated[int, Field(strict=True, ge=1)] = 1
    runtime: str = ""
    covers: str = ""
    speedup_interval90: tuple[Real, Real] | None = None
    shapes: ShapeSum | None = None
    whole_run: ShapeSum | None = None
    note: str = ""

    @model_validator(mode="after")
    def _check_speedup(self) -> Self:
        check_ratio(self.speedup, self.bf16_s, self.quantized_s)
        check_order("speedup_interval90", self.speedup_interval90)
        return self

    @property
    def origin(self) -> str:
        """Where the seconds come from: "predicted", "measured" (shape by shape), or "measured end
        to end".
        """
        return self.source if self.shapes is None else f"{self.source} end to end"

    @property
    def ranked_s(self) -> float:
        """Seconds by which the search ranked the recipe among its front: the sum of shapes."""
        ranked = self.whole_run or self.shapes
        return self.quantized_s if ranked is None else ranked.quantized_s


class Timing(Record):
    """One skip-list that was run as a whole, with every repetition.

    Skip-lists were run in turns: entry i of `seconds` and of `bf16_seconds` is of the same round.
    `speedup` is the geometric mean over rounds of bf16 over the list, with its 90 % interval.
    `covers` says what was run. `seconds` is empty where the list did not run, and `failure` says
    why.
    """

    name: str
    seconds: tuple[Annotated[Real, Field(gt=0)], ...]
    source: Source
    covers: str
    bf16_seconds: tuple[Annotated[Real, Field(gt=0)], ...] = ()
    speedup: Annotated[Real, Field(gt=0)] | None = None
    speedup_interval90: tuple[Real, Real] | None = None
    failure: str | None = None

    @model_validator(mode="after")
    def _check_rounds(self) -> Self:
        check_order("speedup_interval90", self.speedup_interval90)
        rounds = (len(self.seconds), len(self.bf16_seconds))
        if self.bf16_seconds and rounds[0] != rounds[1]:
            raise ValueError(
                f"found {rounds} seconds, bf16_seconds; expected one of each for a round: leave"
                " bf16_seconds out, or write those of the same rounds"
            )
        return self


class Memory(Record):
    """Bytes of the denoisers' weights, scales included.

    `quantized_bytes` counts all that is held while the recipe runs. `beside_bytes` of them are bf16
    weights that a step policy keeps beside the quantized ones; 0 without such a policy.

    `peak_bytes` is the peak of GPU memory in a whole run of the recipe, and `bf16_peak_bytes` that
    of bf16 (null: not known). `peak_source` says where both come from. A predicted peak is that of
    the priced scale, and lacks what CUDA itself takes: some GB of a large model.
    """

    later_fields: ClassVar[frozenset[str]] = frozenset(
        {"beside_bytes", "peak_bytes", "bf16_peak_bytes", "peak_source"}
    )

    bf16_bytes: Count
    quantized_bytes: Count
    source: Source
    beside_bytes: Count = 0
    peak_bytes: Count | None = None
    bf16_peak_bytes: Count | None = None
    peak_source: Source | None = None

    @model_validator(mode="after")
    def _check_beside(self) -> Self:
        if self.beside_bytes > self.quantized_bytes:
            raise ValueError(
                f"found beside_bytes {self.beside_bytes} of quantized_bytes"
                f" {self.quantized_bytes}; expected a part of them: count all bytes that are held"
            )
        return self


class Made(Record):
    """When the recipe was made, and by which command line.

    `date` is a day in UTC, as YYYY-MM-DD. `command` is null where no command line made it. It has
    the options that decide what is found, and none that name files of the machine.
    """

    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    command: Annotated[str, Field(max_length=10_000)] | None = None


class SearchInfo(Record):
    """The search that found this recipe.

    `budget` and `trials` count skip-lists that were proposed and whose pictures were generated;
    the baselines (nothing, everything, rule of thumb, published lists) come on top, in files of
    schema 1.3. In older files they are counted too. `stopped` counts the trials that ended early:
    each is no faster than another and had more LPIPS on its first prompts, so it has no score and
    is not on the front. `trial` is the number of the trial that this recipe is, as in the names
    "trial 44" of `choice`, `verified` and `front` (null: a baseline, or not said). Files of schema
    1.0 count it from 0. `consumers` are the tools that the search kept to: each of them can express
    the recipe.
    """

    study: str
    budget: Count
    trials: Count
    stopped: Count = 0
    trial: Count | None = None
    sampler: str
    seed: Count | None
    consumers: Annotated[tuple[str, ...], Field(max_length=64)] = ()


class ChoiceInfo(Record):
    """How this recipe was chosen among the scored skip-lists.

    `rule` chooses among those that satisfy the bounds; a bound that was not set is null.
    `max_lpips` bounds the mean LPIPS, `max_typical` the typical one, and `max_flips` how many
    prompts become another picture; "least LPIPS" is the least typical one. `first` is the choice by
    the search prompts alone. `shortlist` has the skip-lists that could be chosen, each with a score
    on the held-out prompts that `fidelity.lpips` reports. Those in `passed_over` could have been
    chosen too, but had no such score: none was to be computed, or its run failed. All names are
    those of `front` and `verified`. `max_judge` and `min_judge` bound the mean of judges
    (`fidelity.judges`) over the held-out prompts. `max_memory_bytes` bounds the predicted peak of
    GPU memory in a run; it only leaves out what does not fit, and is part of no rule.
    """

    later_fields: ClassVar[frozenset[str]] = frozenset({"max_memory_bytes"})

    rule: Literal["fastest", "least LPIPS", "knee"]
    max_lpips: Annotated[Real, Field(ge=0)] | None = None
    max_typical: Annotated[Real, Field(ge=0)] | None = None
    max_flips: Count | None = None
    min_speedup: Annotated[Real, Field(gt=0)] | None = None
    max_seconds: Annotated[Real, Field(gt=0)] | None = None
    max_memory_bytes: Annotated[Count, Field(gt=0)] | None = None
    max_judge: Annotated[Mapping[str, Real], Field(max_length=64)] = Field(default_factory=dict)
    min_judge: Annotated[Mapping[str, Real], Field(max_length=64)] = Field(default_factory=dict)
    first: str
    shortlist: tuple[str, ...]
    passed_over: tuple[str, ...] = ()

    @property
    def bounds(self) -> tuple[object, ...]:
        """Every bound, None where it was not set."""
        return (
            self.max_lpips,
            self.max_typical,
            self.max_flips,
            self.min_speedup,
            self.max_seconds,
            self.max_memory_bytes,
            dict(self.max_judge) or None,
            dict(self.min_judge) or None,
        )


class FrontMember(Record):
    """A non-dominated skip-list of the search.

    Both are estimates from all trials: `typical` is its typical LPIPS on the search prompts, by
    which it is ranked (null: an older file, ranked by the mean), and `lpips` the expected mean.
    `audio` is the mean distance of its sound. `memory_bytes` is the predicted peak of GPU memory in
    a run (null: not known; see `memory.peak_bytes`). `step_policy` is the member's (null: every
    step runs quantized).
    """

    later_fields: ClassVar[frozenset[str]] = frozenset({"step_policy", "memory_bytes"})

    name: str
    latency: Latency
    lpips: Annotated[Real, Field(ge=0)]
    typical: Annotated[Real, Field(ge=0)] | None = None
    audio: Annotated[Real, Field(ge=0)] | None = None
    memory_bytes: Count | None = None
    step_policy: StepPolicyRecord | None = None
