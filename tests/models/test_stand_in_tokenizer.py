"""A stand-in gives texts the numbers of tokens that a study declares, and answers as a real
tokenizer does.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import transformers

from sensitivity.models.stand_in_tokenizer import (
    StandInProcessor,
    StandInTokenizer,
    generated_ids,
)
from sensitivity.models.token_counts import PROMPT, TokenCounts

from support.real_tokenizers import word_processor, word_tokenizer


@pytest.fixture
def tokenizer() -> StandInTokenizer:
    """Five tokens for a prompt, two for an empty text."""
    return StandInTokenizer(TokenCounts(prompt_tokens=5, negative_prompt_tokens=2), max_length=8)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_stand_in_counts_tokens(tokenizer: StandInTokenizer, side: str) -> None:
    """Padded texts have the length that is asked for, with the declared number attended; others
    are as long as declared.
    """
    tokenizer.padding_side = side
    texts = [PROMPT, ""]
    padded = tokenizer(texts, padding="max_length", return_tensors="pt")
    assert padded.input_ids.shape == (2, 8)
    assert padded["attention_mask"].sum(1).tolist() == [5, 2]
    assert bool(padded.attention_mask[1, -1]) == (side == "left")
    assert tokenizer(texts, padding=True, return_tensors="pt").input_ids.shape == (2, 5)
    assert [len(ids) for ids in tokenizer(texts).input_ids] == [5, 2]
    assert len(tokenizer(texts[0], truncation=True, max_length=4).input_ids) == 4


def test_ids_tell_texts_apart_where_they_are_asked_to(tokenizer: StandInTokenizer) -> None:
    """Ids are 1 for every text at first; afterwards each text has its own, the same in each call,
    and a text that contains a given prompt has a prompt's length.
    """
    assert tokenizer(["a ring", "a star"]).input_ids == [[1, 1], [1, 1]]
    tokenizer.tell_apart(["A ring"])
    ring, star = tokenizer(["a ring", "a star"]).input_ids
    assert (len(ring), len(star)) == (5, 2)
    assert ring == tokenizer("a ring").input_ids != tokenizer("a ring!").input_ids[:5]
    assert all(5 <= x < tokenizer.vocab_size for x in ring + star)


CHAT = [{"role": "user", "content": PROMPT}]
PARTS = [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
PADDED = {"padding": "max_length", "max_length": 20, "truncation": True, "return_tensors": "pt"}
TOKENIZER_CALLS: dict[str, Callable[[Any], Any]] = {
    "a text": lambda t: t(PROMPT),
    "a text as tensors": lambda t: t(PROMPT, return_tensors="pt"),
    "a text by name": lambda t: t(text=PROMPT, add_special_tokens=False),
    "texts": lambda t: t([PROMPT, ""]),
    "texts to the longest": lambda t: t([PROMPT, "red"], padding="longest", return_tensors="pt"),
    "texts to a length": lambda t: t([PROMPT, ""], **PADDED),
    "texts without a mask": lambda t: t([PROMPT], return_attention_mask=False, **PADDED),
    "lengths": lambda t: t([PROMPT], return_length=True, return_overflowing_tokens=False, **PADDED),
    "on the left": lambda t: t([PROMPT, "red"], padding_side="left", **PADDED),
    "to a multiple": lambda t: t([PROMPT], padding=True, pad_to_multiple_of=8, return_tensors="pt"),
    "encode": lambda t: t.encode(PROMPT),
    "encode as tensors": lambda t: t.encode(PROMPT, return_tensors="pt"),
    "tokenize": lambda t: t.tokenize(PROMPT),
    "pad": lambda t: t.pad(
        {"input_ids": [[1, 1], [1]]},
        max_length=4,
        padding="max_length",
        return_attention_mask=True,
        return_tensors="pt",
    ),
    "a chat as a text": lambda t: t.apply_chat_template(
        CHAT, tokenize=False, add_generation_prompt=True, enable_thinking=False
    ),
    "a chat": lambda t: t.apply_chat_template(CHAT),
    "a chat's ids": lambda t: t.apply_chat_template(CHAT, return_dict=False),
    "a chat to a length": lambda t: t.apply_chat_template(CHAT, **PADDED),
    "chats": lambda t: t.apply_chat_template([CHAT, CHAT], return_dict=True, **PADDED),
    "decode": lambda t: t.decode([0]),
    "batch_decode": lambda t: t.batch_decode(torch.tensor([[0, 0]]), skip_special_tokens=True),
    "ids of tokens": lambda t: t.convert_tokens_to_ids(["<|image_pad|>"]),
    "id of a token": lambda t: t.convert_tokens_to_ids("<|image_pad|>"),
    "tokens of ids": lambda t: t.convert_ids_to_tokens([0]),
    "special ids": lambda t: [t.pad_token_id, t.eos_token_id, t.unk_token_id],
    "names": lambda t: [t.pad_token, t.eos_token, t.padding_side, t.chat_template],
    "sizes": lambda t: [len(t), t.vocab_size, t.model_max_length],
}
"""What diffusers' pipelines call on tokenizers, by its kind."""
PROCESSOR_CALLS: dict[str, Callable[[Any], Any]] = {
    "a text": lambda p: p(text=PROMPT),
    "texts": lambda p: p(text=[PROMPT, ""], images=None, videos=None, **PADDED),
    "texts on the left": lambda p: p(
        text=[PROMPT], padding=True, padding_side="left", return_tensors="pt"
    ),
    "a chat as a text": lambda p: p.apply_chat_template(
        PARTS, tokenize=False, add_generation_prompt=True
    ),
    "a chat's ids": lambda p: p.apply_chat_template(PARTS, tokenize=True, return_dict=False),
    "chats": lambda p: p.apply_chat_template(
        [PARTS, PARTS], add_generation_prompt=False, tokenize=True, return_dict=True, **PADDED
    ),
    "decode": lambda p: p.decode([0]),
    "batch_decode": lambda p: p.batch_decode([[0]], skip_special_tokens=True),
    "its tokenizer": lambda p: p.tokenizer.encode("<|image_pad|>"),
}
"""What they call on processors."""


