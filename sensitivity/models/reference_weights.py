"""May these weights serve as the bf16 reference?

    check_reference(spec, index, denoisers)                 # by configs: before any download
    check_reference(spec, index, denoisers, files)          # by headers: before any weight is read
    describe_quantized_module(pipe.transformer)             # of a pipeline that is loaded already

Every score compares with what the model generates in bf16. The denoiser's weights must be whole for
that: neither quantized (`quantized_weights`) nor wrapped by adapters (`adapters`). Of the other
components, which are the same in the reference and in every trial, plain float8 values are loaded,
and a warning says so; what needs a quantizer's own kernels is refused, since bf16 arithmetic would
read its codes as values.
"""

import logging
from collections.abc import Collection, Mapping

import torch
from torch import nn

from sensitivity.core.words import printable
from sensitivity.errors import PipelineError
from sensitivity.models.adapters import NEXT_STEP, describe_stored_adapters
from sensitivity.models.model_index import ModelIndex
from sensitivity.models.quantized_weights import (
    Quantized,
    base_model,
    describe_config,
    describe_quantized,
)
from sensitivity.models.weight_files import ComponentFiles
from sensitivity.spec.study_spec import StudySpec

log = logging.getLogger(__name__)

WHOLE = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""dtypes of weights that are not quantized."""
SHARDED = ("DTensor", "ShardedTensor")
"""Classes of weights that are spread over devices, not quantized."""


def check_reference(
    spec: StudySpec,
    index: ModelIndex,
    denoisers: Collection[str],
    files: Mapping[str, ComponentFiles] | None = None,
) -> None:
    """Check the stored weights of every component.

    Args:
        spec: the study.
        index: the index of its pipeline's folder.
        denoisers: the components that are searched, and others of their class.
        files: {component: its weight files}; None looks at configs alone.

    Raises:
        PipelineError: the denoiser's weights are quantized, or need a quantizer in another
            component, or adapters are beside them.
    """
    whole = describe_config(index.folder)
    for name in index.modules:
        folder = index.folder / name
        weights = files[name].files if files is not None and name in files else ()
        if found := describe_stored_adapters(folder, weights):
            raise PipelineError(
                f"{folder} holds {found}; expected the model's own weights alone: {NEXT_STEP}"
            )
        quantized = describe_quantized(folder, weights)
        if quantized is None and whole is not None and name in denoisers:
            quantized = Quantized(what=whole)
        if quantized is None:
            continue
        if quantized.is_plain and name not in denoisers:
            log.warning(
                "%s holds %s: they are loaded as they are, in the bf16 reference and in every"
                " trial alike",
                folder,
                quantized.what,
            )
            continue
        raise _refusal(spec, index, name, quantized, is_denoiser=name in denoisers)


def describe_quantized_module(module: nn.Module) -> str | None:
    """How a loaded model is quantized, with the first part that shows it; None if it is not.

    It is if a quantizer of diffusers or transformers made it, if a weight of a Linear has a dtype
    of few bits or is a tensor class of its own, or if the Linear holds a quantizer's parts.
    """
    quantizer = getattr(module, "hf_quantizer", None)
    if quantizer is not None:
        return f"by {type(quantizer).__name__}"
    for fqn, part in module.named_modules():
        kind = f"{type(part).__module__}.{type(part).__name__}"
        if fqn.endswith(("weight_quantizer", "input_quantizer")):
            return f"{fqn} is a {kind}"
        if isinstance(part, nn.Linear) and (found := _odd_weight(part)):
            return f"{fqn} has {found}"
    return None


def _odd_weight(linear: nn.Linear) -> str | None:
    """What is odd about a Linear's weight: its dtype or its class; None if nothing is."""
    weight = linear.weight
    if not isinstance(weight, torch.Tensor):
        return f"a weight of class {type(weight).__name__}"
    if weight.dtype not in WHOLE:
        return f"a weight in {weight.dtype}"
    kind = type(weight.data) if type(weight) is nn.Parameter else type(weight)
    plain = kind in (torch.Tensor, nn.Parameter) or kind.__name__ in SHARDED
    return None if plain else f"a weight of class {kind.__name__}"


def _refusal(
    spec: StudySpec, index: ModelIndex, name: str, found: Quantized, *, is_denoiser: bool
) -> PipelineError:
    folder = index.folder / name
    base = base_model((index.folder, folder), but=spec.model.hub)
    of = "its model card names it" if base is None else f"it seems to be {base}"
    if is_denoiser:
        return PipelineError(
            f"{printable(str(folder))} holds weights that are quantized already: {found.what};"
            " expected bf16, fp16 or fp32 weights, since what they generate is the reference of"
            f" every score: name the model that it was made of ({of})"
        )
    return PipelineError(
        f"{printable(str(folder))} holds weights that are quantized already: {found.what}; expected"
        f" bf16, fp16 or fp32 weights, since only those are loaded: put the {name} folder of the"
        f" model that it was made of in its place ({of})"
    )
