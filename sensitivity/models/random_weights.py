"""What takes the place of weights that were not downloaded?

`random_component` makes one component at full size with random weights. `random_pipeline` makes
the pipeline around such components.

    denoiser = random_component(spec, device="cuda")    # 12 billion numbers from one seed
    pipe = random_pipeline(spec)                        # modules on meta, tokenizers that work

Weights are initialised so that signals keep their size: matrices and convolutions are normal with
standard deviation 1 / sqrt(fan-in), embeddings normal with 1, scales of norms are 1, biases 0, and
other vectors 0.02. Outputs are finite and differ from prompt to prompt. The same seed on the same
device gives the same weights.

What it does not do: weights whose pictures or scores mean anything.
"""

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.models.meta_tensors import is_meta
from sensitivity.models.model_index import ModelIndex
from sensitivity.models.pipeline_parts import load_data_part
from sensitivity.models.skeleton import build_component, build_skeleton
from sensitivity.spec.study_spec import StudySpec

VECTOR = 0.02
VOCABULARY_FILES = {
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
}


def random_component(
    spec: StudySpec, *, component: str | None = None, device: str, seed: int = 0
) -> nn.Module:
    """One component at full size with random weights, in bf16, eval mode, without gradients.

    Its buffers are what the constructor computes.

    Args:
        spec: the study.
        component: its name; `model.component` by default.
        device: where the weights are initialised and stay.
        seed: of the weights.

    Raises:
        PipelineError: no config files can be had, or there is no such component.
    """
    module = build_component(spec, component)
    generator = torch.Generator(device=device).manual_seed(seed)
    made: dict[int, nn.Parameter] = {}
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                data = _initialised(child, name, parameter, device, generator)
                made[id(parameter)] = nn.Parameter(data, requires_grad=False)
            child._parameters[name] = made[id(parameter)]
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = (
                    torch.zeros(buffer.shape, dtype=buffer.dtype, device=device)
                    if is_meta(buffer)
                    else buffer.to(device)
                )
    return module


def _initialised(
    module: nn.Module, name: str, parameter: Tensor, device: str, generator: torch.Generator
) -> Tensor:
    data = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
    if not parameter.is_floating_point() or "bias" in name:
        return data.zero_()
    if "norm" in type(module).__name__.lower():
        return data.fill_(1.0)
    if parameter.ndim < 2:
        return data.fill_(VECTOR)
    fan_in = 1 if isinstance(module, nn.Embedding) else math.prod(parameter.shape[1:])
    return data.normal_(0.0, 1 / math.sqrt(max(fan_in, 1)), generator=generator)


def random_pipeline(spec: StudySpec) -> Any:
    """The study's pipeline with its modules on meta, a real scheduler, and tokenizers.

    A tokenizer is real where its vocabulary is in its folder. Elsewhere it is a stand-in whose ids
    depend on the text. Its lengths are those of a run without weights (`token_counts`).

    Raises:
        PipelineError: as `skeleton.build_skeleton`, or a tokenizer's files are damaged.
    """
    pipe, index = build_skeleton(spec), ModelIndex.of(spec)
    # The skeleton's own class says that it is on the CPU; its parent is where its modules are.
    pipe.__class__ = type(pipe).__mro__[1]
    for name, part in pipe.components.items():
        if not hasattr(part, "tell_apart"):  # no stand-in
            continue
        folder = index.folder / name
        if _has_vocabulary(folder):
            setattr(pipe, name, load_data_part(index, name))
        else:
            part.tell_apart((*spec.prompts.search, *spec.prompts.held_out))
    return pipe


def _has_vocabulary(folder: Path) -> bool:
    """Whether a tokenizer's folder holds more than settings."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return bool(names & VOCABULARY_FILES)
