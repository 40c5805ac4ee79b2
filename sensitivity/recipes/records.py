"""What are the parts of a recipe? Model, latency, fidelity, memory, search, choice and front.

`recipes.recipe.Recipe` is made of these records, and its module has the conventions. All are
frozen. Fields that a record does not know survive a round trip, and fields that came with a later
version have defaults, so that older recipes are read.

    recipe.latency.speedup, recipe.fidelity.lpips.mean        # 1.47, 0.031
"""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sensitivity.core.format_name import Source

IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_]*$"

Identifier = Annotated[str, Field(pattern=IDENTIFIER, max_length=256)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**64)]


class Record(BaseModel):
    """A frozen record whose unknown fields survive a round trip."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


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

    It stands beside a time that was measured end to end, covers the same part of a run, and is
    what a search ranks skip-lists by. `source` says where the shapes' times come from.
    """

    bf16_s: Annotated[Real, Field(gt=0)]
    quantized_s: Annotated[Real, Field(gt=0)]
    speedup: Annotated[Real, Field(gt=0)]
    source: Source

    @model_validator(mode="after")
    def _check_speedup(self) -> Self:
        _check_ratio(self.speedup, self.bf16_s, self.quantized_s)
        return self


class Latency(Record):
    """Seconds of one pipeline call; `speedup` is bf16 over quantized.

    They are those of a model that is `stands_for` times larger in each dimension (1: of this one).
    `runtime` is how the model was run, and `covers` what the seconds cover ("": an older file does
    not say); `note` says what else to know of them. `speedup_interval90` is a 90 % interval of the
    speedup (null: not known). Times that were measured end to end have the sum of shapes beside
    them, in `shapes`.
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
    note: str = ""

    @model_validator(mode="after")
    def _check_speedup(self) -> Self:
        _check_ratio(self.speedup, self.bf16_s, self.quantized_s)
        _check_order("speedup_interval90", self.speedup_interval90)
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
        return self.quantized_s if self.shapes is None else self.shapes.quantized_s


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
        _check_order("speedup_interval90", self.speedup_interval90)
        rounds = (len(self.seconds), len(self.bf16_seconds))
        if self.bf16_seconds and rounds[0] != rounds[1]:
            raise ValueError(
                f"found {rounds} seconds, bf16_seconds; expected one of each for a round: leave"
                " bf16_seconds out, or write those of the same rounds"
            )
        return self


class NativeRounding(Record):
    """How far the roundings of a runtime move pictures: the mean LPIPS between pictures of one
    skip-list as they were drawn and in another `arithmetic`, over `prompts` of the search's.
    `change` is the share by which the list's own typical LPIPS from bf16 differs; two skip-lists
    whose LPIPS differs by a smaller share are not told apart.
    """

    lpips: Annotated[Real, Field(ge=0)]
    change: Annotated[Real, Field(ge=0)]
    arithmetic: str
    skip_list: str
    prompts: Count


class Lpips(Record):
    """LPIPS against what bf16 generates.

    `prompts`, `seeds` and `per_prompt` are parallel, with one entry for each picture or video.
    `ci95` is a 95 % interval of the mean over prompts, which follows from `per_prompt`: mean / f to
    mean x f with f = exp(t x standard error / mean), and t Student's quantile at 1 - 0.025 /
    `simultaneous`, with one degree of freedom less than there are prompts. It holds for
    `simultaneous` skip-lists at once, and so for the one that was chosen among them. (Files of
    schema 1.0 have wider or narrower ones, which depend on what else was compared.)
    `noise_floor` is the LPIPS of bf16 against bf16 that is computed in another way, such as with
    another batch size (null: not computed). `native_rounding` is a second floor, for quantized
    pictures (null: not known).
    """

    mean: Annotated[Real, Field(ge=0)]
    ci95: tuple[Real, Real]
    net: str
    noise_floor: Annotated[Real, Field(ge=0)] | None
    native_rounding: NativeRounding | None = None
    prompts: tuple[str, ...]
    seeds: tuple[Count, ...]
    per_prompt: tuple[Annotated[Real, Field(ge=0)], ...]
    simultaneous: Annotated[int, Field(strict=True, ge=1)] = 1

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        lengths = (len(self.prompts), len(self.seeds), len(self.per_prompt))
        if len(set(lengths)) > 1:
            raise ValueError(
                f"found {lengths} prompts, seeds, per_prompt; expected one entry of each for a"
                " picture: repeat a prompt for each of its seeds"
            )
        _check_order("ci95", self.ci95)
        if self.per_prompt:
            _check_mean(self.mean, self.per_prompt)
        return self


class MetricSummary(Record):
    """Another metric against what bf16 generates: its mean, and one value for each picture or clip,
    in the order of `lpips.prompts`. `noise_floor` is as in `Lpips`.
    """

    mean: Real
    noise_floor: Real | None = None
    per_prompt: tuple[Annotated[Real, Field(ge=0)], ...]

    @model_validator(mode="after")
    def _check_mean(self) -> Self:
        _check_mean(self.mean, self.per_prompt)
        return self


class Audio(MetricSummary):
    """Spectral distance of the sound.

    One unit of it counts as `weight` of LPIPS in the search. `max_distance` is the study's bound
    (null: none).
    """

    weight: Annotated[Real, Field(ge=0)]
    max_distance: Annotated[Real, Field(gt=0)] | None = None


class Frames(Record):
    """LPIPS of every `stride`-th frame, one row for each clip."""

    stride: Annotated[int, Field(strict=True, ge=1)]
    lpips: tuple[tuple[Annotated[Real, Field(ge=0)], ...], ...]


class Fidelity(Record):
    """How far the output is from what bf16 generates; null means not computed, or that the model
    generates no such output.

    `lpips`: of pictures, or of clips as the mean over frames (`frames` has each frame). `motion`:
    how differently clips change from frame to frame (tLP). `detail_db`: decibels between the local
    energies of octaves, which tell damage from drift. `audio`: of the sound. `kernels`: whether the
    pictures were drawn by native kernels or by emulation.
    """

    lpips: Lpips
    frames: Frames | None = None
    motion: MetricSummary | None = None
    detail_db: MetricSummary | None = None
    audio: Audio | None = None
    kernels: Literal["native", "emulated"] = "emulated"


class Memory(Record):
    """Bytes of the denoisers' weights, scales included."""

    bf16_bytes: Count
    quantized_bytes: Count
    source: Source


