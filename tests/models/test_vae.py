"""A VAE decodes in tiles where the study asks for it, and clips one by one where it can."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from sensitivity.errors import SpecError
from sensitivity.models.generating import generation_key
from sensitivity.models.loading import load_pipeline
from sensitivity.models.skeleton import build_skeleton
from sensitivity.models.vae import enable_vae_slicing
from sensitivity.spec.loading import load_spec


def test_a_vae_decodes_in_tiles_where_the_study_says_so(
    tiny_study: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`model.vae_tiling` is honoured with and without weights, is part of what decides a picture,
    and is refused where the VAE cannot.
    """
    plain = load_spec(tiny_study)
    tiled = plain.model_copy(update={"model": plain.model.model_copy(update={"vae_tiling": True})})
    before, after = load_pipeline(plain, device="cpu"), load_pipeline(tiled, device="cpu")
    assert [loaded.pipe.vae.use_tiling for loaded in (before, after)] == [False, True]
    assert build_skeleton(tiled).vae.use_tiling
    stamp = dict.fromkeys(("torch", "torchao", "diffusers", "transformers", "device_type"), "")
    assert generation_key(after, stamp) == generation_key(before, stamp) | {"vae_tiling": True}

    def refuse(_vae: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(type(after.pipe.vae), "enable_tiling", refuse)
    for make in (lambda: load_pipeline(tiled, device="cpu"), lambda: build_skeleton(tiled)):
        with pytest.raises(
            SpecError,
            match=(
                r"`model.vae_tiling` is true, and the FluxPipeline has a vae of class"
                r" AutoencoderKL, which does not .*take the line out"
            ),
        ):
            make()


def test_clips_are_decoded_one_by_one_where_that_is_safe() -> None:
    """A VAE that can decode slices does; one without the method, one whose method raises, and one
    that conditions on a timestep are left as they are.
    """
    sliced: list[bool] = []

    class Vae:
        def __init__(self, **config: object) -> None:
            self.config = SimpleNamespace(**config)

        def enable_slicing(self) -> None:
            sliced.append(True)
            if getattr(self.config, "fails", False):
                raise NotImplementedError

    enable_vae_slicing(None)
    enable_vae_slicing(Vae(timestep_conditioning=True))
    assert sliced == []
    enable_vae_slicing(Vae())
    enable_vae_slicing(Vae(fails=True))
    assert sliced == [True, True]
