"""Which components of a pipeline are its denoisers?

Classes and forwards decide, not names: a denoiser is of diffusers, its forward takes a timestep,
and it neither encodes nor decodes. Only where no component is such do usual names count.

    find_denoisers(spec, ModelIndex.of(spec))       # {"transformer": FluxTransformer2DModel}
"""

import inspect
import re

from torch import nn

from sensitivity.errors import PipelineError
from sensitivity.models.hub import quiet
from sensitivity.models.model_index import ModelIndex
from sensitivity.spec.study_spec import StudySpec

USUAL_NAMES = ("transformer", "unet", "prior", "decoder")
"""Usual names of denoisers, a pipeline's main one first."""
TIME = re.compile(r"t|r|time|.*timesteps?(_.*)?|sigmas?")
"""Names of the argument that says how noisy a denoiser's input is."""


def find_denoisers(spec: StudySpec, index: ModelIndex) -> dict[str, type[nn.Module]]:
    """{component: class} of the pipeline's denoisers, in the order of its index.

    Raises:
        PipelineError: there is none.
    """
    modules: dict[str, type[nn.Module]] = {}
    with quiet():
        for name, entry in index.components.items():
            if entry.library == "transformers":
                continue  # text encoders
            if (cls := entry.module_class()) is not None:
                modules[name] = cls
    found = {name: cls for name, cls in modules.items() if _denoises(cls)}
    if not found:  # a denoiser that needs no timestep
        found = {
            name: cls for name, cls in modules.items() if name in USUAL_NAMES and not _codes(cls)
        }
    if not found:
        raise PipelineError(
            f"{spec.name}: {index.pipeline} has no denoiser among"
            f" {', '.join(modules) or 'its components'}; expected a pipeline of diffusers with a"
            " component whose forward takes a timestep: name another, or write a study TOML with"
            " `model.component` (studies/README.md)"
        )
    return found


def _denoises(cls: type[nn.Module]) -> bool:
    """Whether a class of diffusers is a denoiser.

    A ControlNet, which only helps one, is not.
    """
    takes_time = any(TIME.fullmatch(name) for name in inspect.signature(cls.forward).parameters)
    return takes_time and not _codes(cls) and "controlnet" not in cls.__name__.lower()


def _codes(cls: type[nn.Module]) -> bool:
    return hasattr(cls, "encode") or hasattr(cls, "decode")
