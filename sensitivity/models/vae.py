"""How does a pipeline's VAE decode large pictures and clips in less memory?

`enable_vae_tiling` splits a picture into tiles where the study asks for it, and
`enable_vae_slicing` decodes the clips of a batch one after the other where the VAE can.

    enable_vae_tiling(spec, pipe)       # model.vae_tiling = true
    enable_vae_slicing(pipe.vae)

Tiles are blended where they overlap, so tiling changes pictures. Slicing does not.
"""

from contextlib import suppress
from typing import Any

from sensitivity.errors import SpecError
from sensitivity.spec.study_spec import StudySpec


def enable_vae_tiling(spec: StudySpec, pipe: Any) -> None:
    """Let the pipeline decode in tiles if the study says so (`model.vae_tiling`).

    Raises:
        SpecError: the pipeline has no VAE, or one that does not decode in tiles.
    """
    if not spec.model.vae_tiling:
        return
    vae: Any = getattr(pipe, "vae", None)
    try:
        vae.enable_tiling()
    except (AttributeError, NotImplementedError):  # diffusers' VAEs lack the method, or it raises
        has = (
            "has no vae"
            if vae is None
            else f"has a vae of class {type(vae).__name__}, which does not decode in tiles"
        )
        raise SpecError(
            f"{spec.name}: `model.vae_tiling` is true, and the {type(pipe).__name__} {has};"
            " expected true only where the VAE has `enable_tiling`: take the line out of the study"
            " TOML"
        ) from None


def enable_vae_slicing(vae: Any) -> None:
    """Let a video VAE decode the clips of a batch one after the other, which bounds its memory.

    VAEs that condition on a timestep are left alone: diffusers 0.42 pairs each slice of LTX's
    latents with a slice of its decode timesteps, and these do not belong together.
    """
    if getattr(getattr(vae, "config", None), "timestep_conditioning", False):
        return
    with suppress(AttributeError, NotImplementedError):  # the VAE lacks the method, or it raises
        vae.enable_slicing()
