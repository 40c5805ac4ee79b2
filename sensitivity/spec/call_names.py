"""Under which names does a pipeline's call take what a user means?

Most pipelines of diffusers agree on `height`, `width` and `num_inference_steps`. Some have names of
their own for the frames of a clip and for guidance.

    argument_of("frames", call)         # "num_frames", or "frames" (SanaVideo)
    frames_in({"frames": 81})           # 81

The names are those of the calls of diffusers 0.42. What it does not do: pipelines with two
denoisers that are guided separately have no single argument for guidance.
"""

from collections.abc import Container, Mapping
from typing import Any

from sensitivity.errors import SpecError

FRAMES = ("num_frames", "frames", "video_length")
"""Names for the number of frames: most pipelines, SanaVideo, Latte."""
NAMES = {
    "height": ("height",),
    "width": ("width",),
    "frames": FRAMES,
    "steps": ("num_inference_steps",),
    "guidance": ("guidance_scale", "true_cfg_scale", "distilled_guidance_scale"),
}
"""{what a user means: names of the argument that sets it, the usual one first}."""

PER_PROMPT = ("num_images_per_prompt", "num_videos_per_prompt")
"""Arguments that multiply the pictures of a prompt."""


def argument_of(meant: str, call: Container[str]) -> str | None:
    """The argument of a pipeline's call that sets a key of `NAMES`; None where it has none.

    Args:
        meant: a key of `NAMES`.
        call: arguments of the pipeline's call.
    """
    return next((name for name in NAMES[meant] if name in call), None)


def frames_in(settings: Mapping[str, Any]) -> int | None:
    """The number of frames that settings ask for; None where they do not say."""
    found = (settings.get(name) for name in FRAMES)
    return next((count for count in found if type(count) is int), None)


def check_one_per_prompt(study: str, settings: Mapping[str, Any]) -> None:
    """Raise SpecError for settings that ask for several pictures of one prompt.

    Each picture has its own prompt, seed and score. So a run of several pictures is one of several
    prompts.
    """
    for name in PER_PROMPT:
        count = settings.get(name, 1)
        if type(count) is not int or count != 1:
            raise SpecError(
                f"{study}: {name} is {count!r}; expected 1, since each picture has a prompt and a"
                " seed of its own: leave it out, and set `batch_size` to the pictures of a run"
            )
