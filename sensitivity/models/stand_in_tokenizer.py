"""What takes the place of a tokenizer or processor whose files are missing?

`StandInTokenizer` gives token ids of the right number, without meaning. The shapes of a run depend
on how many tokens a text has, and not on which.

    tokenizer = StandInTokenizer(TokenCounts(prompt_tokens=14, negative_prompt_tokens=6))
    tokenizer([PROMPT, ""], padding=True, return_tensors="pt")["input_ids"]     # (2, 14)
    StandInProcessor(tokenizer)(text=PROMPT)["input_ids"]                       # a batch of one

Method. Both are transformers' own classes, so all that a pipeline may call on a tokenizer or a
processor is there and answers as it does with files: `pad`, `apply_chat_template`, padding and
cutting on either side, types and keys of what is returned. Only how a text is split is ours
(`token_counts`). Chats are written in ChatML, the form of Qwen's models.

Conventions. Ids are 1 where there is a token. After `tell_apart` they are random numbers below 16,
seeded with the text; every encoder's vocabulary has these. No token is added to a text: those at
its start and end are among the ones that are counted.

What it does not do: tokenize text, or process pictures and sound.
"""

import math
import random
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizer, ProcessorMixin

from sensitivity.models.token_counts import PROMPT, TokenCounts

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{{ part['text'] if 'text' in part else '' }}{% endfor %}"
    "{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)
"""The chat template: that of Qwen's models, without its tools and its default system message."""
VOCABULARY = ("<pad>", "<s>", "</s>", "<unk>", "<image>")
"""The tokens that have a meaning, by id."""
VOCABULARY_SIZE = 16
CONTROL = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")
"""A token that is no text, such as `<|image_pad|>`. None occurs in the ids of a text."""
OF_PICTURES = re.compile("image|img|vision|video", re.IGNORECASE)


INPUT_NAMES = ("input_ids", "attention_mask")
"""What a tokenizer returns, unless its class says otherwise."""
GRID_PIXELS, PREVIEW = 32, 16
"""Pixels of a picture token's side, and rows of a square preview (transformers'
`GlmImageProcessor`).
"""
GENERATED = "</s>"
"""Which token `generated_ids` gives."""


class StandInTokenizer(PreTrainedTokenizer):  # type: ignore[misc]
    """Gives each text the number of tokens that the study declares.

    Args:
        counts: the lengths of texts.
        max_length: the length of `padding="max_length"`, unless the call gives another.
        place_of: the class that it stands for, which decides the names of what is returned.
    """

    def __init__(
        self, counts: TokenCounts, max_length: int = 512, *, place_of: type | None = None
    ) -> None:
        self.counts = counts
        self.apart = False
        super().__init__(
            pad_token="<pad>",
            bos_token="<s>",
            eos_token="</s>",
            unk_token="<unk>",
            model_max_length=max_length,
            chat_template=CHATML,
            padding_side="right",
            model_input_names=list(getattr(place_of, "model_input_names", INPUT_NAMES)),
        )
        self.image_token, self.image_token_id = "<image>", VOCABULARY.index("<image>")
        self.deprecation_warnings["sequence-length-is-longer-than-the-specified-maximum"] = True

    @property
    def dropped_tokens(self) -> int:
        """Tokens at the start of the pipeline's template, which it drops after encoding."""
        return self.counts.dropped

    @property
    def vocab_size(self) -> int:
        """The number of ids."""
        return VOCABULARY_SIZE

    def get_vocab(self) -> dict[str, int]:
        """{token: id}; a token without a meaning is its id in digits."""
        numbers = range(len(VOCABULARY), VOCABULARY_SIZE)
        return {token: i for i, token in enumerate((*VOCABULARY, *map(str, numbers)))}

    def tell_apart(self, prompts: Sequence[str]) -> None:
        """Give different texts different ids from now on.

        Texts that contain one of `prompts` have the length of a prompt.
        """
        self.counts.know_prompts(prompts)
        self.apart = True

    def __call__(self, text: Any = None, *more: Any, **options: Any) -> Any:
        """Ids and attention mask of a text, or of each text of a list."""
        self.counts.learn(list(_strings(text)))
        self.counts.pads = options.get("padding") == "max_length"
        return super().__call__(text, *more, **options)

    def tokenize(self, text: str, **_options: Any) -> list[str]:
        """Tokens of a text: "1" each, or random numbers that the text determines. A control token
        alone is itself.
        """
        if CONTROL.fullmatch(text):
            return [text]
        count = self._length(text)
        if not self.apart:
            return ["1"] * count
        numbers = random.Random(str(text))
        return [str(numbers.randrange(len(VOCABULARY), VOCABULARY_SIZE)) for _ in range(count)]

    def _length(self, text: str) -> int:
        return self.counts.tokens(text)

    def _pad(self, encoded_inputs: Any, *args: Any, **options: Any) -> Any:
        """One text's inputs, with a position for each token where the class returns positions.

        Positions count from the first token that is no padding, as Kolors' tokenizer has them.
        """
        padded = super()._pad(encoded_inputs, *args, **options)
        if "position_ids" in self.model_input_names and "position_ids" not in padded:
            length, mask = len(padded[self.model_input_names[0]]), padded.get("attention_mask")
            first = mask.index(1) if mask and 1 in mask else 0
            padded["position_ids"] = [max(i - first, 0) for i in range(length)]
        return padded

    def _convert_token_to_id(self, token: str) -> int:
        if token.isdecimal():
            return int(token) % VOCABULARY_SIZE
        if CONTROL.fullmatch(token) and token not in VOCABULARY:
            token = "<image>" if OF_PICTURES.search(token) else "<unk>"
        return VOCABULARY.index(token) if token in VOCABULARY else 1

    def _convert_id_to_token(self, index: int) -> str:
        return VOCABULARY[index] if index < len(VOCABULARY) else str(index)

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        """A prompt for the tokens of `generated_ids`, else an empty text: ids have no meaning."""
        return PROMPT if tokens and set(tokens) == {GENERATED} else ""

    def _decode(self, token_ids: Any, **_options: Any) -> str:
        ids = [token_ids] if isinstance(token_ids, int) else list(token_ids)
        return self.convert_tokens_to_string([self._convert_id_to_token(int(x)) for x in ids])