def form(value: Any) -> Any:
    """Types, keys, shapes and dtypes, without values."""
    if isinstance(value, torch.Tensor):
        return "tensor", tuple(value.shape), value.dtype
    if isinstance(value, Mapping):
        return {key: form(value[key]) for key in sorted(value)}
    if isinstance(value, list | tuple):
        return [form(part) for part in value]
    return type(value).__name__


def close(stand_in: Any, real: Any) -> None:
    """Assert that two answers have one form; mappings have their keys as attributes, and `to`."""
    assert form(stand_in) == form(real)
    if isinstance(real, Mapping):
        assert stand_in.input_ids is stand_in["input_ids"]
        assert form(stand_in.to("cpu")) == form(real.to("cpu"))


def two_words(name: str = "") -> TokenCounts:
    """Lengths as the real tokenizers have them for `PROMPT`, which is two words, or seven tokens as
    a chat, and for "".
    """
    counts = TokenCounts(prompt_tokens=7 if "chat" in name else 2, negative_prompt_tokens=1)
    counts.negative_prompt_tokens = 0
    return counts


@pytest.mark.parametrize("name", list(TOKENIZER_CALLS))
def test_a_stand_in_answers_as_a_tokenizer_does(name: str) -> None:
    """What is returned has the types, keys and shapes of a real fast tokenizer's answer."""
    call = TOKENIZER_CALLS[name]
    stand_in = StandInTokenizer(two_words(name), max_length=32)
    close(call(stand_in), call(word_tokenizer(max_length=32)))


@pytest.mark.parametrize("name", list(PROCESSOR_CALLS))
def test_a_stand_in_answers_as_a_processor_does(name: str) -> None:
    """The same with a real processor: one text is a batch of one."""
    call = PROCESSOR_CALLS[name]
    place_of = transformers.Qwen2_5_VLProcessor
    tokenizer = StandInTokenizer(two_words(name), max_length=32)
    stand_in = StandInProcessor(tokenizer, place_of=place_of)
    close(call(stand_in), call(word_processor(max_length=32)))


def test_a_control_token_is_no_text() -> None:
    """Its id is none of a text's ids, so that a text without pictures has no place for one."""
    tokenizer = StandInTokenizer(two_words())
    (picture,) = tokenizer.encode("<|image_pad|>")
    assert picture == tokenizer.convert_tokens_to_ids("<|image_pad|>")
    assert picture not in tokenizer(f"<|im_start|>user\n{PROMPT}<|im_end|>").input_ids


def test_what_a_model_writes_is_a_prompt() -> None:
    """Where a pipeline has its prompt rewritten, the new text is a prompt of the same length."""
    tokenizer = StandInTokenizer(two_words())
    ids = tokenizer([f"Improve: {PROMPT}"], return_tensors="pt").input_ids
    written = generated_ids(lambda: None, ids, max_new_tokens=3)[:, ids.shape[1] :]
    assert tokenizer.batch_decode(written, skip_special_tokens=True) == [PROMPT]


def test_positions_count_from_the_first_token() -> None:
    """A class that returns positions gets them: 0 in the padding, then 0, 1, 2, ..."""

    class WithPositions:
        model_input_names = ("input_ids", "attention_mask", "position_ids")

    counts = TokenCounts(prompt_tokens=3, negative_prompt_tokens=1)
    tokenizer = StandInTokenizer(counts, place_of=WithPositions)
    tokenizer.padding_side = "left"
    found = tokenizer([PROMPT], padding="max_length", max_length=5)
    assert found["position_ids"] == [[0, 0, 0, 1, 2]]


def test_a_size_gives_the_grids_of_the_tokens_to_write() -> None:
    """1152 x 768 pixels are 36 x 24 tokens of 32 pixels, and a preview of 19 x 13 (transformers'
    GlmImageProcessor).
    """
    tokenizer = StandInTokenizer(TokenCounts(prompt_tokens=3, negative_prompt_tokens=1))
    found = StandInProcessor(tokenizer)(text=[PROMPT], target_h=1152, target_w=768)
    assert found["image_grid_thw"].tolist() == [[1, 36, 24], [1, 19, 13]]
    assert found["images_per_sample"].tolist() == [2]
