"""What a pipeline decodes is noted, and changes nothing of what it makes."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sensitivity.models.decoded_latents import recording_latents
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.loading import LoadedPipeline, load_pipeline
from sensitivity.models.media import Media
from sensitivity.spec.loading import load_spec


class Decoder(nn.Module):
    """Doubles what it decodes, in place."""

    def decode(self, z: Tensor, *, scale: float = 2.0) -> Tensor:
        return z.mul_(scale)


def test_latents_are_what_each_decoder_was_given() -> None:
    """In one call or one by one, as positional or named argument, and before a decoder writes into
    them; afterwards nothing is intercepted.
    """
    pipe: Any = SimpleNamespace(
        components={"vae": Decoder(), "audio_vae": Decoder(), "text_encoder": nn.Linear(1, 1)}
    )
    video, sound = torch.rand(2, 3, 4), torch.rand(2, 5)
    with recording_latents(pipe) as seen:
        for one in video.clone().split(1):
            pipe.components["vae"].decode(one)
        decoded = pipe.components["audio_vae"].decode(z=sound.clone(), scale=3.0)
    assert torch.equal(decoded, sound * 3)
    found = seen.of_each(2)
    assert [torch.equal(a, b) for a, b in zip(found, (sound, video), strict=True)] == [True] * 2
    assert seen.of_each(3) == ()  # nobody knows whose they are
    assert not any("decode" in vars(part) for part in pipe.components.values())


def test_pictures_are_the_same_and_latents_come_with_them(tiny_study: Path) -> None:
    """Pictures are diffusers' own bit for bit; their latents are those of the pipeline, unpacked
    and scaled, and follow the prompts through batches and `first`.
    """
    loaded = load_pipeline(load_spec(tiny_study), device="cpu")
    texts, seeds = ["a red ring", "a blue star", "a dog"], [0, 1, 2]
    media = MediaGenerator(loaded).generate(texts, seeds, batch_size=2)
    (latents,) = media.latents
    vae = loaded.pipe.vae
    with torch.no_grad():
        pictures = loaded.pipe(
            prompt=texts[:2],
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[:2]],
            **{**loaded.spec.settings, "output_type": "pt"},
        ).images
        decoded = loaded.pipe.image_processor.postprocess(
            vae.decode(latents[:2], return_dict=False)[0], output_type="pt"
        )
    assert torch.equal(media.pictures[:2], pictures.float() * 2 - 1)
    assert torch.equal(decoded, pictures)
    assert len(latents) == 3
    assert torch.equal(media.first(1).latents[0], latents[:1])


def test_a_clip_with_sound_has_latents_of_both(ltx2: LoadedPipeline) -> None:
    """The audio VAE's come first, as its name does."""
    media = MediaGenerator(ltx2).generate(["a red ring"], [3], batch_size=1)
    assert [latents.dim() for latents in media.latents] == [4, 5]


@pytest.mark.parametrize("other", [(), (torch.zeros(1, 2),), (torch.zeros(1, 3),) * 2])
def test_media_of_different_latents_have_none(other: tuple[Tensor, ...]) -> None:
    """Where a part of the media has none, or others, the whole has none."""
    pictures = torch.zeros(1, 3, 8, 8)
    parts = [
        Media(pictures=pictures, latents=(torch.zeros(1, 3),)),
        Media(pictures=pictures, latents=other),
    ]
    assert Media.joined(parts).latents == ()
    assert Media.joined(parts[:1] * 2).latents[0].shape == (2, 3)
