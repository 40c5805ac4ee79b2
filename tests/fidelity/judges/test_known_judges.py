"""What the judges of packages say of pictures whose values are known; skipped without the extra."""

import importlib.util

import pytest
import torch
from torch import Tensor

from sensitivity.fidelity.judges._base import Judge
from sensitivity.fidelity.judges.known import KNOWN, make_judge, why_missing

HEIGHT, WIDTH = 48, 64


def made(name: str) -> Judge:
    """A judge of a package, or a skipped test."""
    if why := why_missing(name):
        pytest.skip(why)
    return make_judge(name, frames_per_second=12.0, device="cpu")


def scene() -> Tensor:
    """(1, 3, H, W): a bright disk on grey."""
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    disk = ((y - 24) ** 2 + (x - 30) ** 2 < 150).float()
    return (0.4 + 0.3 * torch.stack([disk, disk * 0.5, -disk]))[None]


def test_psnr_is_that_of_a_known_error() -> None:
    """An error of 0.1 everywhere has 20 dB; equal pictures have the stated most."""
    judge, flat = made("psnr"), torch.full((1, 3, HEIGHT, WIDTH), 0.4)
    assert float(judge(flat + 0.1, flat, [""])) == pytest.approx(20.0, abs=1e-4)
    assert float(judge(flat, flat, [""])) == 100.0


def test_ssim_of_flat_pictures_is_the_formula() -> None:
    """Of flat pictures it is (2 a b + C1) / (a^2 + b^2 + C1) with C1 = 1e-4; of equal ones 1."""
    judge, a, b = made("ssim"), 0.5, 0.3
    flat = torch.ones(1, 3, HEIGHT, WIDTH)
    expected = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert float(judge(flat * a, flat * b, [""])) == pytest.approx(expected, abs=1e-5)
    assert float(judge(scene(), scene(), [""])) == pytest.approx(1.0)


def test_flip_sees_a_hue_and_nothing_in_equal_pictures() -> None:
    """Exchanged red and blue are visible errors."""
    judge = made("flip")
    assert float(judge(scene(), scene(), [""])) == 0
    assert float(judge(scene().flip(1), scene(), [""])) > 0.05


def test_words_are_read_and_lost() -> None:
    """A word is lost in a picture that has another one; where bf16 has none, nothing is."""
    judge = made("text")
    if importlib.util.find_spec("PIL") is None:
        pytest.skip("PIL draws the words")
    right, wrong, prompt = drawn("OPEN"), drawn("CLUB"), 'a sign that says "OPEN"'
    assert float(judge(wrong, right, [prompt])) >= 0.75
    assert float(judge(right, wrong, [prompt])) == 0


def drawn(text: str) -> Tensor:
    """(1, 3, 128, 128): dark letters on a bright ground."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    image = Image.new("RGB", (128, 128), (235, 235, 225))
    font = ImageFont.load_default(size=40)
    ImageDraw.Draw(image).text((64, 64), text, fill=(20, 20, 30), font=font, anchor="mm")
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


def test_cvvdp_sees_a_change_from_frame_to_frame() -> None:
    """Equal clips have 10 JOD, and an error that alternates costs more than one that stays."""
    judge = made("cvvdp")
    still = scene()[:, None].repeat(1, 6, 1, 1, 1)
    turns = torch.tensor([1.0, -1.0]).repeat(3)[None, :, None, None, None]
    stays, alternates = (
        float(judge((still + 0.05 * sign).clamp(0, 1), still, [""])) for sign in (1.0, turns)
    )
    assert float(judge(still, still, [""])) == pytest.approx(10.0)
    assert alternates < stays < 10


def test_what_is_known_before_an_import_is_what_the_judge_says() -> None:
    """The direction of a judge is known without its package."""
    for name in ("psnr", "ssim", "flip"):
        assert made(name).higher_is_better == KNOWN[name].higher_is_better
        assert made(name).name == name