class StandInProcessor(ProcessorMixin):  # type: ignore[misc]
    """Hands texts to a stand-in tokenizer, as transformers' processors do: always as a batch.

    Args:
        tokenizer: gives texts their tokens.
        place_of: the class that it stands for, which decides whether the kind of each token (text,
            picture, clip) is returned, too.
    """

    def __init__(self, tokenizer: Any, *, place_of: type | None = None) -> None:
        ProcessorMixin.__init__(self, tokenizer=tokenizer, chat_template=CHATML)
        self.return_mm_token_type_ids = getattr(place_of, "return_mm_token_type_ids", False)
        self.image_token, self.image_token_id = tokenizer.image_token, tokenizer.image_token_id

    def __call__(
        self, *args: Any, target_h: int | None = None, target_w: int | None = None, **options: Any
    ) -> Any:
        """Ids and attention mask of a batch; with a size in pixels, also the grids of the pictures
        that a model is to write (`picture_grids`).
        """
        out = super().__call__(*args, **options)
        if target_h is not None and target_w is not None:
            grids, count = picture_grids(target_h, target_w), len(out["input_ids"])
            out["image_grid_thw"] = torch.tensor(grids * count)
            out["images_per_sample"] = torch.tensor([len(grids)] * count)
        return out

    def tell_apart(self, prompts: Sequence[str]) -> None:
        """Give different texts different ids from now on, as its tokenizer does."""
        self.tokenizer.tell_apart(prompts)


def make_stand_in(
    class_name: str, counts: TokenCounts, max_length: int, *, place_of: type | None = None
) -> Any:
    """The stand-in for a tokenizer or a processor.

    Args:
        class_name: the name of its class.
        counts, max_length, place_of: as `StandInTokenizer` has them.
    """
    if re.search("Processor|FeatureExtractor", class_name):
        return StandInProcessor(StandInTokenizer(counts, max_length), place_of=place_of)
    return StandInTokenizer(counts, max_length, place_of=place_of)


def picture_grids(height: int, width: int) -> list[list[int]]:
    """The grids (frames, rows, columns) of the picture tokens that GLM-Image writes for a text.

    Args:
        height, width: of the picture in pixels.

    Returns:
        The picture's, one token each 32 pixels, and that of a preview of about 256 tokens.
    """
    rows, columns = height // GRID_PIXELS, width // GRID_PIXELS
    ratio = math.sqrt(rows / columns)
    return [[1, rows, columns], [1, int(ratio * PREVIEW), int(PREVIEW / ratio)]]


def generated_ids(
    _original: Callable[..., Any],
    input_ids: Tensor,
    *_more: Any,
    max_new_tokens: int = 20,
    **_options: Any,
) -> Tensor:
    """What a language model writes: (B, L + max_new_tokens), the input first, then `GENERATED`.

    Decoded, these are a prompt. So a prompt that a pipeline lets a model rewrite stays one.
    """
    new = input_ids.new_full((len(input_ids), max_new_tokens), VOCABULARY.index(GENERATED))
    return torch.cat([input_ids, new], dim=1)


def _strings(value: Any) -> Iterator[str]:
    """The texts among nested lists."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _strings(part)
