"""Pictures and clips are generated alike in any batch, and what is neither is refused."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sensitivity.errors import PipelineError
from sensitivity.models.generating import MediaGenerator, sample_rate_of
from sensitivity.models.loading import LoadedPipeline, load_pipeline
from sensitivity.spec.loading import load_spec

from support.clip_pipelines import save_ltx2


@pytest.fixture(scope="module")
def loaded(ltx2_study: Path) -> LoadedPipeline:
    return load_pipeline(load_spec(ltx2_study), device="cpu")


Make = Callable[..., Evaluator]


def test_a_pipeline_of_clips_with_sound_is_drawn(loaded: LoadedPipeline) -> None:
    """Frames are those that the pipeline gives, in [-1, 1] when they are looked at; the sound comes
    with the rate of the vocoder.
    """
    media = MediaGenerator(loaded).generate(["a red ring"], [3], batch_size=1)
    plain = loaded.pipe(
        prompt=["a red ring"],
        **loaded.spec.settings,
        output_type="pt",
        generator=[torch.Generator().manual_seed(3)],
    )
    assert media.is_video
    assert media.pictures.shape == (1, 9, 3, 64, 64)
    assert torch.equal(media.frames(0, [0, 8]), plain.frames[0, [0, 8]].float() * 2 - 1)
    assert media.sound is not None
    assert media.sound.shape == plain.audio.shape
    assert media.sound.dtype == torch.float32
    assert torch.equal(media.sound, plain.audio.float())
    assert media.sample_rate == 8000
    assert media.is_finite().tolist() == [True]
    assert media.is_blank().tolist() == [False]


def test_a_clip_does_not_depend_on_the_batch(loaded: LoadedPipeline) -> None:
    """Three clips drawn one by one, two at a time or all at once are the same clips with the same
    sound.
    """
    texts, seeds = ["a red ring", "a dog barks", "a star"], [0, 1, 2]
    alone, pairs, together = (
        MediaGenerator(loaded).generate(texts, seeds, batch_size=size) for size in (1, 2, 3)
    )
    for other in (pairs, together):
        torch.testing.assert_close(other.pictures, alone.pictures, atol=2e-3, rtol=0)
        torch.testing.assert_close(other.sound, alone.sound, atol=2e-3, rtol=0)
    assert not torch.equal(alone.pictures[0], alone.pictures[1])


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (SimpleNamespace(images=[1]), r"returns a list, no pictures"),
        (
            SimpleNamespace(frames=torch.zeros(1, 3, 8, 8)),
            r"returns a Tensor of shape \(1, 3, 8, 8\), no pictures",
        ),
        (
            SimpleNamespace(audios=torch.zeros(1, 8)),
            r"returns a SimpleNamespace, no pictures; allowed are pipelines of pictures or videos",
        ),
    ],
)
def test_what_is_neither_pictures_nor_clips_is_refused(
    loaded: LoadedPipeline, monkeypatch: pytest.MonkeyPatch, output: Any, message: str
) -> None:
    """The message names what came instead."""
    monkeypatch.setattr(type(loaded.pipe), "__call__", lambda _self, **_settings: output)
    media_generator = MediaGenerator(
        replace(loaded, spec=changed(loaded.spec).model_copy(update={"settings": {}}), text=None)
    )
    with pytest.raises(PipelineError, match=message):
        media_generator.generate(["a"], [0], batch_size=1)


def test_the_rate_of_a_sound_is_looked_up() -> None:
    """The vocoder says it before the audio VAE; where nobody does, the message names where it is
    looked for.
    """
    vae = SimpleNamespace(config=SimpleNamespace(sample_rate=16000))
    assert sample_rate_of(SimpleNamespace(audio_vae=vae)) == 16000
    assert (
        sample_rate_of(
            SimpleNamespace(
                audio_vae=vae,
                vocoder=SimpleNamespace(config=SimpleNamespace(output_sampling_rate=48000)),
            )
        )
        == 48000
    )
    with pytest.raises(
        PipelineError,
        match=r"at which rate; allowed is a vocoder or audio_vae .* output_sampling_rate",
    ):
        sample_rate_of(SimpleNamespace(vae=vae))
