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
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sensitivity.core.words import first_line
from sensitivity.errors import PipelineError, SensitivityError
from sensitivity.models.component_classes import Kind, kind_of
from sensitivity.models.config_files import INDEX_FILE, check_component_files, read_config
from sensitivity.models.hub import quiet
from sensitivity.models.meta_module import build_on_meta
from sensitivity.models.meta_tensors import REAL_ELEMENTS
from sensitivity.models.missing_packages import lacks_package, missing_package
from sensitivity.models.model_index import ComponentEntry, ModelIndex, unknown_component
from sensitivity.models.only_data import only_data
from sensitivity.models.pipeline_parts import load_data_part, make_pipeline
from sensitivity.models.token_counts import TokenCounts
from sensitivity.models.vae import enable_vae_tiling
from sensitivity.spec.study_spec import StudySpec

CLIP_TOKENS, OTHER_TOKENS = 77, 512
"""Tokens of a padded text where no config says: CLIP's positions, and T5's usual limit."""
UNLIMITED_TOKENS = 10**6
"""A `model_max_length` from here on means no limit: transformers writes 1e30 then."""
DROPPED = re.compile(r"_*\w*(start_idx|begin_id|drop_idx|crop_start)", re.IGNORECASE)
"""Names under which pipelines keep the number of their template's first tokens, which they drop."""
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
    index, counts = ModelIndex.of(spec), _token_counts(spec)
    with quiet():
        cls = index.pipeline_class()
    accepted = inspect.signature(cls.__init__).parameters
    parts = {
        name: _component(index, name, entry, counts, REAL_ELEMENTS)
        for name, entry in index.components.items()
        if name in accepted
    }
    pipe = make_pipeline(index, parts, cls=_on_cpu(cls), complete=False)
    pipe.set_progress_bar_config(disable=True)
    counts.dropped = _dropped_tokens(pipe)
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
        counts = _token_counts(spec)
        part = None if entry is None else _component(index, name, entry, counts, math.inf)
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
    index: ModelIndex, name: str, entry: ComponentEntry, counts: TokenCounts, real_elements: float
) -> Any:
    """A module on meta, a stand-in for a tokenizer or processor, or a scheduler."""
    folder = index.folder / name
    if entry.is_text:
        return _stand_in(counts, folder, entry)
    cls = entry.module_class()
    if cls is None:
        if kind_of(entry.load_class()) in (Kind.TOKENIZER, Kind.PROCESSOR):
            return _stand_in(counts, folder, entry)
        return load_data_part(index, name)
    _check_class(folder, entry.class_name)
    check_component_files(folder)
    try:
        with quiet(), only_data():
            return build_on_meta(cls, folder, real_elements=real_elements)
    except SensitivityError:
        raise
    except Exception as error:  # every class refuses a config in its own way
        if missing_package(error) is not None:
            raise lacks_package(entry.class_name, error) from error
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


def _token_counts(spec: StudySpec) -> TokenCounts:
    """The lengths of the study's texts."""
    stated, negative = spec.pricing.model_fields_set, spec.settings.get("negative_prompt")
    return TokenCounts(
        prompt_tokens=spec.pricing.prompt_tokens,
        negative_prompt_tokens=spec.pricing.negative_prompt_tokens,
        negative_prompt=negative if isinstance(negative, str) else None,
        is_stated=("prompt_tokens" in stated, "negative_prompt_tokens" in stated),
    )


def _stand_in(counts: TokenCounts, folder: Path, entry: ComponentEntry) -> Any:
    """A stand-in with the lengths that the study declares.

    Padded texts have the length that the tokenizer's config states; without it, a CLIP encoder's
    number of positions, or `OTHER_TOKENS`.
    """
    from sensitivity.models.stand_in_tokenizer import make_stand_in

    file = folder / "tokenizer_config.json"
    limit = read_config(file).get("model_max_length") if file.is_file() else None
    default = OTHER_TOKENS
    if "CLIP" in entry.class_name:
        encoder = folder.parent / folder.name.replace("tokenizer", "text_encoder") / "config.json"
        positions = (
            read_config(encoder).get("max_position_embeddings") if encoder.is_file() else None
        )
        default = positions if isinstance(positions, int) else CLIP_TOKENS
    length = limit if isinstance(limit, int) and 0 < limit < UNLIMITED_TOKENS else default
    return make_stand_in(entry.class_name, counts, length, place_of=entry.find_class())


def _dropped_tokens(pipe: Any) -> int:
    """How many tokens of its prompt template the pipeline drops after encoding; 0 for none.

    Pipelines have the number as an attribute (QwenImage), in a default of their call (HunyuanVideo)
    or as a constant of their module (Kandinsky 6). Where they have several, for templates with
    pictures, the first is that of text alone.
    """
    return next(_numbers_dropped(pipe), 0)


def _numbers_dropped(pipe: Any) -> Iterator[int]:
    call = inspect.signature(type(pipe).__call__).parameters.values()
    defaults = [p.default for p in call if p.name == "prompt_template"]
    module: Any = inspect.getmodule(type(pipe).__mro__[1])
    for names in (vars(pipe), *(x for x in defaults if isinstance(x, dict)), vars(module)):
        for name, value in names.items():
            if DROPPED.fullmatch(name):
                first = next(iter(value.values()), None) if isinstance(value, dict) else value
                if type(first) is int and first > 0:
                    yield first
