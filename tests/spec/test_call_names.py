"""What a user means has the name that a pipeline's call has for it."""

import inspect

import diffusers
import pytest

from sensitivity.spec.call_names import argument_of, frames_in


@pytest.mark.parametrize(
    ("pipeline", "meant", "name"),
    [
        ("WanPipeline", "frames", "num_frames"),
        ("SanaVideoPipeline", "frames", "frames"),
        ("LattePipeline", "frames", "video_length"),
        ("FluxPipeline", "frames", None),
        ("FluxPipeline", "guidance", "guidance_scale"),
        ("QwenImage21Pipeline", "guidance", "true_cfg_scale"),
        ("HunyuanImagePipeline", "guidance", "distilled_guidance_scale"),
        ("StableCascadeCombinedPipeline", "guidance", None),
        ("FluxPipeline", "steps", "num_inference_steps"),
    ],
)
def test_arguments_are_those_of_the_pipelines(pipeline: str, meant: str, name: str | None) -> None:
    """The names are read from diffusers' own signatures; two that differ in meaning are none."""
    call = inspect.signature(getattr(diffusers, pipeline).__call__).parameters
    assert argument_of(meant, call) == name


def test_frames_of_settings() -> None:
    """Under whichever name they stand."""
    settings: list[dict[str, object]] = [{"video_length": 16}, {"frames": 81}, {"height": 64}]
    assert [frames_in(x) for x in settings] == [16, 81, None]
