"""The parts of a recipe: model, latency, fidelity, memory, the search and the choice.

`recipe.Recipe` holds them, its docstring has the conventions.

Frozen pydantic records whose unknown fields survive a round trip; fields that came later have
defaults, so that older recipes are read.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

IDENTIFIER = r"^[A-Za-z_][A-Za-z0-9_]*$"

Identifier = Annotated[str, Field(pattern=IDENTIFIER, max_length=256)]
Real = Annotated[float, Field(strict=True, allow_inf_nan=False)]
Count = Annotated[int, Field(strict=True, ge=0, lt=2**64)]
Source = Literal["predicted", "measured"]


class Record(BaseModel):
    """A frozen record whose unknown fields survive a round trip."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())


class ModelInfo(Record):
    """Which weights the recipe is for.

    `component` is the pipeline's attribute, `component_class` the name of its class.

    `components` is {component: class} of all denoisers where the recipe is for several, `component`
    first: layers begin with their names then.
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
        said = next(iter(self.components.items()), (self.component, self.component_class))
        if said != (self.component, self.component_class) or len(self.components) == 1:
            found = ", ".join(f"{name} ({kind})" for name, kind in self.components.items())
            raise ValueError(
                f"found the components {found}; allowed are two or more, {self.component}"
                f" ({self.component_class}) first, or none; export it again"
            )
        return self

    @property
    def classes(self) -> dict[str, str]:
        """{component: class} of all that the recipe is for, one or several."""
        return dict(self.components) or {self.component: self.component_class}


class Latency(Record):
    """Seconds of one pipeline call; `speedup` is bf16 over quantized.

    Priced at `stands_for` x the model's dimensions (1: its own).
    """

    bf16_s: Annotated[Real, Field(gt=0)]
    quantized_s: Annotated[Real, Field(gt=0)]
    speedup: Annotated[Real, Field(gt=0)]
    source: Source
    target: str
    batch_size: Annotated[int, Field(strict=True, ge=1)]
    compile_mode: str | None
    stands_for: Annotated[int, Field(strict=True, ge=1)] = 1

    @model_validator(mode="after")
    def _check_speedup(self) -> Self:
        ratio = self.bf16_s / self.quantized_s
        if not math.isclose(self.speedup, ratio, rel_tol=1e-6):
            raise ValueError(
                f"found speedup {self.speedup!r}; bf16_s / quantized_s is {ratio!r}; write that"
                " ratio, unrounded"
            )
        return self


class Lpips(Record):
    """LPIPS against bf16 pictures.

    `prompts`, `seeds` and `per_prompt` are parallel: one entry a picture (or video).

    `ci95` is a 95 % interval of the mean over prompts; it holds at once for the `simultaneous`
    skip-lists that were compared on these prompts, and so for the one that was named among them.
    `noise_floor` is bf16 against bf16 recomputed another way (null: not measured).
    """

    mean: Annotated[Real, Field(ge=0)]
    ci95: tuple[Real, Real]
    net: str
    noise_floor: Annotated[Real, Field(ge=0)] | None
    prompts: tuple[str, ...]
    seeds: tuple[Count, ...]
    per_prompt: tuple[Annotated[Real, Field(ge=0)], ...]
    simultaneous: Annotated[int, Field(strict=True, ge=1)] = 1

    @model_validator(mode="after")
    def _check_lengths(self) -> Self:
        lengths = (len(self.prompts), len(self.seeds), len(self.per_prompt))
        if len(set(lengths)) > 1:
            raise ValueError(
                f"found {lengths} prompts, seeds, per_prompt; each has one entry a picture; repeat"
                " a prompt for each seed"
            )
        if self.ci95[0] > self.ci95[1]:
            raise ValueError(
                f"found ci95 {list(self.ci95)}; the lower bound comes first; swap them"
            )
        average = sum(self.per_prompt) / max(1, len(self.per_prompt))
        if self.per_prompt and not math.isclose(self.mean, average, rel_tol=1e-4, abs_tol=1e-9):
            raise ValueError(
                f"found mean {self.mean!r}; per_prompt averages {average!r}; write that average"
            )
        return self


class Measure(Record):
    """Another distance to what bf16 generates: one value a picture or clip, in the order of
    `lpips.prompts`. `noise_floor` is as in `Lpips`.
    """

    mean: Real
    noise_floor: Real | None = None
    per_prompt: tuple[Annotated[Real, Field(ge=0)], ...]

    @model_validator(mode="after")
    def _check_mean(self) -> Self:
        average = sum(self.per_prompt) / max(1, len(self.per_prompt))
        if not math.isclose(self.mean, average, rel_tol=1e-4, abs_tol=1e-9):
            raise ValueError(
                f"found mean {self.mean!r}; per_prompt averages {average!r}; write that average"
            )
        return self


class Audio(Measure):
    """Spectral distance of the sound.

    A unit of it counted as `weight` of LPIPS in the search; `max_distance` is the study's bound
    (null: none).
    """

    weight: Annotated[Real, Field(ge=0)]
    max_distance: Annotated[Real, Field(gt=0)] | None = None


class Frames(Record):
    """LPIPS of every `stride`-th frame, one row a clip."""

    stride: Annotated[int, Field(strict=True, ge=1)]
    lpips: tuple[tuple[Annotated[Real, Field(ge=0)], ...], ...]


class Fidelity(Record):
    """Distances to what bf16 generates; null is not measured, or not there to be measured.

    `lpips`: of pictures, or the mean over the frames of clips (`frames` has each). `motion`: how
    differently clips change from frame to frame (tLP). `detail_db`: decibels between the local
    energies of octaves, which tell damage from drift. `audio`: of the sound.
    """

    lpips: Lpips
    frames: Frames | None = None
    motion: Measure | None = None
    detail_db: Measure | None = None
    audio: Audio | None = None


class Memory(Record):
    """Bytes of the component's weights, scales included."""

    bf16_bytes: Count
    quantized_bytes: Count
    source: Source


class SearchInfo(Record):
    """The search that chose this recipe.

    `budget` and `trials` count skip-lists whose pictures were generated, `stopped` those of
    `trials` that ended early.

    One that ended early is as fast as another at most, with more LPIPS on its first prompts: it has
    no score, and no place on the front.
    """

    study: str
    budget: Count
    trials: Count
    stopped: Count = 0
    sampler: str
    seed: Count | None


class Choice(Record):
    """How this recipe was named among the scored skip-lists; bounds that were not asked are null,
    skip-lists have the names of `front` and `verified`.

    `rule` says what is taken of those that keep to the bounds. `first` is what the search prompts
    alone choose; `shortlist` is what could be named, each scored on the held-out prompts that
    `fidelity.lpips` reports; `passed_over` could have been, but had no held-out score and none was
    to be drawn.
    """

    rule: Literal["fastest", "least LPIPS", "knee"]
    max_lpips: Annotated[Real, Field(ge=0)] | None = None
    min_speedup: Annotated[Real, Field(gt=0)] | None = None
    max_seconds: Annotated[Real, Field(gt=0)] | None = None
    first: str
    shortlist: tuple[str, ...]
    passed_over: tuple[str, ...] = ()


class FrontMember(Record):
    """One non-dominated skip-list of the search; `lpips` is its mean on the search prompts, `audio`
    that of its sound.
    """

    name: str
    latency: Latency
    lpips: Annotated[Real, Field(ge=0)]
    audio: Annotated[Real, Field(ge=0)] | None = None
