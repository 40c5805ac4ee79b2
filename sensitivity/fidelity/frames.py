"""How far are clips from bf16's, frame by frame, and from one frame to the next?

`frame_distances` is LPIPS of frames. LPIPS of a clip is its mean over the frames that are compared:
frames 0, `stride`, 2 `stride`, ..., each with the same frame of the reference. It does not see
flicker: the same errors in another order give the same mean.

`motion_difference` therefore compares how much each clip changes from one frame to the next:
|d(x_t, x_t+1) - d(r_t, r_t+1)|, averaged over t = 0, stride, 2 stride, ... This is tLP of TecoGAN
(Chu et al. 2020, "Learning temporal coherence via self-supervision for GAN-based video generation",
section 5), with LPIPS as the distance d. A clip that drifted to another composition moves as much
as its reference; one that flickers or freezes does not.

Memory. A few frames are on the distance's device at a time (`media.pictures_at_once`), however long
the clip is.

    per_frame = frame_distances(distance, media, references, stride=1)     # (B, frames compared)
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from sensitivity.models.media import Media, pictures_at_once

Compare = Callable[[Tensor, Tensor], Tensor]
"""(pictures, references), both (N, 3, H, W) in [-1, 1] -> (N,), as a `Distance`."""


def frame_distances(
    distance: Compare, clips: Media, references: Media, *, stride: int, device: str = "cpu"
) -> Tensor:
    """Distances of frames of each clip from the same frames of its reference.

    Args:
        distance: The distance of frames.
        clips: B clips.
        references: B clips or more, of which the first B count.
        stride: Frames 0, stride, 2 stride, ... are compared.
        device: Where frames are when they are compared.

    Returns:
        (B, N) fp32 on the CPU, N being the frames that were compared.
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
    """How differently each clip and its reference change from frame to frame (see the module).

    Arguments as in `frame_distances`.

    Returns:
        (B,) fp32 on the CPU; 0 for clips of one frame.
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
    """(N,) distances d(x_t, x_t+1) of one clip."""

    def differences(chunk: Sequence[int]) -> Tensor:
        return distance(
            clips.frames(clip, chunk, device), clips.frames(clip, [t + 1 for t in chunk], device)
        )

    return _in_chunks(starts, clips, differences)


def _in_chunks(
    at: Sequence[int], clips: Media, compare: Callable[[Sequence[int]], Tensor]
) -> Tensor:
    """`compare` of these frames, called with a few of them at a time."""
    step = pictures_at_once(*clips.pictures.shape[-2:])
    return torch.cat([compare(at[start : start + step]) for start in range(0, len(at), step)])
