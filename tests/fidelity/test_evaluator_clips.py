"""Clips with sound are scored frame by frame, and sound counts."""

import json
from collections.abc import Callable

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.errors import SpecError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.fidelity.score import Score
from sensitivity.models.generating import MediaGenerator

from support.media import all_linears, random_clips

Make = Callable[..., Evaluator]


def test_a_score_of_clips_has_frames_and_sound(make_clip_evaluator: Make) -> None:
    """LPIPS of a clip is the mean over its frames; damage adds the weighed sound; held-out clips
    have detail and motion as well, and every clip an error of the latents of both.
    """
    evaluator = make_clip_evaluator()
    score = evaluator.score(all_linears(evaluator), "held_out")
    assert [len(row) for row in score.per_frame] == [9, 9]
    assert [sum(row) / 9 for row in score.per_frame] == pytest.approx(score.per_prompt, rel=1e-5)
    assert score.audio is not None
    assert score.motion is not None
    assert score.detail_db is not None
    assert score.latent is not None
    for metric in (score.audio, score.motion, score.detail_db, score.latent):
        assert len(metric.per_prompt) == 2
        assert min(metric.per_prompt) > 0
        assert metric.noise_floor is not None
        assert metric.noise_floor < metric.mean
    assert score.damages == pytest.approx(
        [a + 0.5 * b for a, b in zip(score.per_prompt, score.audio.per_prompt, strict=True)]
    )
    assert score.damage == pytest.approx(sum(score.damages) / 2)
    assert Score.from_json(json.loads(json.dumps(score.to_json()))) == score
    searched = evaluator.score(all_linears(evaluator), "search")
    assert searched.audio is not None
    assert (searched.motion, searched.detail_db) == (None, None)


def test_bf16_is_at_zero_of_everything(make_clip_evaluator: Make) -> None:
    """Nothing quantized is bf16: LPIPS, sound, motion, detail and latents are 0."""
    score = make_clip_evaluator().score({}, "held_out")
    assert score.damages == (0.0, 0.0)
    beside = (score.audio, score.motion, score.detail_db, score.latent)
    assert [metric.mean for metric in beside if metric is not None] == [0.0] * 4


def test_a_stride_has_scores_of_its_own(make_clip_evaluator: Make) -> None:
    """References stay, since all frames are generated; scores have another key, and rows of every
    other frame.
    """
    plain, other = make_clip_evaluator(), make_clip_evaluator(fidelity={"frame_stride": 2})
    assert other.key("search") == plain.key("search")
    assert other.evaluation_key("search") != plain.evaluation_key("search")
    assert [len(row) for row in other.score({}, "search").per_frame] == [5, 5, 5]


def test_an_interim_look_sees_damage(make_clip_evaluator: Make) -> None:
    """`keep_going` is called with LPIPS and sound together."""
    evaluator = make_clip_evaluator(search={"chunk": 1})
    full = evaluator.score(all_linears(evaluator), "search")
    seen: list[tuple[float, ...]] = []
    evaluator.score(
        all_linears(evaluator), "search", keep_going=lambda values: seen.append(values) or True
    )
    assert seen[-1] == pytest.approx(full.damages[:2], rel=1e-4)


def test_frames_are_blind_to_sound_and_damage_is_not(make_clip_evaluator: Make) -> None:
    """In a run of one step the last Linear of the sound cannot change a picture:

    LPIPS is 0 and damage is not.
    """
    evaluator = make_clip_evaluator(settings={"num_inference_steps": 1})
    score = evaluator.score({"audio_proj_out": FormatName.NVFP4}, "search")
    assert score.mean == 0
    assert score.damage > 0


def test_weight_and_bound_are_those_of_today(make_clip_evaluator: Make) -> None:
    """They are no part of the key: a score that is known is judged by what the study says now."""
    plain = make_clip_evaluator()
    known = plain.score(all_linears(plain), "search")
    other = make_clip_evaluator(fidelity={"audio_weight": 2.0, "max_audio_distance": 1e-6})
    assert other.evaluation_key("search") == plain.evaluation_key("search")
    judged = other.judged(known)
    assert judged.audio == known.audio
    assert (judged.audio_weight, judged.is_allowed, known.is_allowed) == (2.0, False, True)


def test_a_bound_on_sound_needs_sound(
    make_clip_evaluator: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A study that bounds what the pipeline does not make is refused with what to do."""
    evaluator = make_clip_evaluator(fidelity={"max_audio_distance": 0.5}, prompts={"seed": 99})
    monkeypatch.setattr(MediaGenerator, "generate", lambda *_, **__: random_clips(1, count=3))
    with pytest.raises(
        SpecError,
        match=(
            r"`fidelity\.max_audio_distance` is 0\.5, and the LTX2Pipeline makes no sound; .* Take"
            r" the line out"
        ),
    ):
        evaluator.score({}, "search")
