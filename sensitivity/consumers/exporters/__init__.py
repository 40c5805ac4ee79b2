"""Recipes in the forms that other tools read.

    text = get_exporter("torchao").export(recipe)       # proved to mean the recipe
    config = to_diffusers(recipe)                       # an object, for this machine

Each consumer has one exporter. It writes the text, reads it back as the consumer does, and compares
the result with the recipe. Importing this package imports neither torch, torchao nor diffusers.
"""

from collections.abc import Mapping
from types import MappingProxyType

from sensitivity.consumers.exporters._base import Exporter
from sensitivity.consumers.exporters.comfyui import ComfyuiExporter
from sensitivity.consumers.exporters.compressed_tensors import CompressedTensorsExporter
from sensitivity.consumers.exporters.convert_to_quant import ConvertToQuantExporter
from sensitivity.consumers.exporters.diffusers import DiffusersExporter, to_diffusers
from sensitivity.consumers.exporters.modelopt import ModelOptExporter
from sensitivity.consumers.exporters.sdnq import SdnqExporter
from sensitivity.consumers.exporters.sglang import SglangExporter
from sensitivity.consumers.exporters.skip_list import SkipListExporter
from sensitivity.consumers.exporters.torchao import TorchaoExporter, to_torchao
from sensitivity.consumers.exporters.vllm_omni import VllmOmniExporter
from sensitivity.core.words import did_you_mean
from sensitivity.errors import RecipeError

__all__ = [
    "EXPORTERS",
    "ComfyuiExporter",
    "CompressedTensorsExporter",
    "ConvertToQuantExporter",
    "DiffusersExporter",
    "Exporter",
    "ModelOptExporter",
    "SdnqExporter",
    "SglangExporter",
    "SkipListExporter",
    "TorchaoExporter",
    "VllmOmniExporter",
    "get_exporter",
    "to_diffusers",
    "to_torchao",
]

EXPORTERS: Mapping[str, type[Exporter]] = MappingProxyType(
    {
        cls.name: cls
        for cls in (
            SkipListExporter,
            TorchaoExporter,
            DiffusersExporter,
            ModelOptExporter,
            CompressedTensorsExporter,
            VllmOmniExporter,
            SglangExporter,
            ComfyuiExporter,
            ConvertToQuantExporter,
            SdnqExporter,
        )
    }
)
"""{name: exporter class}."""


def get_exporter(name: str, *, form: str = "") -> Exporter:
    """The exporter called `name`.

    Args:
        name: of the consumer, such as "torchao".
        form: one of its forms, such as "filter-fn"; "" is its first.

    Raises:
        RecipeError: there is none, or it has no such form; the message has the closest names.
    """
    if name in EXPORTERS:
        return EXPORTERS[name](form=form)
    hint = did_you_mean(
        name.lower().replace("_", "-"), EXPORTERS, otherwise="name one of them", cutoff=0.4
    )
    raise RecipeError(
        f"found the exporter {name!r}; expected one of {', '.join(EXPORTERS)}; {hint}"
    )
