"""Bounds on judges as the command line takes them, and what judges say as it prints it."""

import pytest

from sensitivity.cli.judge_options import judge_bounds
from sensitivity.cli.render.judges import distance_words, judge_lines
from sensitivity.errors import UserError
from sensitivity.fidelity.score import JudgeValues, Score


def test_bounds_are_judge_and_number() -> None:
    """The last = divides, since a module's function may have any name."""
    found = judge_bounds(["flip=0.05", "my.module:fn=1e-3"], "max_judge")
    assert found == {"flip": 0.05, "my.module:fn": 0.001}
    assert judge_bounds(None, "max_judge") == {}


@pytest.mark.parametrize("texts", [["flip"], ["flip=x"], ["=3"], ["flip=1", "flip=2"]])
def test_other_texts_are_refused_with_what_is_expected(texts: list[str]) -> None:
    """The message has the text, the form and the field."""
    with pytest.raises(UserError, match=r"`max_judge` .*; expected "):
        judge_bounds(texts, "max_judge")


def test_a_judge_is_printed_with_its_direction_and_floor() -> None:
    """Numbers of judges mean nothing without which way is better, and the floor."""
    values = JudgeValues(
        per_prompt=(38.0, 39.0),
        noise_floor=58.6,
        higher_is_better=True,
        unit="dB",
        made_by="scikit-image 0.26.0",
    )
    score = Score(
        net="tiny", mean=0.1, per_prompt=(0.1, 0.1), noise_floor=None, judges={"psnr": values}
    )
    assert list(judge_lines(score)) == [
        "judge psnr: 38.50 dB (bf16 again 58.60), higher is better; 2 prompts; scikit-image 0.26.0"
    ]
    assert Score.from_json(score.to_json()) == score
    assert distance_words("alex") == "LPIPS alex"
    assert distance_words("a:b") == "for LPIPS read the objective a:b"
