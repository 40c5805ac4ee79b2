"""What does quantizing do to the pictures of a set of prompts? The records `Score` and
`PartialScore`.

A score holds the distances of one skip-list from bf16 over a set of prompts. What is said of them
follows: the typical damage with its interval (`fidelity.typical`), and the mean that other prompts
have (`fidelity.mean_curve`, `fidelity.summary`). `mean` is the average over these prompts, which a
picture or two that became another one may rule.

**Damage** is what a search minimises. Without sound it is LPIPS. With sound it is, for each prompt,
LPIPS + `audio_weight` x the distance of the sound. LPIPS does not hear: if sound did not count, a
search would quantize everything that makes sound for free.

    score = score_of(distance(pictures, references), net=distance.name, noise_floor=None)
    score.typical, score.typical_ci95, score.mean
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from torch import Tensor

from sensitivity.core.short_reprs import ShortRepr
from sensitivity.errors import MeasurementError, StoreError
from sensitivity.fidelity.typical import Interval, log_damages, typical, typical_interval

METRICS = ("motion", "detail_db", "audio")
"""Metrics other than LPIPS that a score may hold, by field."""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class MetricValues(ShortRepr):
    """The values of a metric other than LPIPS.

    Attributes:
        per_prompt: One value for each prompt, in order.
        noise_floor: As in `Score`.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    per_prompt: tuple[float, ...]
    noise_floor: float | None

    @property
    def mean(self) -> float:
        """Mean over the prompts."""
        return float(np.mean(self.per_prompt))


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class JudgeValues(MetricValues):
    """What a judge (`fidelity.judges`) says about the pictures of a skip-list.

    Attributes:
        per_prompt: One value for each prompt that is judged, in order.
        noise_floor: What the judge says about bf16 generated one by one, against bf16 in batches.
        higher_is_better: Whether a larger value is better, as of SSIM.
        unit: Such as "dB"; "" for none.
        prompts: Indices of the prompts that are judged; None: all.
        made_by: What computed the values, such as "scikit-image 0.26.0".
    """

    higher_is_better: bool = False
    unit: str = ""
    prompts: tuple[int, ...] | None = None
    made_by: str = ""


