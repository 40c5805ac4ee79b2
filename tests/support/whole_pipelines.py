"""Small pipelines of many architectures with random weights, as plain diffusers saves them:

`save_whole("sana", folder)`.

"ltx2" and "wan" are those of `clip_pipelines`, all others those of `toy_pipelines`. The classes'
own constructors initialise the weights. Tokenizers are real ones with a vocabulary of letters, so
texts of different lengths have different numbers of tokens. Pictures mean nothing, but they change
with the prompt, and when a Linear is quantized.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import nn

from support.clip_pipelines import save_ltx2, save_wan
from support.toy_pipelines import TOYS

LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
FRAMES = {"height": 64, "width": 64, "num_frames": 5, "max_sequence_length": 16}


def save_whole(name: str, folder: Path) -> dict[str, Any]:
    """Write the pipeline as `save_pretrained` does, in bf16.

    Returns settings at which a picture takes little time.
    """
    if name == "ltx2":
        save_ltx2(folder)
        return FRAMES | {"frame_rate": 8.0}
    if name == "wan":
        save_wan(folder)
        return FRAMES
    pipe, settings = _toy(name)
    pipe.to(dtype=torch.bfloat16).save_pretrained(folder)
    return settings


def _toy(name: str) -> tuple[Any, dict[str, Any]]:
    """A toy with random weights and real tokenizers, and its settings."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        pipeline, tokenizers, parts, settings = TOYS[name]()
        made = {
            part: getattr(transformers, value[0])(value[1]) if isinstance(value, tuple) else value
            for part, value in parts.items()
        }
        made |= {
            part: TOKENIZERS[kind](made[part.replace("tokenizer", "text_encoder")])
            for part, kind in tokenizers.items()
        }
        return getattr(diffusers, pipeline)(**made), settings


def _clip(encoder: nn.Module) -> Any:
    vocab = ["<|startoftext|>", "!", "<|endoftext|>", *LETTERS, *(f"{c}</w>" for c in LETTERS)]
    length = encoder.config.max_position_embeddings  # type: ignore[union-attr]
    return transformers.CLIPTokenizer(vocab=_numbered(vocab), merges=[], model_max_length=length)


def _t5(_encoder: nn.Module) -> Any:
    pieces = [
        ("<pad>", 0.0),
        ("</s>", 0.0),
        ("<unk>", 0.0),
        ("▁", -2.0),
        *((c, -4.0) for c in LETTERS),
    ]
    return transformers.T5TokenizerFast(vocab=pieces, extra_ids=0, model_max_length=64)


def _gemma(_encoder: nn.Module) -> Any:
    return transformers.GemmaTokenizer(
        vocab=_numbered(["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *LETTERS]), merges=[]
    )


def _llama(_encoder: nn.Module) -> Any:
    return transformers.LlamaTokenizer(
        vocab=_numbered(["<unk>", "<s>", "</s>", "▁", *LETTERS]), merges=[], pad_token="</s>"
    )


def _qwen(_encoder: nn.Module) -> Any:
    made = transformers.Qwen2Tokenizer(
        vocab=_numbered(["<|endoftext|>", "Ġ", "Ċ", ".", ",", *LETTERS]), merges=[]
    )
    made.chat_template = TEMPLATE
    return made


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate(tokens)}


TOKENIZERS: dict[str, Callable[[nn.Module], Any]] = {
    "CLIPTokenizer": _clip,
    "T5TokenizerFast": _t5,
    "GemmaTokenizerFast": _gemma,
    "LlamaTokenizerFast": _llama,
    "Qwen2Tokenizer": _qwen,
}
