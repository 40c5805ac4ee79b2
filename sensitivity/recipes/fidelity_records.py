"""What does a recipe say of pictures and sound? LPIPS on prompts, other metrics, and comparisons.

    lpips = recipe.fidelity.lpips
    lpips.typical, lpips.typical_ci95           # 0.0088, (0.0062, 0.0125)
    lpips.stated_mean, lpips.ci95               # 0.0163, (0.0101, 0.0262)
    lpips.flips.count                           # 1

Everything that is said of LPIPS follows from the values of single prompts, which are in the file
too. The docstrings have the formulas, so that anybody can compute it again.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from sensitivity.fidelity.words import flips_words, interval_words, summary_words
from sensitivity.recipes._base import Count, Real, Record, check_mean, check_order


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


class Flips(Record):
    """Prompts whose picture became another one: those with an LPIPS of `threshold` or more.

    `prompts` are their places in `per_prompt`, from 0. `another_seed` is the typical LPIPS of bf16
    with another seed, on which the threshold rests (null: not measured).
    """

    count: Count
    prompts: tuple[Count, ...]
    threshold: Annotated[Real, Field(ge=0)]
    another_seed: Annotated[Real, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _check_count(self) -> Self:
        if self.count != len(self.prompts):
            raise ValueError(
                f"found count {self.count} and {len(self.prompts)} prompts; expected as many: write"
                " the number of prompts"
            )
        return self


class Curve(Record):
    """From the typical to the expected mean LPIPS: log(mean / typical) = `log_ratio` + `slope` x
    log(typical / `at`), at least 0. `error` is its standard error.
    """

    at: Annotated[Real, Field(gt=0, lt=1e6)]
    log_ratio: Annotated[Real, Field(gt=-20, lt=20)]
    slope: Annotated[Real, Field(gt=-1, lt=1)]
    error: Annotated[Real, Field(ge=0, lt=10)]


class Lpips(Record):
    """LPIPS against what bf16 generates.

    `prompts`, `seeds` and `per_prompt` are parallel, with one entry for each picture or video.
    `mean` is the average of `per_prompt`.

    Files of schema 1.3 say three things, and all of them follow from `per_prompt`, of N prompts.
    Here e is the noise floor, 1e-6 at least, t is Student's 0.975 quantile with N - 1 degrees of
    freedom, and s the standard deviation of log(x + e) over prompts, divided by sqrt(N).

    - `typical`: the geometric mean, exp(mean of log(x + e)) - e. `typical_ci95` is its 95 %
      interval: exp(mean of log(x + e) -+ t s) - e, at least 0.
    - `expected_mean`: what the mean over other prompts is expected to be. It is read from `typical`
      by `curve`, which all skip-lists of a study share, since an average of a few prompts is ruled
      by those that became another picture. `ci95` is its 95 % interval: `expected_mean` over and
      times exp(sqrt((t s)^2 + (2 x `curve.error`)^2)), and so wide at least that it contains
      `mean`.
    - `flips`: the prompts whose picture became another one.

    In older files these are null, and `ci95` is an interval of `mean`: mean / f to mean x f with f
    = exp(t x standard error / mean), and t the quantile at 1 - 0.025 / `simultaneous`. (Files of
    schema 1.0 have wider or narrower ones, which depend on what else was compared.)

    `noise_floor` is the LPIPS of bf16 against bf16 that is computed in another way, such as with
    another batch size (null: not computed). `native_rounding` is a second floor, for quantized
    pictures (null: not known).
    """

    mean: Annotated[Real, Field(ge=0)]
    ci95: tuple[Real, Real]
    typical: Annotated[Real, Field(ge=0)] | None = None
    typical_ci95: tuple[Real, Real] | None = None
    expected_mean: Annotated[Real, Field(ge=0)] | None = None
    curve: Curve | None = None
    flips: Flips | None = None
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
        check_order("ci95", self.ci95)
        check_order("typical_ci95", self.typical_ci95)
        if self.per_prompt:
            check_mean(self.mean, self.per_prompt)
        if self.flips is not None:
            _check_flips(self.flips, self.per_prompt)
        return self

    @property
    def stated_mean(self) -> float:
        """The mean that `ci95` is an interval of: `expected_mean`, in older files `mean`."""
        return self.mean if self.expected_mean is None else self.expected_mean

    @property
    def words(self) -> str:
        """What is said of it: typical and mean LPIPS with intervals, and flips; in older files the
        mean alone.
        """
        if self.typical is None or self.typical_ci95 is None or self.flips is None:
            return f"mean LPIPS {interval_words(self.mean, self.ci95)}"
        return summary_words(
            typical=self.typical,
            typical_ci95=self.typical_ci95,
            mean=self.stated_mean,
            mean_ci95=self.ci95,
            flips=flips_words(self.flips.count, len(self.per_prompt)),
        )


class Against(Record):
    """The recipe beside another skip-list: its typical LPIPS as a multiple of the other's, prompt
    by prompt over the held-out prompts, with a 95 % interval. `name` is one of `verified`, where
    the other's values are.

    `ratio` is exp(mean of log((x + e) / (y + e))) with x and y the LPIPS of a prompt here and there
    and e as in `Lpips`; `ci95` is exp(that mean -+ t s), with s the standard deviation of these
    logarithms divided by sqrt(N). Null: the other's pictures are bf16's own.
    """

    name: str
    ratio: Annotated[Real, Field(ge=0)] | None
    ci95: tuple[Real, Real] | None

    @model_validator(mode="after")
    def _check_interval(self) -> Self:
        check_order("ci95", self.ci95)
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
        check_mean(self.mean, self.per_prompt)
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


class JudgeSummary(Record):
    """What a judge says of the pictures beside bf16's: its mean, and one value for each prompt that
    it looked at. `prompts` are their places in `lpips.prompts`, from 0 (null: all).

    `higher_is_better`: as of PSNR, in `unit` "dB". `noise_floor`: what it says of bf16 that is
    computed in another way, against bf16 (null: not computed). `made_by`: what computed the values.
    """

    mean: Real
    noise_floor: Real | None = None
    higher_is_better: bool = False
    unit: Annotated[str, Field(max_length=64)] = ""
    per_prompt: tuple[Real, ...]
    prompts: tuple[Count, ...] | None = None
    made_by: Annotated[str, Field(max_length=256)] = ""

    @model_validator(mode="after")
    def _check_mean(self) -> Self:
        check_mean(self.mean, self.per_prompt)
        return self


class Fidelity(Record):
    """How far the output is from what bf16 generates; null means not computed, or that the model
    generates no such output.

    `lpips`: of pictures, or of clips as the mean over frames (`frames` has each frame). `motion`:
    how differently clips change from frame to frame (tLP). `detail_db`: decibels between the local
    energies of octaves, which tell damage from drift. `audio`: of the sound. `kernels`: whether the
    pictures were drawn by native kernels or by emulation. `against`: beside the rule of thumb,
    published lists and everything quantized. `judges`: what others than LPIPS say, by name.
    `objective`: what the search minimised instead of LPIPS, as "module:function"; then everything
    in `lpips` and `lpips_search` is of that, and `net` is its name (null: LPIPS).
    """

    lpips: Lpips
    against: tuple[Against, ...] = ()
    frames: Frames | None = None
    motion: MetricSummary | None = None
    detail_db: MetricSummary | None = None
    audio: Audio | None = None
    kernels: Literal["native", "emulated"] = "emulated"
    judges: Annotated[Mapping[str, JudgeSummary], Field(max_length=64)] = Field(
        default_factory=dict
    )
    objective: Annotated[str, Field(max_length=512)] | None = None


def _check_flips(flips: Flips, per_prompt: Sequence[float]) -> None:
    expected = [i for i, value in enumerate(per_prompt) if value >= flips.threshold]
    if list(flips.prompts) != expected:
        raise ValueError(
            f"found flips of the prompts {list(flips.prompts)}; expected those of per_prompt that"
            f" are {flips.threshold:g} or more, {expected}: write these"
        )
