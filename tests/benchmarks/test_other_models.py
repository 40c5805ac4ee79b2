"""What the further models are trained on."""

import torch
from other_denoisers import FRAMES, KINDS
from other_models import clip_of
from scenes import sample_scenes


def test_only_the_first_object_of_a_clip_moves() -> None:
    """Frames differ where the first object is, and hardly anywhere else."""
    generator = torch.Generator().manual_seed(3)
    scenes = sample_scenes(4, generator)
    clips = clip_of(scenes, generator)
    assert clips.shape == (4, FRAMES, 3, 128, 128)
    changed = (clips[:, 0] - clips[:, -1]).abs().amax(1) > 0.01  # (B, H, W)
    share = changed.flatten(1).float().mean(1)
    assert ((share > 0) & (share < 0.35)).all()


def test_each_kind_is_sampled_by_what_it_predicts() -> None:
    """The video model predicts v, the others noise."""
    kinds = {name: kind.scheduler().config.prediction_type for name, kind in KINDS.items()}
    assert kinds == {"pixart": "epsilon", "unet": "epsilon", "video": "v_prediction"}
