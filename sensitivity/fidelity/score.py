"""What is a distance between pictures, and what does a score say?

`Distance`, `Score` and `PartialScore`.

A distance takes pictures and their references and gives one number a picture: 0 for equal ones. A
score is the distances of one skip-list over a set of prompts, with their mean and a bootstrap
interval over prompts (percentile method, Efron and Tibshirani 1993, chapter 13).

    score = score_of(distance(pictures, references), net=distance.name, noise_floor=None)

**Damage** is what a search minimises. Without sound it is LPIPS. With sound it is LPIPS +
`audio_weight` x the distance of the sound, prompt by prompt: frames are blind to sound, so without
its share a search would quantize all that makes sound for free.
"""

import abc
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from sensitivity.errors import MeasurementError

RESAMPLES = 2000


@dataclass(frozen=True, kw_only=True, slots=True)
class Measure:
    """A distance other than LPIPS, of each prompt in order. `noise_floor` is as in `Score`."""

    per_prompt: tuple[float, ...]
    noise_floor: float | None

    @property
    def mean(self) -> float:
        """Mean over the prompts."""
        return float(np.mean(self.per_prompt))


MEASURES = ("motion", "detail_db", "audio")


@dataclass(frozen=True, kw_only=True, slots=True)
class Score:
    """Distances of one skip-list from bf16.

    `per_prompt` follows the order of the prompts; `ci95` is a bootstrap interval of the mean.

    Attributes:
        net: whose LPIPS it is.
        mean, ci95, per_prompt: LPIPS; that of a clip is the mean over its frames.
        noise_floor: the mean distance of bf16 from itself, drawn one by one instead of in batches
            (None: not measured); smaller differences mean nothing.
        per_frame: LPIPS of the frames of each clip, () for pictures.
        motion: `fidelity.frames.motion_difference`; of clips that were verified.
        detail_db: `fidelity.detail`, of pictures and clips that were verified.
        audio: `fidelity.audio`; of clips with sound.
        audio_weight: LPIPS that a unit of `audio` counts as.
        max_audio_distance: the most that the mean of `audio` may be; None asks nothing.
    """

    net: str
    mean: float
    ci95: tuple[float, float]
    per_prompt: tuple[float, ...]
    noise_floor: float | None
    per_frame: tuple[tuple[float, ...], ...] = ()
    motion: Measure | None = None
    detail_db: Measure | None = None
    audio: Measure | None = None
    audio_weight: float = 0.0
    max_audio_distance: float | None = None

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
    def is_allowed(self) -> bool:
        """Whether the sound keeps to its bound: else the skip-list is never chosen."""
        return (
            self.audio is None
            or self.max_audio_distance is None
            or self.audio.mean <= self.max_audio_distance
        )

    @property
    def cost(self) -> float:
        """What a proposer learns: damage, as many times over as the sound is farther than its
        bound, so that proposals keep away from there.
        """
        if self.is_allowed or self.audio is None or self.max_audio_distance is None:
            return self.damage
        return self.damage * self.audio.mean / self.max_audio_distance

    def to_json(self) -> dict[str, Any]:
        """The score as JSON holds it; what was not measured is left out."""
        unsaid = {
            field.name: field.default for field in dataclasses.fields(self)
        }  # MISSING where there is none, which no value equals
        data = {
            key: value for key, value in dataclasses.asdict(self).items() if value != unsaid[key]
        }
        rows = {"per_frame": [list(row) for row in self.per_frame]} if self.per_frame else {}
        return data | {"ci95": list(self.ci95), "per_prompt": list(self.per_prompt)} | rows

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Score":
        """The score that `to_json` gave."""
        rows = {key: tuple(data[key]) for key in ("ci95", "per_prompt")} | {
            "per_frame": tuple(map(tuple, data.get("per_frame", ())))
        }
        measures = {
            key: Measure(
                per_prompt=tuple(data[key]["per_prompt"]), noise_floor=data[key]["noise_floor"]
            )
            for key in MEASURES
            if key in data
        }
        return cls(**{**data, **rows, **measures})


@dataclass(frozen=True, kw_only=True, slots=True)
class PartialScore:
    """Damages of one skip-list on the first prompts of a split, where drawing ended early: no
    score, and never kept as one.

    Attributes:
        net: as in `Score`.
        per_prompt: damages of the prompts that were drawn, in order.
        prompts: how many a score has.
    """

    net: str
    per_prompt: tuple[float, ...]
    prompts: int

    @property
    def mean(self) -> float:
        """Mean over the prompts that were drawn; prompts differ in size, so it is no estimate of a
        score's mean.
        """
        return float(np.mean(self.per_prompt))

    @property
    def share(self) -> float:
        """Part of the prompts that were drawn."""
        return len(self.per_prompt) / self.prompts


class Distance(abc.ABC):
    """A perceptual distance.

    `name` is what a recipe calls it; `key` is all that decides its values, for cache keys.
    """

    name: str
    key: dict[str, str]

    @abc.abstractmethod
    def __call__(self, pictures: Tensor, references: Tensor) -> Tensor:
        """pictures, references:

        (B, 3, H, W) in [-1, 1]. Returns (B,) fp32 on the CPU, each at least 0.
        """


def bootstrap_interval(
    values: tuple[float, ...], *, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values` over resampled prompts; the same values give
    the same interval.
    """
    array = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(array), size=(resamples, len(array)))
    low, high = np.quantile(array[picks].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def score_of(distances: Tensor, *, net: str, noise_floor: float | None) -> Score:
    """The score of one distance a prompt, shape (B,).

    Raises MeasurementError as `finite_values` does.
    """
    values = finite_values(distances)
    return Score(
        net=net,
        mean=float(np.mean(values)),
        ci95=bootstrap_interval(values),
        per_prompt=values,
        noise_floor=noise_floor,
    )


def finite_values(distances: Tensor) -> tuple[float, ...]:
    """Distances of shape (B,) as numbers.

    Raises:
        MeasurementError: a distance is NaN or infinite, as when the model gave NaN pictures.
    """
    values = tuple(float(v) for v in distances.double().tolist())
    broken = [i for i, v in enumerate(values) if not np.isfinite(v)]
    if broken:
        raise MeasurementError(
            f"{len(broken)} of {len(values)} pictures have no finite distance (prompt {broken[0]}"
            " first): the model gave NaN or inf"
        )
    return values
