"""Clips with sound are scored frame by frame, and sound counts."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.errors import SpecError
from sensitivity.fidelity.evaluator import Evaluator
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.loading import LoadedPipeline, load_pipeline
from sensitivity.spec.loading import load_spec

from support.clip_pipelines import save_ltx2
from support.media import all_linears, changed, random_clips


@pytest.fixture(scope="module")
def loaded(ltx2_study: Path) -> LoadedPipeline:
    return load_pipeline(load_spec(ltx2_study), device="cpu")


Make = Callable[..., Evaluator]


Make


@pytest.fixture
def make(loaded: LoadedPipeline, tmp_path: Path) -> Iterator[Make]:
    """Gives an Evaluator whose study says other things, as `make(fidelity={"frame_stride": 2})`;
    all share one cache of references.
    """
    made: list[Evaluator] = []

    def build(**sections: dict[str, Any]) -> Evaluator:
        for old in made:
            old.close()
        made.append(
            Evaluator(
                replace(loaded, spec=changed(loaded.spec, **sections)),
                cache_folder=tmp_path / "references",
            )
        )
        return made[-1]

    yield build
    made[-1].close()


def test_a_score_of_clips_has_frames_and_sound(make: Make) -> None:
    """LPIPS of a clip is the mean over its frames; damage adds the weighed sound; held-out clips
    have detail and motion as well.
    """
    evaluator = make()
    score = evaluator.score(all_linears(evaluator), "held_out")
    assert [len(row) for row in score.per_frame] == [9, 9]
    assert [sum(row) / 9 for row in score.per_frame] == pytest.approx(score.per_prompt, rel=1e-5)
    assert score.audio is not None
    assert score.motion is not None
    assert score.detail_db is not None
    for measure in (score.audio, score.motion, score.detail_db):
        assert len(measure.per_prompt) == 2
        assert min(measure.per_prompt) > 0
        assert measure.noise_floor is not None
        assert measure.noise_floor < measure.mean
    assert score.damages == pytest.approx(
        [a + 0.5 * b for a, b in zip(score.per_prompt, score.audio.per_prompt, strict=True)]
    )
    assert score.damage == pytest.approx(sum(score.damages) / 2)
    assert Score.from_json(json.loads(json.dumps(score.to_json()))) == score
    searched = evaluator.score(all_linears(evaluator), "search")
    assert searched.audio is not None
    assert (searched.motion, searched.detail_db) == (None, None)


def test_bf16_is_at_zero_of_everything(make: Make) -> None:
    """Nothing quantized is bf16: LPIPS, sound, motion and detail are 0."""
    score = make().score({}, "held_out")
    assert score.damages == (0.0, 0.0)
    assert [m.mean for m in (score.audio, score.motion, score.detail_db) if m is not None] == [
        0.0
    ] * 3


def test_a_stride_has_scores_of_its_own(make: Make) -> None:
    """References stay, since all frames are drawn; scores have another key and the rows of every
    other frame.
    """
    plain, other = make(), make(fidelity={"frame_stride": 2})
    assert other.key("search") == plain.key("search")
    assert other.evaluation_key("search") != plain.evaluation_key("search")
    assert [len(row) for row in other.score({}, "search").per_frame] == [5, 5, 5]


def test_a_looker_sees_damage(make: Make) -> None:
    """What may end a trial early is told LPIPS and sound together."""
    evaluator = make(search={"chunk": 1})
    full = evaluator.score(all_linears(evaluator), "search")
    seen: list[tuple[float, ...]] = []
    evaluator.score(
        all_linears(evaluator), "search", keep_going=lambda values: seen.append(values) or True
    )
    assert seen[-1] == pytest.approx(full.damages[:2], rel=1e-4)


def test_frames_are_blind_to_sound_and_damage_is_not(make: Make) -> None:
    """In a run of one step the last Linear of the sound cannot change a picture:

    LPIPS is 0 and damage is not.
    """
    evaluator = make(settings={"num_inference_steps": 1})
    score = evaluator.score({"audio_proj_out": FormatName.NVFP4}, "search")
    assert score.mean == 0
    assert score.damage > 0


def test_weight_and_bound_are_those_of_today(make: Make) -> None:
    """They are no part of the key: a score that is known is judged by what the study says now."""
    plain = make()
    known = plain.score(all_linears(plain), "search")
    other = make(fidelity={"audio_weight": 2.0, "max_audio_distance": 1e-6})
    assert other.evaluation_key("search") == plain.evaluation_key("search")
    judged = other.judged(known)
    assert judged.audio == known.audio
    assert (judged.audio_weight, judged.is_allowed, known.is_allowed) == (2.0, False, True)


def test_a_bound_on_sound_needs_sound(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study that bounds what the pipeline does not make is refused with what to do."""
    evaluator = make(fidelity={"max_audio_distance": 0.5})
    monkeypatch.setattr(MediaGenerator, "generate", lambda *_, **__: random_clips(1, count=3))
    with pytest.raises(
        SpecError,
        match=(
            r"`fidelity\.max_audio_distance` is 0\.5, and the LTX2Pipeline makes no sound; .* take"
            r" the line out"
        ),
    ):
        evaluator.score({}, "search")
