"""How far are clips from bf16's, frame by frame and from one frame to the next?

LPIPS of frames, and tLP.

LPIPS of a clip is the mean over its frames, or over every `stride`-th one, each compared with the
same frame of the reference. It does not see flicker as such: the same errors in another order give
the same mean. So `motion_difference` compares how much each clip changes from a frame to the next:
|d(x_t, x_t+1) - d(r_t, r_t+1)|, averaged over t = 0, stride, 2 stride, ... This is tLP of TecoGAN
(Chu et al. 2020, "Learning temporal coherence via self-supervision for GAN-based video generation",
section 5), with LPIPS as the distance d. A picture that drifted to another composition moves as
much as its reference; flicker and freezing do not.

    per_frame = frame_distances(distance, media, references, stride=1)     # (B, frames that were compared)

Frames go to the distance's device a few at a time (`media.pictures_at_once`): memory does not grow
with the length of a clip.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sensitivity.models.media import Media, pictures_at_once

Compare = Callable[[Tensor, Tensor], Tensor]
"""Pictures and references, (N, 3, H, W) in [-1, 1] -> (N,), as a `Distance` does."""


def frame_distances(
    distance: Compare, clips: Media, references: Media, *, stride: int, device: str = "cpu"
) -> Tensor:
    """(B, N) distances of every `stride`-th frame of each clip from the same frame of its
    reference, fp32 on the CPU; fewer clips than references: the first ones.

    `device` is where the frames are when they are compared.
    """
    at = range(0, clips.pictures.shape[1], stride)

    def row(b: int) -> Tensor:
        return _in_chunks(
            at,
            clips,
            lambda chunk: distance(
                clips.frames(b, chunk, device), references.frames(b, chunk, device)
            ),
        )

    return torch.stack([row(b) for b in range(len(clips))])


def motion_difference(
    distance: Compare, clips: Media, references: Media, *, stride: int, device: str = "cpu"
) -> Tensor:
    """(B,) mean of |d(x_t, x_t+1) - d(r_t, r_t+1)| over every `stride`-th frame t of each clip; 0
    for clips of one frame.
    """
    starts = range(0, clips.pictures.shape[1] - 1, stride)
    if not starts:
        return torch.zeros(len(clips))
    return torch.stack(
        [
            (
                _motion(distance, clips, b, starts, device)
                - _motion(distance, references, b, starts, device)
            )
            .abs()
            .mean()
            for b in range(len(clips))
        ]
    )


def _motion(
    distance: Compare, clips: Media, clip: int, starts: Sequence[int], device: str
) -> Tensor:
    """(N,) d(x_t, x_t+1) of one clip."""

    def differences(chunk: Sequence[int]) -> Tensor:
        return distance(
            clips.frames(clip, chunk, device), clips.frames(clip, [t + 1 for t in chunk], device)
        )

    return _in_chunks(starts, clips, differences)


def _in_chunks(
    at: Sequence[int], clips: Media, measure: Callable[[Sequence[int]], Tensor]
) -> Tensor:
    """What `measure` gives for these frames, asked for a few at a time."""
    step = pictures_at_once(*clips.pictures.shape[-2:])
    return torch.cat([measure(at[start : start + step]) for start in range(0, len(at), step)])
