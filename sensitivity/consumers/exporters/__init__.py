"""Recipes in the forms that other tools read:

`get_exporter("torchao").export(recipe)` is a text, proved to mean the recipe.

One file a consumer. Each writes the text, then reads it back the way the consumer does and compares
what comes out with the recipe (`_base.Exporter`). No exporter imports torch, torchao or diffusers
before it is used.
"""

import difflib
from collections.abc import Mapping
from types import MappingProxyType

from sensitivity.consumers.exporters._base import Exporter
from sensitivity.consumers.exporters.comfyui import ComfyuiExporter
from sensitivity.consumers.exporters.compressed_tensors import CompressedTensorsExporter
from sensitivity.consumers.exporters.diffusers import DiffusersExporter
from sensitivity.consumers.exporters.modelopt import ModelOptExporter
from sensitivity.consumers.exporters.sglang import SglangExporter
from sensitivity.consumers.exporters.skip_list import SkipListExporter
from sensitivity.consumers.exporters.torchao import TorchaoExporter
from sensitivity.consumers.exporters.vllm_omni import VllmOmniExporter
from sensitivity.errors import RecipeError

__all__ = [
    "EXPORTERS",
    "ComfyuiExporter",
    "CompressedTensorsExporter",
    "DiffusersExporter",
    "Exporter",
    "ModelOptExporter",
    "SglangExporter",
    "SkipListExporter",
    "TorchaoExporter",
    "VllmOmniExporter",
    "get_exporter",
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
        )
    }
)
"""Name on the command line -> exporter class."""


def get_exporter(name: str) -> Exporter:
    """The exporter called `name`, with its default options; construct the class for others.

    Raises:
        RecipeError: there is none; the message has the closest name.
    """
    if name in EXPORTERS:
        return EXPORTERS[name]()
    close = difflib.get_close_matches(name.lower().replace("_", "-"), EXPORTERS, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}?" if close else "name one of them"
    raise RecipeError(f"found the exporter {name!r}; allowed are {', '.join(EXPORTERS)}; {hint}")
