"""What stands where a pipeline has a tokenizer?

`StandInTokenizer`: token ids of the right length and no meaning.

Shapes follow from how many tokens a text has, not from which. Padding to a fixed length gives that
length, with as many attended tokens as the text has; otherwise a text is as long as what the
pipeline's template puts before it and drops again, plus the tokens that the study declares:
`prompt_tokens` for texts that hold `PROMPT`, `negative_prompt_tokens` for all others. The same
object answers for processors.

Ids are 1 where a token is, unless `tell_apart` was called: then they are drawn from a generator
seeded with the text, below 16, which every encoder's vocabulary holds.

What it does not do: tokenize, or anything for images and sound.
"""

import random
from collections.abc import Sequence
from typing import Any

import torch

PROMPT = "quantized prompt"
"""The text that `run_shapes` gives as prompt: templates may stand around it."""


class StandInEncoding(dict[str, Any]):
    """What a tokenizer returns: keys that are attributes too, and `to`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def to(self, device: Any, dtype: Any = None) -> "StandInEncoding":  # noqa: ARG002 - transformers' signature
        """The same, with its tensors moved."""
        return StandInEncoding(
            {
                key: value.to(device) if isinstance(value, torch.Tensor) else value
                for key, value in self.items()
            }
        )


class StandInTokenizer:
    """Counts tokens as declared.

    Args:
        prompt_tokens: tokens of a prompt.
        negative_prompt_tokens: tokens of any other text.
        max_length: what `padding="max_length"` means where the call does not say.

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
        """Give each text ids of its own from now on; texts that hold one of `prompts` have a
        prompt's length.
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
        """Ids of a text or a list of texts: (B, L), 1 where attended."""
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
        """The ids of a text that attends to `mask`: the mask itself, or numbers that the text
        decides; `pad_token_id` where it is 0.
        """
        if not self.apart:
            return list(mask)
        draw = random.Random(str(text))
        return [
            (
                draw.randrange(self.image_token_id + 1, self.vocab_size)
                if attended
                else self.pad_token_id
            )
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
        """The words of a conversation, or of each of several, as one text; tokenized unless told
        otherwise.
        """
        several = bool(conversation) and isinstance(conversation[0], list | tuple)
        texts = [" ".join(_strings(one)) for one in (conversation if several else [conversation])]
        if not tokenize:
            return texts if several else texts[0]
        options = {**options, **options.pop("processor_kwargs", {})}
        out = self(texts if several or options.get("return_tensors") else texts[0], **options)
        return out if return_dict else out["input_ids"]

    def batch_decode(self, ids: Any, **_options: Any) -> list[str]:
        """One empty text a row."""
        return [""] * len(ids)

    def decode(self, *_ids: Any, **_options: Any) -> str:
        """No text."""
        return ""

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """1 for each."""
        return [1] * len(tokens) if isinstance(tokens, list | tuple) else 1

    def convert_ids_to_tokens(self, ids: Any, **_options: Any) -> Any:
        """A word for each."""
        return ["token"] * len(ids) if isinstance(ids, list | tuple) else "token"

    def add_special_tokens(self, *_tokens: Any, **_options: Any) -> int:
        """None are added."""
        return 0


def _strings(value: Any) -> list[str]:
    """The texts in a conversation: contents, not roles and types."""
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
