"""What is a distance between pictures, and what does a score say? `Distance`, `Score` and `PartialScore`.

A distance takes pictures and their references and gives one number a picture: 0 for equal ones. A score is the distances of one skip-list over a set of
prompts, with their mean and a bootstrap interval over prompts (percentile method, Efron and Tibshirani 1993, chapter 13).

    score = score_of(distance(pictures, references), net=distance.name, noise_floor=None)
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
class Score:
    """Distances of one skip-list from bf16. `per_prompt` follows the order of the prompts; `ci95` is a bootstrap interval of the mean.

    `noise_floor` is the mean distance of bf16 from itself, drawn one by one instead of in batches (None: not measured); smaller differences mean nothing.
    """

    net: str
    mean: float
    ci95: tuple[float, float]
    per_prompt: tuple[float, ...]
    noise_floor: float | None

    def to_json(self) -> dict[str, Any]:
        """The score as JSON holds it."""
        return dataclasses.asdict(self) | {"ci95": list(self.ci95), "per_prompt": list(self.per_prompt)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Score":
        """The score that `to_json` gave."""
        return cls(**{**data, "ci95": tuple(data["ci95"]), "per_prompt": tuple(data["per_prompt"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class PartialScore:
    """Distances of one skip-list on the first prompts of a split, where drawing ended early: no score, and never kept as one.

    Attributes:
        net: as in `Score`.
        per_prompt: distances of the prompts that were drawn, in order.
        prompts: how many a score has.
    """

    net: str
    per_prompt: tuple[float, ...]
    prompts: int

    @property
    def mean(self) -> float:
        """Mean over the prompts that were drawn; prompts differ in size, so it is no estimate of a score's mean."""
        return float(np.mean(self.per_prompt))

    @property
    def share(self) -> float:
        """Part of the prompts that were drawn."""
        return len(self.per_prompt) / self.prompts


class Distance(abc.ABC):
    """A perceptual distance. `name` is what a recipe calls it; `key` is all that decides its values, for cache keys."""

    name: str
    key: dict[str, str]

    @abc.abstractmethod
    def __call__(self, pictures: Tensor, references: Tensor) -> Tensor:
        """pictures, references: (B, 3, H, W) in [-1, 1]. Returns (B,) fp32 on the CPU, each at least 0."""


def bootstrap_interval(values: tuple[float, ...], *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of the mean of `values` over resampled prompts; the same values give the same interval."""
    array = np.asarray(values, dtype=np.float64)
    picks = np.random.default_rng(seed).integers(0, len(array), size=(resamples, len(array)))
    low, high = np.quantile(array[picks].mean(axis=1), [0.025, 0.975])
    return float(low), float(high)


def score_of(distances: Tensor, *, net: str, noise_floor: float | None) -> Score:
    """The score of one distance a prompt, shape (B,). Raises MeasurementError as `finite_values` does."""
    values = finite_values(distances)
    return Score(net=net, mean=float(np.mean(values)), ci95=bootstrap_interval(values), per_prompt=values, noise_floor=noise_floor)


def finite_values(distances: Tensor) -> tuple[float, ...]:
    """Distances of shape (B,) as numbers.

    Raises:
        MeasurementError: a distance is NaN or infinite, as when the model gave NaN pictures.
    """
    values = tuple(float(v) for v in distances.double().tolist())
    broken = [i for i, v in enumerate(values) if not np.isfinite(v)]
    if broken:
        raise MeasurementError(
            f"{len(broken)} of {len(values)} pictures have no finite distance (prompt {broken[0]} first): the model gave NaN or inf"
        )
    return values
