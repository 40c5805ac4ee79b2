"""A study's settings are arguments of its pipeline's call, with values that the call can have."""

import re

import pytest

from sensitivity.errors import SpecError
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.study_spec import StudySpec


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("height", 64.5, "a whole number from 1 to 65536"),
        ("width", "wide", "a whole number"),
        ("num_inference_steps", True, "a whole number from 1 to 10000"),
        ("max_sequence_length", -3, "a whole number"),
        ("num_images_per_prompt", 0, "1, since each picture has a prompt and a seed of its own"),
        ("num_images_per_prompt", 2, "1, since each picture has a prompt and a seed of its own"),
        ("guidance_scale", None, "float"),
        ("sigmas", ["a"], "list"),
        ("guidance_scale", [1.0, 2.0], "float"),
        ("guidance_scale", "high", "float"),
        ("latents", 1, "Tensor"),
        ("sigmas", 1.0, "list"),
    ],
)
def test_a_setting_of_another_type_is_refused(
    bare: StudySpec, key: str, value: object, expected: str
) -> None:
    """A setting is of the type that the pipeline annotates; counts are whole numbers within
    reason."""
    shown = "null" if value is None else re.escape(repr(value))
    with pytest.raises(SpecError, match=f"{key} is {shown}; expected .*{expected}"):
        run_shapes(bare.model_copy(update={"settings": {**bare.settings, key: value}}))


def test_a_setting_that_is_no_argument_is_refused(bare: StudySpec) -> None:
    """A misspelt setting of a study is named."""
    with pytest.raises(SpecError, match="settings hieght are no arguments of FluxPipeline that"):
        run_shapes(bare.model_copy(update={"settings": {"hieght": 64}}))
