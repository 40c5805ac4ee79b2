"""A stand-in gives texts the numbers of tokens that a study declares."""

import pytest

from sensitivity.models.stand_in_tokenizer import PROMPT, StandInTokenizer


@pytest.fixture
def tokenizer() -> StandInTokenizer:
    """Five tokens for a prompt, two for any other text, and one of a template for both."""
    made = StandInTokenizer(prompt_tokens=5, negative_prompt_tokens=2, max_length=8)
    made.dropped_tokens = 1
    return made


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_stand_in_counts_tokens(tokenizer: StandInTokenizer, side: str) -> None:
    """Padded texts have the length that is asked for, with the declared number attended; others
    are as long as declared.
    """
    tokenizer.padding_side = side
    texts = [f"<s> {PROMPT} </s>", ""]
    padded = tokenizer(texts, padding="max_length", return_tensors="pt")
    assert padded.input_ids.shape == (2, 8)
    assert padded["attention_mask"].sum(1).tolist() == [6, 3]
    assert bool(padded.attention_mask[1, -1]) == (side == "left")
    assert tokenizer(texts, padding=True, return_tensors="pt").input_ids.shape == (2, 6)
    assert [len(ids) for ids in tokenizer(texts).input_ids] == [6, 3]
    assert len(tokenizer(texts[0], truncation=True, max_length=4).input_ids) == 4


def test_a_conversation_is_one_text(tokenizer: StandInTokenizer) -> None:
    """Its words count, its roles do not; several conversations make a batch."""
    chat = [{"role": "user", "content": [{"type": "text", "text": PROMPT}]}]
    assert tokenizer.apply_chat_template(chat, tokenize=False) == PROMPT
    both = tokenizer.apply_chat_template([chat, chat], return_tensors="pt")
    assert both.input_ids.shape == (2, 6)


def test_ids_tell_texts_apart_where_they_are_asked_to(tokenizer: StandInTokenizer) -> None:
    """Ids are 1 for every text at first; afterwards each text has its own, the same in each call,
    and a text that contains a given prompt has a prompt's length.
    """
    assert tokenizer(["a ring", "a star"]).input_ids == [[1, 1, 1], [1, 1, 1]]
    tokenizer.tell_apart(["A ring"])
    ring, star = tokenizer(["a ring", "a star"]).input_ids
    assert (len(ring), len(star)) == (6, 3)
    assert ring == tokenizer("a ring").input_ids != tokenizer("a ring!").input_ids
    assert all(tokenizer.image_token_id < x < tokenizer.vocab_size for x in ring + star)
