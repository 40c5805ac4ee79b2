"""Detail in decibels: 0 for equal pictures, known for a changed contrast, blind to where things
are, and not to noise and blur.
"""

import math

import pytest
import torch
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from sensitivity.fidelity.detail import OCTAVES, detail_distance, octave_energies


def textured(seed: int, size: int = 128) -> Tensor:
    """Two pictures with grain of 1, 2, 4 and 8 pixels, in [-1, 1]."""
    generator = torch.Generator().manual_seed(seed)
    grains = [
        torch.randn(2, 3, size // step, size // step, generator=generator) for step in (1, 2, 4, 8)
    ]
    return (
        0.15 * sum(torch.nn.functional.interpolate(grain, size=size) for grain in grains)
    ).clamp(-1, 1)


def test_equal_pictures_are_at_zero() -> None:
    """Also black ones, and the smallest."""
    for picture in (textured(1), torch.full((1, 3, 16, 16), -1.0), torch.rand(1, 3, 8, 8)):
        assert detail_distance(picture, picture.clone()).tolist() == [0.0] * len(picture)


@pytest.mark.parametrize("factor", [0.25, 0.5, 0.8])
def test_contrast_is_where_the_formula_says(factor: float) -> None:
    """A contrast that changed by a factor a is at |20 log10 a| dB; a brightness that changed is at
    0.
    """
    picture = 0.9 * textured(1)
    assert detail_distance(factor * picture, picture).tolist() == pytest.approx(
        [abs(20 * math.log10(factor))] * 2, rel=0.03
    )
    assert detail_distance(picture + 0.05, picture).tolist() == pytest.approx([0.0] * 2, abs=1e-3)


def test_noise_has_the_energy_of_its_band() -> None:
    """White noise of variance v has, in the finest octave, v times what the high-pass filter 1 -
    blur lets through: the sum of its squared taps.
    """
    taps = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    high = -(taps[:, None] * taps)
    high[2, 2] += 1
    grain = 0.1 * torch.randn(
        1, 1, 256, 256, generator=torch.Generator().manual_seed(0)
    )  # grey, so luma is the same
    expected = 10 * math.log10(0.05**2 * float(high.square().sum()))
    found = octave_energies(grain.expand(1, 3, -1, -1))
    assert found.shape == (1, OCTAVES)
    assert found[0, 0].item() == pytest.approx(
        expected, abs=0.25
    )  # the mean of a logarithm lies a little below


def test_it_is_blind_to_where_things_are() -> None:
    """Mirrored pictures are at 0, and those of another seed of the same texture are nearer than a
    touch of blur.
    """
    picture = textured(1)
    assert detail_distance(picture.flip(-1), picture).tolist() == pytest.approx([0.0] * 2, abs=0.05)
    blurred = detail_distance(gaussian_blur(picture, [7, 7], [0.5, 0.5]), picture)
    assert bool((detail_distance(textured(2), picture) < blurred / 3).all())


@pytest.mark.parametrize("damage", ["noise", "blur", "pixels", "contrast"])
def test_it_orders_damage(damage: str) -> None:
    """Each kind is farther away the stronger it is."""
    picture = textured(1)
    grain = torch.randn(picture.shape, generator=torch.Generator().manual_seed(9))

    def damaged(strength: int) -> Tensor:
        if damage == "noise":
            return (picture + 0.1 * strength * grain).clamp(-1, 1)
        if damage == "blur":
            return gaussian_blur(picture, [9, 9], [0.4 * strength, 0.4 * strength])
        if damage == "pixels":
            return (
                torch.nn.functional.avg_pool2d(picture, 2**strength)
                .repeat_interleave(2**strength, -1)
                .repeat_interleave(2**strength, -2)
            )
        return picture * (1 - 0.2 * strength)

    means = [float(detail_distance(damaged(strength), picture).mean()) for strength in (1, 2, 3)]
    assert 0.2 < means[0] < means[1] < means[2]
