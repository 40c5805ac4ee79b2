"""A component's class is of one of five kinds, or it is not loaded."""

import diffusers
import pytest
import transformers
from diffusers.guiders import ClassifierFreeGuidance
from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
from torch import nn

from sensitivity.models.component_classes import Kind, kind_of


@pytest.mark.parametrize(
    ("cls", "kind"),
    [
        (diffusers.FluxTransformer2DModel, Kind.MODULE),
        (transformers.T5EncoderModel, Kind.MODULE),
        (ChatGLMModel, Kind.MODULE),
        (diffusers.DDIMScheduler, Kind.SCHEDULER),
        (transformers.CLIPTokenizer, Kind.TOKENIZER),
        (ChatGLMTokenizer, Kind.TOKENIZER),
        (transformers.AutoTokenizer, Kind.TOKENIZER),
        (transformers.Qwen2VLProcessor, Kind.PROCESSOR),
        (transformers.CLIPImageProcessor, Kind.PROCESSOR),
        (transformers.ClapFeatureExtractor, Kind.PROCESSOR),
        (ClassifierFreeGuidance, Kind.GUIDER),
        (transformers.AutoModel, None),
        (transformers.AutoConfig, None),
        (transformers.Trainer, None),
        (diffusers.DiffusionPipeline, None),
        (diffusers.FluxPipeline, None),
        (nn.Linear, None),
        (dict, None),
    ],
)
def test_kinds_are_told_by_base_classes(cls: type, kind: Kind | None) -> None:
    """Classes of diffusers' pipelines count; what chooses a class counts for tokenizers and
    processors alone.
    """
    assert kind_of(cls) is kind
