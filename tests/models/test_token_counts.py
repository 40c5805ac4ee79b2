"""Texts are counted as tokenizers count them, and a pipeline's template is told from the text."""

import importlib
from typing import Any

import pytest

from sensitivity.models.token_counts import OWN_TOKENS, PROMPT, TokenCounts, count_pieces

DESCRIBE = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture,"
    " quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n"
)
"""QwenImage's prefix: 34 tokens, as the pipeline's own code says."""
SUFFIX = "<|im_end|>\n<|im_start|>assistant\n"


def constant(module: str, name: str) -> Any:
    """A constant of one of diffusers' pipelines."""
    return getattr(importlib.import_module(f"diffusers.pipelines.{module}"), name)


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        (DESCRIBE, 34),
        (SUFFIX, 5),  # `prompt_template_encode_num_suffix_tokens` of Krea 2
        ("a red ring on a blue table", 7),
        (" ", 1),
        ("", 0),
        ("12 rings, don't!", 7),
        ("\u4e00\u4e8c\u4e09\u56db", 2),
    ],
)
def test_pieces_are_the_tokens_of_plain_texts(text: str, tokens: int) -> None:
    """Control tokens, words, digits, signs and line feeds are one token each."""
    assert count_pieces(text) == tokens


def test_the_prefix_of_a_video_pipeline_is_counted() -> None:
    """HunyuanVideo drops 95 tokens of its template, the first of which no text shows."""
    template = constant("hunyuan_video.pipeline_hunyuan_video", "DEFAULT_PROMPT_TEMPLATE")
    prefix = template["template"].partition("{}")[0]
    assert count_pieces(prefix) == pytest.approx(template["crop_start"], abs=1)


def counts(prompt: int = 14, negative: int = 6, **options: Any) -> TokenCounts:
    return TokenCounts(prompt_tokens=prompt, negative_prompt_tokens=negative, **options)


def test_what_is_dropped_comes_on_top() -> None:
    """The declared tokens are those that are kept; a bare text has nothing that is dropped."""
    made = counts()
    made.dropped = 34
    assert made.tokens(DESCRIBE + PROMPT + SUFFIX) == 34 + 14
    assert made.tokens(DESCRIBE + " " + SUFFIX) == 34 + 6
    assert made.tokens(PROMPT) == 14


def test_a_fixed_piece_is_no_negative_prompt() -> None:
    """A prefix or suffix that is tokenized alone has its own tokens; a prefix that was is one that
    the pipeline drops.
    """
    made = counts(negative=20)
    assert made.tokens(SUFFIX) == 5
    assert made.tokens(DESCRIBE) == 34
    assert made.tokens(DESCRIBE + PROMPT) == 34 + 14


def test_no_text_is_shorter_than_its_template() -> None:
    """A template that is kept counts, with a token of the text or with nine where none is stated;
    what was used is known.
    """
    chat = f"{DESCRIBE}{PROMPT}{SUFFIX}"
    stated, derived = counts(prompt=3), counts(prompt=14, is_stated=(False, False))
    assert (stated.tokens(chat), derived.tokens(chat)) == (34 + 1 + 5, 34 + OWN_TOKENS + 5)
    assert stated.kept("prompt", with_mask=False) == 40


def test_a_negative_prompt_is_counted_unless_its_length_is_stated() -> None:
    """A pipeline's own negative prompt is known to the word; a stated length holds."""
    ugly = "<|im_start|>user\nugly, deformed<|im_end|>"
    chat = f"<|im_start|>user\n{PROMPT}<|im_end|>"
    for stated, tokens in ((False, 3 + 3 + 1), (True, 20)):
        made = counts(negative=20, is_stated=(True, stated))
        made.tokens(chat)
        assert made.tokens(ugly) == tokens
        assert made.kept("negative prompt", with_mask=False) == tokens
    own = counts(negative_prompt="ugly, deformed", is_stated=(True, False))
    assert own.tokens("ugly, deformed") == 3
    assert own.tokens("") == 6


def test_padded_texts_have_no_length_without_a_mask() -> None:
    """What a denoiser cannot see is not told."""
    made = counts()
    made.pads = True
    made.tokens(DESCRIBE + PROMPT)
    assert made.kept("prompt", with_mask=False) is None
    assert made.kept("prompt", with_mask=True) == 35
