"""Errors of latents in closed form."""

import pytest
import torch

from sensitivity.fidelity.latents import relative_errors


def test_the_error_is_relative_to_each_prompts_own_norm() -> None:
    """A tenth more is an error of 0.1, the negative one of 2, whatever the size."""
    reference = torch.tensor([[3.0, 4.0], [30.0, 40.0]])
    found = torch.stack([reference[0] * 1.1, -reference[1]])
    assert relative_errors([found], [reference]).tolist() == pytest.approx([0.1, 2.0])
    assert relative_errors([reference], [reference]).tolist() == [0.0, 0.0]


def test_squares_of_several_add_up_and_zeros_are_passed_over() -> None:
    """0.3 of the video and 0.4 of the sound are 0.5; to latents of zeros nothing is relative."""
    video, sound, nothing = torch.ones(1, 2, 2), torch.ones(1, 5) * 7, torch.zeros(1, 2)
    found = relative_errors((video * 1.3, sound * 0.6, nothing + 1), (video, sound, nothing))
    assert found.tolist() == pytest.approx([0.5])
    assert relative_errors([video * torch.nan], [video]).isnan().all()
