"""Pictures and clips are generated alike in any batch, and what is neither is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sensitivity.errors import PipelineError
from sensitivity.models.generating import MediaGenerator, digest_of, generation_key, sample_rate_of
from sensitivity.models.loading import LoadedPipeline, load_pipeline
from sensitivity.spec.loading import load_spec
from sensitivity.spec.study_spec import StudySpec

from support.media import changed


def test_a_pipeline_of_clips_with_sound_is_generated(ltx2: LoadedPipeline) -> None:
    """Frames are those that the pipeline gives, in [-1, 1] when they are read; the sound comes with
    the rate of the vocoder.
    """
    media = MediaGenerator(ltx2).generate(["a red ring"], [3], batch_size=1)
    plain = ltx2.pipe(
        prompt=["a red ring"],
        **ltx2.spec.settings,
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


def test_a_clip_does_not_depend_on_the_batch(ltx2: LoadedPipeline) -> None:
    """Three clips generated one by one, two at a time or all at once are the same clips with the
    same sound.
    """
    texts, seeds = ["a red ring", "a dog barks", "a star"], [0, 1, 2]
    alone, pairs, together = (
        MediaGenerator(ltx2).generate(texts, seeds, batch_size=size) for size in (1, 2, 3)
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
            r"returns a SimpleNamespace, no pictures; expected a pipeline of pictures or videos",
        ),
    ],
)
def test_what_is_neither_pictures_nor_clips_is_refused(
    ltx2: LoadedPipeline, monkeypatch: pytest.MonkeyPatch, output: Any, message: str
) -> None:
    """The message names what came instead."""
    monkeypatch.setattr(type(ltx2.pipe), "__call__", lambda _self, **_settings: output)
    media_generator = MediaGenerator(
        replace(ltx2, spec=changed(ltx2.spec).model_copy(update={"settings": {}}), text=None)
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
        match=r"no.* sampling rate; expected one of output_sampling_rate, .* vocoder or audio_vae",
    ):
        sample_rate_of(SimpleNamespace(vae=vae))


def media_generator_of(
    tiny_study: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., Any]
) -> MediaGenerator:
    """A MediaGenerator whose pipeline's call is another."""
    spec: StudySpec = load_spec(tiny_study).model_copy(update={"settings": {}})
    loaded = load_pipeline(spec, device="cpu")
    monkeypatch.setattr(type(loaded.pipe), "__call__", call)
    return MediaGenerator(replace(loaded, text=None))


@pytest.mark.parametrize("name", ["images", "image", "frames", "video"])
def test_pictures_are_found_by_each_name_that_diffusers_has(
    tiny_study: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Kandinsky 5 calls its picture `image`, Cosmos 3 its clip `video`; a field that is None is
    passed over.
    """
    shown = torch.rand(1, 3, 32, 32) if name.startswith("image") else torch.rand(1, 2, 3, 32, 32)
    output = SimpleNamespace(**({"images": None} if name != "images" else {}), **{name: shown})
    media = media_generator_of(tiny_study, monkeypatch, lambda _self, **_: output).generate(
        ["a"], [0], batch_size=1
    )
    assert media.is_video == (shown.dim() == 5)
    assert torch.equal(media.pictures, shown.to(torch.float16) if media.is_video else shown * 2 - 1)


@pytest.mark.parametrize(
    "error",
    [NameError("name 'ftfy' is not defined"), ImportError("cosmos_guardrail is not installed")],
)
def test_a_package_that_a_pipeline_misses_is_named(
    tiny_study: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """diffusers uses some packages without a look whether they are there."""

    def call(_self: Any, **_settings: Any) -> None:
        raise error

    with pytest.raises(
        PipelineError,
        match=(
            rf"FluxPipeline does not run here \({type(error).__name__}: {error}\).*install the one"
            r" that is named"
        ),
    ):
        media_generator_of(tiny_study, monkeypatch, call).generate(["a"], [0], batch_size=1)


def test_settings_and_prompts_reach_the_pipeline(
    tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call has one seeded CPU generator and one negative prompt for each prompt, settings of
    the caller replace the study's, and progress is reported after each call.
    """
    calls: list[dict[str, Any]] = []

    def call(_self: Any, **settings: Any) -> Any:
        calls.append(settings)
        return SimpleNamespace(images=torch.zeros(len(settings["prompt"]), 3, 8, 8))

    generator = media_generator_of(tiny_study, monkeypatch, call)
    generator.settings = {"guidance_scale": 3.0, "negative_prompt": "blurred"}
    done: list[int] = []
    pictures = generator.generate_pictures(
        ["a", "b", "c"], [7, 8, 9], batch_size=2, after_batch=done.append, guidance_scale=1.0
    )
    assert (pictures.shape, done) == ((3, 3, 8, 8), [2, 3])
    assert [call["prompt"] for call in calls] == [["a", "b"], ["c"]]
    assert [call["negative_prompt"] for call in calls] == [["blurred"] * 2, ["blurred"]]
    assert {call["guidance_scale"] for call in calls} == {1.0}
    seeds = [generator.initial_seed() for call in calls for generator in call["generator"]]
    assert seeds == [7, 8, 9]
    assert {x.device.type for call in calls for x in call["generator"]} == {"cpu"}


def test_keys_of_caches_stay_what_they_were(tiny_study: Path) -> None:
    """The keys and values of `generation_key`, and the digest of a key, are those of every version
    so far: cached references keep their names.
    """
    loaded = load_pipeline(load_spec(tiny_study), device="cpu")
    stamp = {"torch": "1", "torchao": "2", "diffusers": "3", "transformers": "4", "python": "5"}
    stamp |= {"device_type": "cpu", "device": "a CPU"}
    assert generation_key(replace(loaded, weights_hash="0" * 64), stamp) == {
        "weights": "0" * 64,
        "component": "transformer",
        "settings": dict(loaded.spec.settings),
        "dtype": "bfloat16",
        "pipeline": "FluxPipeline",
        "threads": torch.get_num_threads(),
        "torch": "1",
        "torchao": "2",
        "diffusers": "3",
        "transformers": "4",
        "device_type": "cpu",
    }
    on_gpu = generation_key(replace(loaded, device="cuda:0"), stamp)
    assert (on_gpu["threads"], on_gpu["device"]) == (0, "a CPU")
    assert digest_of({"b": 1, "a": "\u00e9"}) == (
        "d73913efb309b5986cdc9592ec8697c5a024c2240ce3217cf777d396c4e383ad"
    )
