"""Clips are compared frame by frame, and by how they change from one frame to the next."""

from dataclasses import replace

import pytest
import torch

from sensitivity.fidelity.frames import frame_distances, motion_difference
from sensitivity.fidelity.lpips import LpipsDistance
from sensitivity.models import media as media_module
from sensitivity.models.media import Media

from support.media import Brightness, random_clips


def test_frames_in_chunks_are_frames_all_at_once(
    tiny: LpipsDistance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LPIPS of each frame, and motion, are the same whether one, three or all frames are on the
    device together.
    """
    a, b = random_clips(1, frames=7), random_clips(2, frames=7)
    direct = torch.stack([tiny(a.frames(i, range(7)), b.frames(i, range(7))) for i in range(2)])
    for frames in (1, 3, 7):
        monkeypatch.setattr(media_module, "PIXELS_AT_ONCE", frames * 64 * 64)
        torch.testing.assert_close(
            frame_distances(tiny, a, b, stride=1), direct, rtol=1e-4, atol=1e-6
        )
        motion = motion_difference(tiny, a, b, stride=1)
        steps = [
            [tiny(x.frames(i, range(6)), x.frames(i, range(1, 7))) for x in (a, b)]
            for i in range(2)
        ]
        torch.testing.assert_close(
            motion, torch.stack([(p - q).abs().mean() for p, q in steps]), rtol=1e-3, atol=1e-6
        )


def test_no_more_pixels_than_allowed_are_compared_at_once(
    tiny: LpipsDistance, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long a clip, the distance sees a few frames at a time; pictures larger than the
    allowance come one by one.
    """
    seen: list[int] = []
    monkeypatch.setattr(media_module, "PIXELS_AT_ONCE", 2 * 64 * 64)
    frame_distances(
        lambda x, y: seen.append(len(x)) or tiny(x, y), random_clips(1), random_clips(2), stride=1
    )
    assert max(seen) == 2
    assert sum(seen) == 10
    assert media_module.pictures_at_once(4096, 4096) == 1


def test_a_stride_compares_frames_that_far_apart(tiny: LpipsDistance) -> None:
    """With stride 2 the rows are those of frames 0, 2 and 4, and the others may be anything."""
    a, b = random_clips(1), random_clips(2)
    other = replace(a, pictures=a.pictures.clone())
    other.pictures[:, 1::2] = 0.5
    assert torch.equal(
        frame_distances(tiny, other, b, stride=2), frame_distances(tiny, a, b, stride=1)[:, ::2]
    )
    assert not torch.equal(
        frame_distances(tiny, other, b, stride=1), frame_distances(tiny, a, b, stride=1)
    )


def grey(*levels: float) -> Media:
    """One clip of grey frames, levels in [0, 1]."""
    return Media.of_clips(torch.tensor(levels)[None, :, None, None, None].expand(1, -1, 3, 8, 8))


def test_motion_is_how_differently_clips_change() -> None:
    """Clips at any distance that change alike are at 0; one that flickers is as far as its steps
    differ, with any stride.
    """
    steady, ramp, flicker = (
        grey(0.5, 0.5, 0.5, 0.5),
        grey(0.0, 0.125, 0.25, 0.375),
        grey(0.5, 0.25, 0.5, 0.25),
    )
    distance = Brightness()
    assert motion_difference(distance, ramp, grey(0.5, 0.625, 0.75, 0.875), stride=1).tolist() == [
        0.0
    ]
    assert motion_difference(distance, flicker, steady, stride=1).tolist() == [
        pytest.approx(0.5)
    ]  # 0.25 in [0, 1] is 0.5 in [-1, 1]
    assert motion_difference(distance, flicker, ramp, stride=2).tolist() == [pytest.approx(0.25)]
    assert frame_distances(distance, flicker, steady, stride=1).mean() == pytest.approx(
        0.25
    )  # blind to the order
    assert motion_difference(distance, grey(0.5), grey(0.1), stride=1).tolist() == [0.0]
