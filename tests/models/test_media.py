"""Media hold pictures and clips without loss."""

import pytest
import torch

from sensitivity.errors import PipelineError
from sensitivity.models.media import Media

from support.media import random_clips


def test_frames_lose_nothing_of_bf16() -> None:
    """Half precision holds every bf16 value from 0 to 1 to within its smallest step, and NaN; a
    clip that has one is found, and so is a blank one.
    """
    values = torch.arange(0, 0x3F81, dtype=torch.int16).view(torch.bfloat16)  # all of them, 0 to 1
    frames = torch.zeros(1, 1, 3, 1, len(values), dtype=torch.bfloat16)
    frames[0, 0, 0, 0] = values
    kept = Media.of_clips(frames).pictures[0, 0, 0, 0].float()
    assert torch.equal(kept[values > 2**-14], values[values > 2**-14].float())
    assert float((kept - values.float()).abs().max()) <= 2**-25
    three = torch.rand(3, 2, 3, 8, 8)
    three[1, 1, 0, 0, 0] = torch.nan
    three[2] = 0.25
    media = Media.of_clips(three, sound=torch.zeros(3, 1, 4), sample_rate=8000)
    assert media.is_finite().tolist() == [True, False, True]
    assert media.is_blank().tolist() == [False, False, True]
    inf = torch.full((3, 1, 4), torch.inf)
    assert (
        Media.of_clips(torch.rand(3, 2, 3, 8, 8), sound=inf, sample_rate=8000).is_finite().tolist()
        == [False] * 3
    )


def test_clips_of_different_lengths_are_refused() -> None:
    """Where a pipeline chooses the length of a clip by itself, the message says what to set."""
    with pytest.raises(PipelineError, match=r"clips of different sizes .* set num_frames"):
        Media.joined([random_clips(1, frames=5), random_clips(2, frames=4)])
