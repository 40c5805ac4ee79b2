"""What does a pipeline look like without its weights?

`build_skeleton` builds the study's pipeline from its config files, every parameter on meta.

    pipe = build_skeleton(resolve_spec("flux1-dev"))    # 12 billion parameters, no memory for them
    build_component(resolve_spec("flux1-dev"), "vae")   # one component alone

Each component is built by its own class from its own `config.json`. Schedulers are real,
tokenizers and processors are stand-ins, and safety checkers are left out. Buffers and tables that
constructors compute are real, up to `meta_tensors.REAL_ELEMENTS`. Config files come from where
`config_files.config_folder` finds them. No weight file is opened.

What it does not do: classes of remote code, GGUF and other single files.
"""

import inspect
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sensitivity.core.words import first_line
from sensitivity.errors import PipelineError
from sensitivity.models.config_files import INDEX_FILE, read_config
from sensitivity.models.hub import quiet
from sensitivity.models.meta_module import build_on_meta
from sensitivity.models.meta_tensors import REAL_ELEMENTS
from sensitivity.models.model_index import ComponentEntry, ModelIndex, unknown_component
from sensitivity.models.stand_in_tokenizer import StandInTokenizer
from sensitivity.models.vae import enable_vae_tiling
from sensitivity.spec.study_spec import StudySpec

CLIP_TOKENS, OTHER_TOKENS = 77, 512
"""Tokens of a padded text where no config says: CLIP's positions, and T5's usual limit."""
UNLIMITED_TOKENS = 10**6
"""A `model_max_length` from here on means no limit: transformers writes 1e30 then."""
GENERIC_CLASS = "Transformer2DModel"
"""Older diffusers wrote this class for transformers that have classes of their own by now. The
installed diffusers still reads it.
"""


def build_skeleton(spec: StudySpec) -> Any:
    """The study's pipeline on meta. Tensors that the pipeline itself makes are on the CPU.

    Raises:
        PipelineError: no config files can be had, or they are no pipeline that the installed
            diffusers knows.
        SpecError: the study decodes in tiles, and the pipeline's VAE cannot.
    """
    index = ModelIndex.of(spec)
    with quiet():
        cls = index.pipeline_class()
        accepted = inspect.signature(cls.__init__).parameters
        built = {
            name: _component(spec, index, name, entry, REAL_ELEMENTS)
            for name, entry in index.components.items()
            if name in accepted
        }
        given = {**dict.fromkeys(index.absent), **index.arguments, **built}
        required = [
            name
            for name, p in accepted.items()
            if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD and name != "self"
        ]
        parts = dict.fromkeys(required) | {k: x for k, x in given.items() if k in accepted}
        try:
            pipe = _on_cpu(cls)(**parts)
        except Exception as error:  # a pipeline's constructor may raise anything
            raise PipelineError(
                f"{index.folder} is no complete {cls.__name__} ({type(error).__name__}:"
                f" {first_line(error, most=300)}); expected a folder that"
                " `pipeline.save_pretrained` wrote, with or without weights: give each component"
                " its config.json"
            ) from error
        pipe.set_progress_bar_config(disable=True)
    tokenizer = parts.get("tokenizer")
    if isinstance(tokenizer, StandInTokenizer):
        tokenizer.dropped_tokens = _dropped_tokens(pipe)
    enable_vae_tiling(spec, pipe)
    return pipe


def build_component(spec: StudySpec, component: str | None = None) -> nn.Module:
    """One component on meta, `model.component` by default. Its buffers are real, however large.

    Raises:
        PipelineError: no config files can be had, or there is no such module.
    """
    index = ModelIndex.of(spec)
    name = spec.model.component if component is None else component
    entry = index.components.get(name)
    with quiet():
        part = None if entry is None else _component(spec, index, name, entry, math.inf)
    if not isinstance(part, nn.Module):
        raise unknown_component(spec, index.pipeline, name, list(index.modules))
    return part


def _on_cpu(cls: Any) -> Any:
    """A subclass of the same name that makes its latents and timesteps on the CPU."""
    cpu = property(lambda _self: torch.device("cpu"))
    return type(
        cls.__name__,
        (cls,),
        {"_execution_device": cpu, "device": cpu, "__module__": cls.__module__},
    )


def _component(
    spec: StudySpec, index: ModelIndex, name: str, entry: ComponentEntry, real_elements: float
) -> Any:
    """A module on meta, a stand-in for a tokenizer or processor, or a scheduler."""
    folder = index.folder / name
    if entry.is_text:
        return _stand_in(spec, folder, entry.class_name)
    cls = entry.load_class()
    if issubclass(cls, nn.Module):
        _check_class(folder, entry.class_name)
    try:
        if issubclass(cls, nn.Module):
            return build_on_meta(cls, folder, real_elements=real_elements)
        return cls.from_pretrained(str(folder))
    except Exception as error:  # every class refuses a config in its own way
        raise PipelineError(
            f"{name} ({entry.class_name}) cannot be built from {folder} ({type(error).__name__}:"
            f" {first_line(error, most=300)}); expected the config that `save_pretrained` writes:"
            " write it again, or correct it"
        ) from error


def _check_class(folder: Path, class_name: str) -> None:
    """Raise PipelineError where a component's config is that of another class than the index names.

    Configs of transformers name no class here.
    """
    file = folder / "config.json"
    found = read_config(file).get("_class_name", class_name) if file.is_file() else class_name
    if found != class_name and GENERIC_CLASS not in (found, class_name):
        raise PipelineError(
            f"{INDEX_FILE} names {class_name} for {folder.name}, and {file} is of {found!r};"
            " expected the same class in both: put the component's own config.json there, or"
            f" correct {INDEX_FILE}"
        )


def _stand_in(spec: StudySpec, folder: Path, class_name: str) -> StandInTokenizer:
    """A stand-in with the lengths that the study declares.

    Padded texts have the length that the tokenizer's config states; without it, a CLIP encoder's
    number of positions, or `OTHER_TOKENS`.
    """
    file = folder / "tokenizer_config.json"
    limit = read_config(file).get("model_max_length") if file.is_file() else None
    default = OTHER_TOKENS
    if "CLIP" in class_name:
        encoder = folder.parent / folder.name.replace("tokenizer", "text_encoder") / "config.json"
        positions = (
            read_config(encoder).get("max_position_embeddings") if encoder.is_file() else None
        )
        default = positions if isinstance(positions, int) else CLIP_TOKENS
    return StandInTokenizer(
        prompt_tokens=spec.pricing.prompt_tokens,
        negative_prompt_tokens=spec.pricing.negative_prompt_tokens,
        max_length=limit if isinstance(limit, int) and 0 < limit < UNLIMITED_TOKENS else default,
    )


def _dropped_tokens(pipe: Any) -> int:
    """How many tokens of its prompt template the pipeline drops after encoding.

    Pipelines like QwenImage have the number as an attribute, those like HunyuanVideo as a default
    of their call.
    """
    template = inspect.signature(type(pipe).__call__).parameters.get("prompt_template")
    start = getattr(pipe, "prompt_template_encode_start_idx", None)
    if start is None and template is not None and isinstance(template.default, dict):
        start = template.default.get("crop_start")
    return start if isinstance(start, int) else 0
