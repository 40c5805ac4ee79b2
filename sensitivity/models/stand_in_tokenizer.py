"""What takes the place of a tokenizer whose files are missing?

`StandInTokenizer` gives token ids of the right number, without meaning. The shapes of a run depend
on how many tokens a text has, and not on which.

    tokenizer = StandInTokenizer(prompt_tokens=14, negative_prompt_tokens=6, max_length=512)
    tokenizer([PROMPT, ""], padding=True, return_tensors="pt")["input_ids"]     # (2, 14)

Conventions. A text that contains `PROMPT` has `prompt_tokens` tokens, any other text
`negative_prompt_tokens`. The tokens of the pipeline's template, which the pipeline drops after
encoding, are added to these. Padding to a fixed length gives that length. Ids are 1 where there is
a token. After `tell_apart` they are random numbers below 16, seeded with the text; every encoder's
vocabulary has these. The same object takes the place of processors.

What it does not do: tokenize text, or process pictures and sound.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch

PROMPT = "quantized prompt"
"""The prompt of a run without weights. Pipelines may put a template around it."""


class StandInEncoding(dict[str, Any]):
    """What a tokenizer returns: a dict whose keys are attributes, too."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device: Any, dtype: Any = None) -> "StandInEncoding":  # noqa: ARG002
        """The same, with its tensors moved. transformers' method takes a dtype, too."""
        return StandInEncoding(
            {
                key: value.to(device) if isinstance(value, torch.Tensor) else value
                for key, value in self.items()
            }
        )


class StandInTokenizer:
    """Gives each text the number of tokens that the study declares.

    Args:
        prompt_tokens: tokens of a prompt.
        negative_prompt_tokens: tokens of any other text.
        max_length: the length of `padding="max_length"`, unless the call gives another.

    Attributes:
        dropped_tokens: tokens that the pipeline's template adds and the pipeline drops again.
    """

    pad_token_id, bos_token_id, eos_token_id, unk_token_id, image_token_id = 0, 1, 2, 3, 4
    pad_token, bos_token, eos_token, unk_token, image_token = (
        "<pad>",
        "<s>",
        "</s>",
        "<unk>",
        "<image>",
    )
    vocab_size = 16
    chat_template = None

    def __init__(self, *, prompt_tokens: int, negative_prompt_tokens: int, max_length: int) -> None:
        self.prompt_tokens, self.negative_prompt_tokens = prompt_tokens, negative_prompt_tokens
        self.model_max_length = max_length
        self.padding_side = "right"
        self.dropped_tokens = 0
        self.prompts: tuple[str, ...] = (PROMPT,)
        self.apart = False
        self.added_tokens_encoder: dict[str, int] = {}

    @property
    def tokenizer(self) -> "StandInTokenizer":
        """A processor's tokenizer."""
        return self

    def __len__(self) -> int:
        return self.vocab_size

    def tell_apart(self, prompts: Sequence[str]) -> None:
        """Give different texts different ids from now on.

        Texts that contain one of `prompts` have the length of a prompt.
        """
        self.prompts, self.apart = tuple(prompt.lower() for prompt in prompts), True

    def __call__(
        self,
        text: Any = None,
        *_more: Any,
        padding: Any = False,
        max_length: int | None = None,
        truncation: Any = None,
        return_tensors: str | None = None,
        return_length: bool = False,
        **_options: Any,
    ) -> StandInEncoding:
        """Ids and attention mask of a text, or of each text of a list: (B, L)."""
        batched = isinstance(text, list | tuple)
        texts = list(text) if batched else [text]
        limit = max_length or self.model_max_length
        lengths = [self._length(one) for one in texts]
        if truncation or padding == "max_length":
            lengths = [min(length, limit) for length in lengths]
        width = limit if padding == "max_length" else max(lengths, default=0)
        pads = padding not in (False, None, "do_not_pad") or return_tensors is not None
        masks = [self._mask(length, width if pads else length) for length in lengths]
        ids = [self._ids(one, mask) for one, mask in zip(texts, masks, strict=True)]
        out = StandInEncoding(input_ids=ids, attention_mask=masks)
        if return_length:
            out["length"] = [len(mask) for mask in masks]
        if return_tensors is not None:
            return StandInEncoding(
                {key: torch.tensor(value, dtype=torch.int64) for key, value in out.items()}
            )
        return out if batched else StandInEncoding({key: value[0] for key, value in out.items()})

    def _length(self, text: object) -> int:
        tokens = (
            self.prompt_tokens
            if any(prompt in str(text).lower() for prompt in self.prompts)
            else self.negative_prompt_tokens
        )
        return self.dropped_tokens + tokens

    def _mask(self, length: int, width: int) -> list[int]:
        ones, zeros = [1] * length, [0] * (width - length)
        return zeros + ones if self.padding_side == "left" else ones + zeros

    def _ids(self, text: object, mask: list[int]) -> list[int]:
        """The ids of a text: the mask itself, or random ids where it is 1 and `pad_token_id` where
        it is 0.
        """
        if not self.apart:
            return list(mask)
        numbers = random.Random(str(text))
        first = self.image_token_id + 1
        return [
            numbers.randrange(first, self.vocab_size) if attended else self.pad_token_id
            for attended in mask
        ]

    def encode(self, text: Any, **options: Any) -> Any:
        """The ids of a text."""
        return self(text, **options)["input_ids"]

    def tokenize(self, text: str, **_options: Any) -> list[str]:
        """As many words as the text has tokens."""
        return ["token"] * self._length(text)

    def apply_chat_template(
        self,
        conversation: Sequence[Any],
        *,
        tokenize: bool = True,
        return_dict: bool = True,
        **options: Any,
    ) -> Any:
        """The words of a conversation as one text, or of each of several; tokenized by default."""
        several = bool(conversation) and isinstance(conversation[0], list | tuple)
        texts = [" ".join(_strings(one)) for one in (conversation if several else [conversation])]
        if not tokenize:
            return texts if several else texts[0]
        options = {**options, **options.pop("processor_kwargs", {})}
        out = self(texts if several or options.get("return_tensors") else texts[0], **options)
        return out if return_dict else out["input_ids"]

    def batch_decode(self, ids: Any, **_options: Any) -> list[str]:
        """An empty text for each row."""
        return [""] * len(ids)

    def decode(self, *_ids: Any, **_options: Any) -> str:
        """An empty text."""
        return ""

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """1 for each token."""
        return [1] * len(tokens) if isinstance(tokens, list | tuple) else 1

    def convert_ids_to_tokens(self, ids: Any, **_options: Any) -> Any:
        """ "token" for each id."""
        return ["token"] * len(ids) if isinstance(ids, list | tuple) else "token"

    def add_special_tokens(self, *_tokens: Any, **_options: Any) -> int:
        """The number of added tokens: none."""
        return 0


def _strings(value: Any) -> list[str]:
    """The texts in a conversation, without its roles and types."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [
            text
            for key, part in value.items()
            if key not in ("role", "type")
            for text in _strings(part)
        ]
    return (
        [text for part in value for text in _strings(part)]
        if isinstance(value, list | tuple)
        else []
    )