class SearchInfo(Record):
    """The search that found this recipe.

    `budget` and `trials` count skip-lists whose pictures were generated. `stopped` counts the
    trials that ended early: each is no faster than another and had more LPIPS on its first prompts,
    so it has no score and is not on the front. `trial` is the number of the trial that this recipe
    is, counted from 1 as in the names "trial 44" of `choice`, `verified` and `front` (null: not
    said). Files of schema 1.0 count it from 0.
    """

    study: str
    budget: Count
    trials: Count
    stopped: Count = 0
    trial: Count | None = None
    sampler: str
    seed: Count | None


class ChoiceInfo(Record):
    """How this recipe was chosen among the scored skip-lists.

    `rule` chooses among those that satisfy the bounds; a bound that was not set is null. `first` is
    the choice by the search prompts alone. `shortlist` has the skip-lists that could be chosen,
    each with a score on the held-out prompts that `fidelity.lpips` reports. Those in `passed_over`
    could have been chosen too, but had no such score: none was to be computed, or its run failed.
    All names are those of `front` and `verified`.
    """

    rule: Literal["fastest", "least LPIPS", "knee"]
    max_lpips: Annotated[Real, Field(ge=0)] | None = None
    min_speedup: Annotated[Real, Field(gt=0)] | None = None
    max_seconds: Annotated[Real, Field(gt=0)] | None = None
    first: str
    shortlist: tuple[str, ...]
    passed_over: tuple[str, ...] = ()


class FrontMember(Record):
    """A non-dominated skip-list of the search.

    `lpips` is its mean on the search prompts, and `audio` that of its sound's distance.
    """

    name: str
    latency: Latency
    lpips: Annotated[Real, Field(ge=0)]
    audio: Annotated[Real, Field(ge=0)] | None = None


def _check_ratio(speedup: float, bf16_s: float, quantized_s: float) -> None:
    ratio = bf16_s / quantized_s
    if not math.isclose(speedup, ratio, rel_tol=1e-6):
        raise ValueError(
            f"found speedup {speedup!r}; expected bf16_s / quantized_s, {ratio!r}: write that"
            " ratio, unrounded"
        )


def _check_order(name: str, interval: tuple[float, float] | None) -> None:
    if interval is not None and interval[0] > interval[1]:
        raise ValueError(
            f"found {name} {list(interval)}; expected the lower bound first: swap them"
        )


def _check_mean(mean: float, per_prompt: Sequence[float]) -> None:
    average = sum(per_prompt) / max(1, len(per_prompt))
    if not math.isclose(mean, average, rel_tol=1e-4, abs_tol=1e-9):
        raise ValueError(
            f"found mean {mean!r}; expected the average of per_prompt, {average!r}: write that"
        )
