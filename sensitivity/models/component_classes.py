"""Which classes may a pipeline's components have?

    kind_of(diffusers.FluxTransformer2DModel)       # Kind.MODULE
    kind_of(transformers.AutoModel)                 # None: it may be anything
    kind_of(diffusers.FluxPipeline)                 # None: a pipeline inside of a pipeline

`model_index.json` may name any class of diffusers and transformers, and many of them load what
their folder holds in ways of their own. Five kinds are loaded, told apart by their base classes:

- modules: models of diffusers and transformers, whose weights are safetensors;
- schedulers, tokenizers, processors and guiders: what is made from configs and vocabularies.

What it does not do: load a class (`model_index`), or trust a name.
"""

from enum import StrEnum
from typing import Any


class Kind(StrEnum):
    """What a component is."""

    MODULE = "module"
    SCHEDULER = "scheduler"
    TOKENIZER = "tokenizer"
    PROCESSOR = "processor"
    GUIDER = "guider"


BASES = (
    (Kind.MODULE, "diffusers", "ModelMixin"),
    (Kind.MODULE, "transformers", "PreTrainedModel"),
    (Kind.SCHEDULER, "diffusers", "SchedulerMixin"),
    (Kind.TOKENIZER, "transformers", "PreTrainedTokenizerBase"),
    (Kind.PROCESSOR, "transformers", "ProcessorMixin"),
    (Kind.PROCESSOR, "transformers", "ImageProcessingMixin"),
    (Kind.PROCESSOR, "transformers", "FeatureExtractionMixin"),
    (Kind.GUIDER, "diffusers", "BaseGuidance"),
)
"""(kind, library, base class)."""
CHOOSERS = (
    (Kind.TOKENIZER, "AutoTokenizer"),
    (Kind.PROCESSOR, "AutoProcessor"),
    (Kind.PROCESSOR, "AutoImageProcessor"),
    (Kind.PROCESSOR, "AutoFeatureExtractor"),
)
"""(kind, class of transformers that chooses one of that kind by its config)."""
EXPECTED = (
    "a model of diffusers or transformers by its own class, a scheduler, a tokenizer, a processor"
    " or a guider"
)
"""The kinds in words, for messages."""


def kind_of(cls: type) -> Kind | None:
    """The kind of components that a class makes; None for any other class, which is not loaded."""
    import transformers
    from torch import nn

    for kind, name in CHOOSERS:
        if cls is getattr(transformers, name, None):
            return kind
    for kind, library, name in BASES:
        base = _base(library, name)
        is_module = kind is Kind.MODULE
        if base and issubclass(cls, base) and is_module == issubclass(cls, nn.Module):
            return kind
    return None


def _base(library: str, name: str) -> Any:
    """A base class, or None where the installed version has none."""
    import diffusers
    import transformers
    from transformers.image_processing_base import ImageProcessingMixin

    if name == "ImageProcessingMixin":  # transformers does not export it
        return ImageProcessingMixin
    if name == "BaseGuidance":
        return getattr(getattr(diffusers, "guiders", None), name, None)
    return getattr(diffusers if library == "diffusers" else transformers, name, None)
