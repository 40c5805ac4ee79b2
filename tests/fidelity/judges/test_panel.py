"""Which judges look, at what, and what happens where one cannot."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sensitivity.errors import UserError
from sensitivity.fidelity.judges import known, panel
from sensitivity.fidelity.judges._base import Judge, PictureJudge
from sensitivity.fidelity.judges.panel import Panel
from sensitivity.fidelity.judges.wishes import JudgeWishes
from sensitivity.fidelity.score import Score
from sensitivity.models.media import Media

from support.media import random_clips, random_pictures

PROMPTS = ("a red door", 'a sign that says "OPEN"')


class Darkness(PictureJudge):
    """Mean difference; the word judge's name is given to it in a test."""

    name, made_by = "flip", "a toy 1"

    def compare(self, pictures: Tensor, references: Tensor) -> Tensor:
        return (references - pictures).mean((1, 2, 3))


class Failing(Judge):
    """Never works."""

    name = "psnr"

    def __call__(self, pictures: Tensor, references: Tensor, prompts: Sequence[str]) -> Tensor:
        raise RuntimeError(f"no room for {len(pictures + references)} pictures of {prompts}")


@pytest.fixture(autouse=True)
def _toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """All packages are there but cvvdp's, every judge is a toy, and psnr fails."""
    monkeypatch.setattr(
        panel, "why_missing", lambda name: "cvvdp not installed" if name == "cvvdp" else ""
    )
    monkeypatch.setattr(
        panel, "make_judge", lambda name, **_: Failing() if name == "psnr" else Darkness()
    )


def pictures(seed: int) -> Media:
    return Media(pictures=random_pictures(2, seed=seed))


def test_judges_look_at_what_they_can_judge(caplog: pytest.LogCaptureFixture) -> None:
    """The judge of words sees prompts that ask for words; one that fails is left out with a
    warning; values are of RGB in [0, 1]."""
    one, other = pictures(0), pictures(1)
    found = Panel(JudgeWishes(), prompts=PROMPTS).judge(
        one, other, PROMPTS, bf16_twice=lambda: (one, other, ("x", "y"))
    )
    assert list(found) == ["ssim", "flip", "text"]
    expected = ((other.pictures - one.pictures) / 2).mean((1, 2, 3)).tolist()
    assert found["flip"].per_prompt == pytest.approx(expected, abs=1e-6)
    assert found["flip"].noise_floor == pytest.approx(sum(expected) / 2, abs=1e-6)
    assert found["text"].prompts == (1,)
    assert found["text"].per_prompt == pytest.approx(expected[1:], abs=1e-6)
    assert found["text"].noise_floor is None
    assert "psnr is left out" in caplog.text
    assert "no room" in caplog.text


def test_clips_are_judged_by_every_frame_that_lpips_sees() -> None:
    """A judge of pictures gives a clip the mean over frames 0, stride, ..."""
    one, other = random_clips(0, frames=5), random_clips(1, frames=5)
    found = Panel(JudgeWishes(), prompts=PROMPTS, is_video=True, stride=2).judge(
        one, other, PROMPTS
    )
    apart = (other.pictures.float() - one.pictures.float())[:, ::2].flatten(1).mean(1)
    assert found["flip"].per_prompt == pytest.approx(apart.tolist(), abs=1e-5)
    assert found["flip"].noise_floor is None


def test_what_is_not_installed_is_a_note_or_if_asked_for_an_error() -> None:
    """Optional judges are optional until somebody names one."""
    looking = Panel(JudgeWishes(), prompts=PROMPTS, is_video=True)
    assert "cvvdp not installed" in looking.notes[0]
    assert "pip install scikit-image" in looking.notes[0]
    assert Panel(JudgeWishes(asked=("none",)), prompts=PROMPTS, is_video=True).names == ()
    with pytest.raises(UserError, match="cvvdp is asked for, and cvvdp not installed"):
        Panel(JudgeWishes(asked=("cvvdp",)), prompts=PROMPTS, is_video=True)


def test_a_judge_that_was_asked_for_must_work() -> None:
    """Its failure ends the run with words."""
    asked = Panel(JudgeWishes(asked=("psnr",)), prompts=PROMPTS)
    with pytest.raises(UserError, match=r"psnr is asked for and fails \(RuntimeError: no room"):
        asked.judge(pictures(0), pictures(1), PROMPTS)


@pytest.mark.parametrize(
    ("wishes", "says"),
    [
        ({"max_judge": {"ssim": 0.9}}, "`max_judge` bounds ssim, of which more is better"),
        ({"min_judge": {"flip": 0.9}}, "`min_judge` bounds flip, of which less is better"),
        ({"max_judge": {"text": 0.1}}, "text is bounded, and it has nothing to look at"),
        ({"max_judge": {"flop": 0.1}}, "names 'flop'; .* did you mean 'flip'"),
        ({"max_judge": {"flip": float("nan")}}, "`max_judge` of flip is nan"),
        ({"asked": ("simm",)}, "`judges` names 'simm'"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(wishes: dict[str, object], says: str) -> None:
    """Wrong sides, unknown names, and judges that would see nothing."""
    with pytest.raises(UserError, match=says):
        Panel(JudgeWishes(**wishes), prompts=("a door",))  # type: ignore[arg-type]


def test_a_score_that_no_judge_saw_lacks_those_that_would_look() -> None:
    """Stored scores of earlier versions are told from complete ones."""
    looking = Panel(JudgeWishes(), prompts=PROMPTS)
    score = Score(net="tiny", mean=0.1, per_prompt=(0.1, 0.1), noise_floor=None)
    assert looking.lacking(score, PROMPTS) == ("psnr", "ssim", "flip", "text")
    assert looking.lacking(score, ("a door",)) == ("psnr", "ssim", "flip")


def test_packages_are_looked_for_and_not_imported() -> None:
    """What is missing is named by the package that is installed."""
    assert known.KNOWN["text"].packages == {"rapidocr": "rapidocr", "onnxruntime": "onnxruntime"}
    assert torch.is_tensor(panel.visible(pictures(0), [1]))
