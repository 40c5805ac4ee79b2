"""What a loaded pipeline holds, for tests that compare two of them."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sensitivity.models.generating import MediaGenerator
from sensitivity.models.loading import LoadedPipeline
from sensitivity.spec.study_spec import ModelSection, StudySpec


def at(spec: StudySpec, folder: Path, **more: Any) -> StudySpec:
    """The study of another folder."""
    return spec.model_copy(update={"model": ModelSection(path=folder, **more)})


def weights_of(loaded: LoadedPipeline) -> dict[str, Tensor]:
    """All parameters by component and name."""
    parts = {
        name: part
        for name, part in loaded.pipe.components.items()
        if isinstance(part, torch.nn.Module)
    }
    return {
        f"{name}.{key}": p for name, part in parts.items() for key, p in part.named_parameters()
    }


def same_weights(one: LoadedPipeline, other: LoadedPipeline) -> bool:
    """Whether two pipelines have the same parameters, to the last bit."""
    left, right = weights_of(one), weights_of(other)
    return left.keys() == right.keys() and all(
        torch.equal(left[key], right[key]) and right[key].dtype == torch.bfloat16 for key in left
    )


def generate(loaded: LoadedPipeline, prompts: list[str], batch_size: int = 3) -> Tensor:
    """Pictures of the prompts, seeded 0, 1, ..."""
    seeds = list(range(len(prompts)))
    return MediaGenerator(loaded).generate_pictures(prompts, seeds, batch_size=batch_size)
