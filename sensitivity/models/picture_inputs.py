"""Does a pipeline want a picture that a study cannot give, and what else could its weights do?

    picture_arguments(call)                 # ["image", "mask_image"]
    needs_picture(spec, "FluxImg2ImgPipeline", call, reason, classes)       # NeedsPictureError

A study gives texts alone. Pipelines that edit (image to image, inpainting, ControlNet) take
pictures as well, most of them with a default of None, so only a run tells that they need one. The
same components often make a pipeline that generates from text: diffusers lists such families
(`auto_pipeline`).

What it does not do: generate from pictures.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

from sensitivity.errors import NeedsPictureError

PICTURES = re.compile(
    r"(?:(?:control|cond|condition|condtioning|example|reference|ref|last|original|input|source"
    r"|pose|face|background|mask|init)_)?(?:images?|videos?)"
    r"|mask|conditions|reference_conditions|image_reference|image_embeds|image_embeddings"
    r"|depth_map"
)
"""Arguments of diffusers' pipelines that are pictures, clips, masks, or what was made of them."""
EDITS = re.compile(
    r"Img2Img|Image2|ImageTo|(?<!T)I2[IV]|Inpaint|Fill|Control|Edit|VideoTo|Video2|V2V|Upscal"
    r"|Refiner|SuperRes|Redux|Depth|Variation|Pix2Pix|Adapter|Animate|VACE|Layered|Cloze|Transfer"
)
"""Parts of the names of diffusers' pipelines that edit."""
ABOUT_PICTURES = re.compile(
    r"\b(image|images|mask|video|videos|picture|control|condition|conditions|PIL)\b", re.IGNORECASE
)
"""Words in errors about a missing picture."""
VARIANTS = re.compile(r"-(?:controlnet|control|union|pag|inpaint|edit|img2img)")
"""Parts of the keys under which diffusers lists variants of a family."""


def picture_arguments(call: Collection[str]) -> list[str]:
    """The arguments of a pipeline's call that are pictures, in their order."""
    return [name for name in call if PICTURES.fullmatch(name)]


def is_about_pictures(pipeline: str, call: Collection[str], reason: str) -> bool:
    """Whether a run without pictures failed for the lack of one.

    It takes some, and its class is one that edits, or the error speaks of them.
    """
    return bool(picture_arguments(call)) and bool(
        EDITS.search(pipeline) or ABOUT_PICTURES.search(reason)
    )


def needs_picture(
    study: str, pipeline: str, call: Collection[str], components: Mapping[str, Any], reason: str
) -> NeedsPictureError:
    """The error for a pipeline that needs a picture.

    Args:
        study: the study's name.
        pipeline: the pipeline's class.
        call: arguments of its call.
        components: its components, by name.
        reason: why it is believed.
    """
    other = text_pipeline(pipeline, components)
    step = (
        "name the text-to-image or text-to-video model of the same family"
        if other is None
        else f"its components make a {other}, which generates from text: save that with"
        f" `{other}.from_pipe(pipeline).save_pretrained(folder)`, and name the folder"
    )
    return NeedsPictureError(
        f"{study}: {pipeline} needs a picture ({', '.join(picture_arguments(call))}), and a study"
        f" gives texts alone ({reason}); expected a pipeline of pictures or videos from text:"
        f" {step}"
    )


def text_pipeline(pipeline: str, components: Mapping[str, Any]) -> str | None:
    """The class that generates from text with these components, where diffusers lists one.

    A denoiser that reads a mask or picture beside its latents has more channels in than out, and
    needs them always.
    """
    from diffusers.pipelines import auto_pipeline

    for name in ("transformer", "unet"):
        config = getattr(components.get(name), "config", None) or {}
        widths = [dict(config).get(key) for key in ("in_channels", "out_channels")]
        if None not in widths and widths[0] != widths[1]:
            return None
    families = [
        key
        for listed in ("TEXT2IMAGE", "IMAGE2IMAGE", "INPAINT")
        for key, cls in _family(auto_pipeline, listed).items()
        if cls.__name__ == pipeline
    ]
    made = {key: cls.__name__ for key, cls in _family(auto_pipeline, "TEXT2IMAGE").items()}
    plain = (made.get(VARIANTS.sub("", key)) for key in families)
    return next((name for name in plain if name and not EDITS.search(name)), None)


def _family(auto_pipeline: Any, listed: str) -> dict[str, type]:
    return dict(getattr(auto_pipeline, f"AUTO_{listed}_PIPELINES_MAPPING", {}))
