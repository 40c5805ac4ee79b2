"""A pipeline that edits says that it needs a picture, and which pipeline its components make."""

import json
import shutil
from pathlib import Path

import diffusers
import pytest

from sensitivity.errors import NeedsPictureError, PipelineError
from sensitivity.models.picture_inputs import is_about_pictures, picture_arguments, text_pipeline
from sensitivity.shapes.deriving import derive
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.study_spec import StudySpec

from support.loaded import at


def named(folder: Path, to: Path, pipeline: str) -> Path:
    """A copy of a pipeline's folder that is of another pipeline's class."""
    shutil.copytree(folder, to)
    index = json.loads((to / "model_index.json").read_text())
    (to / "model_index.json").write_text(json.dumps(index | {"_class_name": pipeline}))
    return to


@pytest.mark.parametrize(
    ("pipeline", "message"),
    [
        ("FluxImg2ImgPipeline", r"\(image\), .*make a FluxPipeline.*FluxPipeline\.from_pipe"),
        ("FluxInpaintPipeline", r"\(image, mask_image\), .*FluxPipeline\.from_pipe"),
        ("FluxControlNetPipeline", r"\(control_image\), .*FluxPipeline\.from_pipe"),
        ("FluxFillPipeline", r"\(image, mask_image\), .*name the text-to-image"),
        ("FluxPriorReduxPipeline", r"\(image\), .*without a default: image"),
        ("StableVideoDiffusionPipeline", r"\(image\), .*name the text-to-image or text-to-video"),
    ],
)
def test_pipelines_that_edit_need_a_picture(
    pipeline: str, message: str, tiny_folder: Path, tmp_path: Path
) -> None:
    """The message has the arguments and the next step, whether the study is derived or declared."""
    folder = named(tiny_folder, tmp_path / "edits", pipeline)
    with pytest.raises(NeedsPictureError, match=rf"{pipeline} needs a picture {message}"):
        derive(resolve_spec(str(folder)))


def test_a_declared_study_is_answered_alike(
    spec: StudySpec, tiny_folder: Path, tmp_path: Path
) -> None:
    """The run itself says so."""
    folder = named(tiny_folder, tmp_path / "edits", "FluxInpaintPipeline")
    with pytest.raises(NeedsPictureError, match="needs a picture"):
        run_shapes(at(spec, folder))


def test_a_picture_that_may_be_left_out_is_not_needed(
    spec: StudySpec, tiny_folder: Path, tmp_path: Path
) -> None:
    """Kontext edits, and generates from text alone; other faults of its run keep their words."""
    folder = named(tiny_folder, tmp_path / "kontext", "FluxKontextPipeline")
    assert run_shapes(at(spec, folder)).table.linears
    wrong = spec.model_copy(update={"settings": {"max_sequence_length": 4096}})
    with pytest.raises(PipelineError, match="does not run with the settings") as raised:
        run_shapes(at(wrong, folder))
    assert not isinstance(raised.value, NeedsPictureError)


@pytest.mark.parametrize(
    ("pipeline", "family"),
    [
        ("StableDiffusionXLInpaintPipeline", "StableDiffusionXLPipeline"),
        ("StableDiffusionControlNetPipeline", "StableDiffusionPipeline"),
        ("QwenImageImg2ImgPipeline", "QwenImagePipeline"),
        ("WanImageToVideoPipeline", None),
        ("FluxPipeline", "FluxPipeline"),
    ],
)
def test_families_are_those_of_diffusers(pipeline: str, family: str | None) -> None:
    """None where other weights would be needed."""
    assert text_pipeline(pipeline, {}) == family


def test_a_denoiser_that_always_reads_a_mask_makes_nothing_else() -> None:
    """SDXL's inpainting UNet has nine channels in, four of them latents."""
    unet = diffusers.UNet2DConditionModel(
        in_channels=9,
        out_channels=4,
        block_out_channels=(8,),
        down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",),
        mid_block_type=None,
        norm_num_groups=4,
    )
    assert text_pipeline("StableDiffusionXLInpaintPipeline", {"unet": unet}) is None


def test_masks_of_text_are_no_pictures() -> None:
    """Attention masks and counts of pictures are other arguments."""
    call = ["prompt", "num_images_per_prompt", "prompt_attention_mask", "mask", "control_image"]
    assert picture_arguments(call) == ["mask", "control_image"]


@pytest.mark.parametrize(
    ("pipeline", "edits"), [("Kandinsky6TI2VAPipeline", False), ("Kandinsky5I2VPipeline", True)]
)
def test_a_picture_that_may_be_left_out_is_not_blamed(pipeline: str, edits: bool) -> None:
    """TI2V means that a text is enough; I2V does not."""
    assert is_about_pictures(pipeline, ["image"], "requires an `audio_vae`") is edits
