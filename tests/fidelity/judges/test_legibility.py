"""Which words a prompt asks for, and how much of them was read."""

import pytest

from sensitivity.fidelity.judges.legibility import asked_words, edits_to_part, unread_share


@pytest.mark.parametrize(
    ("prompt", "asked"),
    [
        ('a sign that says "OPEN DAILY" over a door', ("OPEN DAILY",)),
        ("a mug with “good morning” and a badge with 'HI'", ("good morning", "HI")),
        ("it's a dog's life, isn't it", ()),
        ("a sign in Tokyo: 「出口」", ("出口",)),
        ('a sign that says "..."', ()),
    ],
)
def test_words_in_quotation_marks_are_asked_for(prompt: str, asked: tuple[str, ...]) -> None:
    """Straight, curly, single and corner marks count; an apostrophe does not."""
    assert asked_words(prompt) == asked


@pytest.mark.parametrize(
    ("text", "whole", "edits"),
    [("open", "openshop", 0), ("open", "oqen", 1), ("open", "", 4), ("open", "xopxenx", 1)],
)
def test_a_text_is_sought_at_its_best_place(text: str, whole: str, edits: int) -> None:
    """What stands before and after the best place costs nothing."""
    assert edits_to_part(text, whole) == edits


def test_the_unread_share_is_over_all_texts_of_a_prompt() -> None:
    """Case, spaces and punctuation do not count; what is not there at all is unread."""
    assert unread_share(["Open Daily"], "OPEN, daily!") == 0
    assert unread_share(["abcd", "efgh"], "abcd") == pytest.approx(0.5)
    assert unread_share(["abcd"], "") == 1
