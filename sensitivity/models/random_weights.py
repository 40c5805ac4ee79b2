"""What stands in for weights that nobody downloaded?

`random_component`, and `random_pipeline` for a whole run: full size, drawn on the device.

    denoiser = random_component(spec, device="cuda")            # 12 billion numbers from a seed
    pipe = random_pipeline(spec)                                # its modules still on meta; tokenizers that tell texts apart

Weights are drawn so that signals keep their size: matrices and convolutions normal with deviation 1
/ sqrt(fan-in), embeddings with 1, scales of norms 1, biases 0, other vectors 0.02. Outputs are
finite and differ from prompt to prompt; pictures mean nothing. The same seed and device give the
same weights.

What it does not do: weights that make a trial's scores worth reading.
"""

import hashlib
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sensitivity.errors import PipelineError
from sensitivity.models.hub import quiet
from sensitivity.models.model_index import component_class, config_folder, read_json
from sensitivity.models.shape_mode import is_meta
from sensitivity.models.skeleton import build_component, build_skeleton
from sensitivity.models.stand_in_tokenizer import StandInTokenizer
from sensitivity.spec.study_spec import StudySpec

VECTOR = 0.02


def random_component(
    spec: StudySpec, *, component: str | None = None, device: str, seed: int = 0
) -> nn.Module:
    """One component at full size with random weights that give finite outputs, in bf16, eval, no
    gradients. Buffers are what the constructor computes.

    Raises:
        PipelineError: no config files, or no such component.
    """
    module = build_component(spec, component)
    generator = torch.Generator(device=device).manual_seed(seed)
    made: dict[int, nn.Parameter] = {}
    for child in module.modules():
        for name, parameter in child._parameters.items():
            if parameter is None:
                continue
            if id(parameter) not in made:
                made[id(parameter)] = nn.Parameter(
                    _random(child, name, parameter, device, generator), requires_grad=False
                )
            child._parameters[name] = made[id(parameter)]
        for name, buffer in child._buffers.items():
            if buffer is not None:
                child._buffers[name] = (
                    torch.zeros(buffer.shape, dtype=buffer.dtype, device=device)
                    if is_meta(buffer)
                    else buffer.to(device)
                )
    return module


def _random(
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
    """The study's pipeline from its config files: modules on meta, a real scheduler, real
    tokenizers where their files are there.

    Elsewhere stand-ins whose ids depend on the text; a prompt of the study has
    `pricing.prompt_tokens`, any other text `negative_prompt_tokens`.

    Raises:
        PipelineError: as `build_skeleton`.
    """
    pipe, folder = build_skeleton(spec), config_folder(spec)
    pipe.__class__ = type(pipe).__mro__[
        1
    ]  # the skeleton's own class stays on the CPU, this one goes where its modules are
    index = read_json(folder / "model_index.json")
    for name, part in pipe.components.items():
        if not isinstance(part, StandInTokenizer):
            continue
        library, class_name = index[name]
        if _has_vocabulary(folder / name):
            setattr(pipe, name, _real_tokenizer(folder / name, library, class_name))
        else:
            part.tell_apart((*spec.prompts.search, *spec.prompts.held_out))
    return pipe


def _has_vocabulary(folder: Path) -> bool:
    """Whether a tokenizer's folder holds more than settings."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    return bool(
        names & {"tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model"}
    )


def _real_tokenizer(folder: Path, library: str, class_name: str) -> Any:
    cls: Any = component_class(library, class_name)
    try:
        with quiet():
            return cls.from_pretrained(str(folder), local_files_only=True)
    except Exception as error:  # every class may refuse its files in its own way
        reason = (str(error).strip().splitlines() or ["no reason given"])[0][:300]
        raise PipelineError(
            f"{folder} cannot be loaded as a {class_name} ({type(error).__name__}: {reason});"
            " allowed are the files that `save_pretrained` writes: write them again, or take all"
            " but tokenizer_config.json out for a stand-in"
        ) from error


def random_digest(spec: StudySpec, seed: int) -> str:
    """What identifies random weights: the seed and every config file, as sha256."""
    folder = config_folder(spec)
    digest = hashlib.sha256(f"random weights, seed {seed}\n".encode())
    for path in sorted(folder.rglob("*.json")):
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()
