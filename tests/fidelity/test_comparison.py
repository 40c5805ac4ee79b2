"""What cannot be compared is an error, and what is not finite has no distance."""

from dataclasses import replace

import pytest
import torch

from sensitivity.errors import MeasurementError
from sensitivity.fidelity.comparison import Comparison

from support.media import Brightness, random_clips


def test_a_clip_that_is_black_or_not_a_number_fails() -> None:
    """A blank clip is an error where bf16's is not blank, NaN in one frame or in the sound one of
    its own; blank like its reference is no error.
    """
    comparison = Comparison(distance=Brightness(), device="cpu", stride=1)
    good, black = (
        random_clips(1),
        replace(random_clips(1), pictures=torch.zeros(2, 5, 3, 64, 64, dtype=torch.float16)),
    )
    with pytest.raises(MeasurementError, match=r"2 of 2 clips are blank \(prompt 0 first\)"):
        comparison.lpips(black, good)
    assert comparison.lpips(black, black)[0].tolist() == [0.0, 0.0]
    broken = replace(good, pictures=good.pictures.clone())
    broken.pictures[1, 3, 0, 0, 0] = torch.nan
    assert comparison.lpips(broken, good)[0].isnan().tolist() == [False, True]
    mute = replace(good, sound=torch.tensor([[[0.0, 1.0]], [[torch.nan, 0.0]]]), sample_rate=8000)
    assert comparison.lpips(mute, good)[0].isnan().tolist() == [False, True]
