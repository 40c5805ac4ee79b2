"""Media and scores that mean nothing, and a distance whose values are known in advance."""

from typing import Any

import torch
from torch import Tensor

from sensitivity.core.format_name import FormatName
from sensitivity.fidelity.distance import Distance
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.score import MetricValues, Score
from sensitivity.models.media import Media
from sensitivity.spec.study_spec import StudySpec


def random_pictures(count: int, size: int = 64, *, seed: int) -> Tensor:
    """(count, 3, size, size) in [-1, 1]."""
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def random_clips(seed: int, *, count: int = 2, frames: int = 5) -> Media:
    """Random clips of 64 x 64."""
    return Media.of_clips(
        torch.rand(count, frames, 3, 64, 64, generator=torch.Generator().manual_seed(seed))
    )


class Brightness(Distance):
    """|mean of one - mean of the other|."""

    name, key = "brightness", {}

    def __call__(self, pictures: Tensor, references: Tensor) -> Tensor:
        return (pictures - references).mean((1, 2, 3)).abs()


def score_with_sound(
    *, lpips: float = 0.1, sound: float = 0.4, weight: float = 0.5, bound: float | None = None
) -> Score:
    """A score of two prompts that are alike."""
    return Score(
        net="tiny",
        mean=lpips,
        per_prompt=(lpips, lpips),
        noise_floor=None,
        audio=MetricValues(per_prompt=(sound, sound), noise_floor=None),
        audio_weight=weight,
        max_audio_distance=bound,
    )


def changed(spec: StudySpec, **sections: dict[str, Any]) -> StudySpec:
    """The study with other values in some of its sections."""
    data = spec.model_dump()
    return StudySpec.model_validate(
        data | {name: data[name] | values for name, values in sections.items()}
    )


def all_linears(evaluator: Evaluator) -> dict[str, FormatName]:
    """Every Linear in nvfp4."""
    return dict.fromkeys(evaluator.switch.linears, FormatName.NVFP4)