@dataclass(frozen=True, kw_only=True, slots=True, repr=False)
class Score(ShortRepr):
    """Distances of one skip-list from bf16.

    Attributes:
        net: The LPIPS net.
        mean: Mean LPIPS over the prompts; LPIPS of a clip is the mean over its frames.
        per_prompt: LPIPS of each prompt, in order.
        noise_floor: The mean distance of bf16 from itself, generated one by one instead of in
            batches. Smaller differences mean nothing. None: not measured.
        per_frame: LPIPS of the frames of each clip; () for pictures.
        motion: `frames.motion_difference`, of clips on held-out prompts.
        detail_db: `detail.detail_distance`, on held-out prompts.
        audio: `audio.audio_distance`, of clips with sound.
        latent: relative error of the final latents, |quantized - bf16| / |bf16|; None where the
            pipeline decodes none, or bf16's are not known.
        audio_weight: LPIPS that a unit of `audio` counts as.
        max_audio_distance: The largest mean of `audio` that is allowed; None allows any.
        judges: {judge: its values}, on held-out prompts; {} where no judge looked.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    net: str
    mean: float
    per_prompt: tuple[float, ...]
    noise_floor: float | None
    per_frame: tuple[tuple[float, ...], ...] = ()
    motion: MetricValues | None = None
    detail_db: MetricValues | None = None
    audio: MetricValues | None = None
    latent: MetricValues | None = None
    audio_weight: float = 0.0
    max_audio_distance: float | None = None
    judges: Mapping[str, JudgeValues] = field(default_factory=dict, hash=False)

    @property
    def damages(self) -> tuple[float, ...]:
        """Damage of each prompt (see the module)."""
        if self.audio is None:
            return self.per_prompt
        return tuple(
            seen + self.audio_weight * heard
            for seen, heard in zip(self.per_prompt, self.audio.per_prompt, strict=True)
        )

    @property
    def damage(self) -> float:
        """Mean damage over the prompts."""
        return self.mean if self.audio is None else self.mean + self.audio_weight * self.audio.mean

    @property
    def damage_floor(self) -> float:
        """The noise floor of damage; 0 if it was not measured."""
        heard = 0.0 if self.audio is None else self.audio_weight * (self.audio.noise_floor or 0.0)
        return (self.noise_floor or 0.0) + heard

    @property
    def logs(self) -> tuple[float, ...]:
        """Logarithm of the damage of each prompt (`typical.log_damages`)."""
        return tuple(log_damages(self.damages, self.damage_floor).tolist())

    @property
    def typical(self) -> float:
        """Typical damage: the geometric mean over the prompts (`fidelity.typical`)."""
        return typical(self.damages, self.damage_floor)

    @property
    def typical_ci95(self) -> Interval:
        """95 % interval of `typical`."""
        return typical_interval(self.damages, self.damage_floor)

    @property
    def is_allowed(self) -> bool:
        """Whether the sound is within its bound. If it is not, the skip-list is never chosen."""
        return (
            self.audio is None
            or self.max_audio_distance is None
            or self.audio.mean <= self.max_audio_distance
        )

    @property
    def penalty(self) -> float:
        """Audio / bound if the sound is beyond its bound, else 1.

        It keeps proposals away from such skip-lists.
        """
        if self.is_allowed or self.audio is None or self.max_audio_distance is None:
            return 1.0
        return self.audio.mean / self.max_audio_distance

    @property
    def cost(self) -> float:
        """What a proposer learns from: typical damage, times the penalty."""
        return self.typical * self.penalty

    def to_json(self) -> dict[str, Any]:
        """The score as JSON holds it; fields with their default are left out."""
        row: dict[str, Any] = _SCORE.dump_python(self, mode="json")
        defaults = {one.name: one.default for one in dataclasses.fields(self)} | {"judges": {}}
        return {name: value for name, value in row.items() if getattr(self, name) != defaults[name]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Score":
        """Read what `to_json` gave. The interval that earlier versions kept is passed over.

        Raises:
            StoreError: A key is missing or unknown, or a value has the wrong type.
        """
        try:
            return _SCORE.validate_python({k: v for k, v in data.items() if k != "ci95"})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the score"
            raise StoreError(
                f"A stored score is malformed: {where}: {first['msg']}; expected what an earlier"
                " search wrote: name another `storage`, and search again"
            ) from None


_SCORE = TypeAdapter(Score)


@dataclass(frozen=True, kw_only=True, slots=True)
class PartialScore:
    """Damages of one skip-list on the first prompts of a split, if generation was stopped early.

    It is not a score, and is never kept as one.

    Attributes:
        net: As in `Score`.
        per_prompt: Damages of the prompts that were generated, in order.
        prompts: How many prompts a score has.
    """

    net: str
    per_prompt: tuple[float, ...]
    prompts: int

    @property
    def mean(self) -> float:
        """Mean over the prompts that were generated.

        Prompts differ in size, so this is no estimate of a score's mean.
        """
        return float(np.mean(self.per_prompt))

    @property
    def share(self) -> float:
        """The part of the prompts that were generated."""
        return len(self.per_prompt) / self.prompts


def score_of(distances: Tensor, *, net: str, noise_floor: float | None) -> Score:
    """The score of distances of shape (B,), one for each prompt.

    Raises:
        MeasurementError: A distance is NaN or infinite.
    """
    values = finite_values(distances)
    return Score(
        net=net,
        mean=float(np.mean(values)),
        per_prompt=values,
        noise_floor=noise_floor,
    )


def finite_values(distances: Tensor) -> tuple[float, ...]:
    """Distances of shape (B,) as numbers.

    Raises:
        MeasurementError: A distance is NaN or infinite, as when the model gave NaN pictures.
    """
    values = tuple(float(v) for v in distances.double().tolist())
    broken = [i for i, v in enumerate(values) if not np.isfinite(v)]
    if broken:
        raise MeasurementError(
            f"{len(broken)} of {len(values)} pictures have no finite distance (prompt {broken[0]}"
            " first): the model gave NaN or inf"
        )
    return values
