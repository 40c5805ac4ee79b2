"""A pipeline with two denoisers that take turns, as Wan 2.2, and a study of it.

The pipeline is tiny, random and saved by diffusers. `transformer` makes two of its four steps and
`transformer_2` the other two, with classifier-free guidance.
"""

from pathlib import Path
from typing import Any

from torch import nn

from sensitivity.core.format_name import FormatName
from sensitivity.spec.loading import load_spec
from sensitivity.spec.study_spec import StudySpec

from support.clip_pipelines import save_wan

MXFP8, NVFP4 = FormatName.MXFP8, FormatName.NVFP4
NAMES = ("transformer", "transformer_2")
LINEARS = 2 * 10 + 6  # of each denoiser: two blocks, timestep, text and output


def save_two_denoisers(folder: Path) -> StudySpec:
    """Write the pipeline under `folder`, and read the study of it."""
    return load_spec(save_wan(folder / "wan", denoisers=2))


def linears(module: nn.Module) -> list[str]:
    return [fqn for fqn, child in module.named_modules() if isinstance(child, nn.Linear)]


def changed(spec: StudySpec, **sections: dict[str, Any]) -> StudySpec:
    data = spec.model_dump()
    return StudySpec.model_validate(
        data | {name: data[name] | values for name, values in sections.items()}
    )
