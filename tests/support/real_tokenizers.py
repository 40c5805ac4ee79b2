"""Real tokenizers and processors of transformers, whose vocabulary is made here.

    tokenizer = word_tokenizer()                # a fast one, with a chat template
    word_processor()                            # a Qwen2_5_VLProcessor around it

They split as Qwen's do before they merge: each everyday word, sign and line feed is one token.
"""

from typing import Any

import transformers
from tokenizers import Regex, Tokenizer, models, pre_tokenizers

CONTROL = (
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<think>",
    "</think>",
)
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen's tokenizers split a text (its published tokenizer.json)."""
CHAT = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.content is string %}{{- message.content }}"
    "{%- else %}{%- for part in message.content %}{%- if part.type == 'text' %}{{- part.text }}"
    "{%- endif %}{%- endfor %}{%- endif %}{{- '<|im_end|>\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}"
    "{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)
"""The parts of Qwen 3's chat template that a text without tools goes through."""


def word_tokenizer(max_length: int = 512) -> Any:
    """A fast tokenizer: id 1 for each token but the control tokens."""
    made = Tokenizer(models.WordLevel({"<pad>": 0, "<unk>": 1, "</s>": 2}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split(Regex(SPLIT), "isolated")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="</s>",
        additional_special_tokens=list(CONTROL),
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        chat_template=CHAT,
    )


def word_processor(max_length: int = 512) -> Any:
    """A processor of texts, pictures and clips."""
    tokenizer = word_tokenizer(max_length)
    tokenizer.image_token, tokenizer.video_token = "<|image_pad|>", "<|video_pad|>"
    return transformers.Qwen2_5_VLProcessor(
        image_processor=transformers.Qwen2VLImageProcessor(),
        tokenizer=tokenizer,
        video_processor=transformers.Qwen2VLVideoProcessor(),
        chat_template=CHAT,
    )
