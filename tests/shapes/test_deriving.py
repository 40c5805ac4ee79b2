"""A model without a study gets one that says what its config files say."""

import inspect
import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import pytest
import transformers

from sensitivity.errors import PipelineError
from sensitivity.models import config_files
from sensitivity.shapes.deriving import Derivation, derive, derive_study
from sensitivity.shapes.run import run_shapes
from sensitivity.spec.loading import load_spec, parse_spec, resolve_spec
from sensitivity.spec.overrides import with_prompts
from sensitivity.spec.prompts import PromptSection, general_pictures, general_videos
from sensitivity.spec.saving import save_study
from sensitivity.spec.shipped import list_studies
from sensitivity.spec.study_spec import StudySpec

from support.shallow_studies import shallow
from support.toy_pipelines import TOYS, save_toy

COMMIT = "0123456789abcdef0123456789abcdef01234567"
VIDEO = {"wan", "cogvideox", "hunyuan", "mochi", "ltx", "latte", "allegro"}


def toy(name: str, folder: Path) -> StudySpec:
    """The bare study of a toy's folder."""
    folder.mkdir(exist_ok=True)
    save_toy(name, folder)
    return resolve_spec(str(folder))


@pytest.fixture(scope="module")
def derived(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Derivation]:
    """What `derive` gives for the folder of a toy, by the toy's name; each is derived once."""
    return cache(lambda name: derive(toy(name, tmp_path_factory.mktemp(name))))


def change_index(folder: Path, **entries: Any) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | entries))


@pytest.mark.parametrize("name", list(TOYS))
def test_any_architecture_gets_a_study(
    name: str, derived: Callable[[str], Derivation], tmp_path: Path
) -> None:
    """Each toy's study names its denoiser, sets only arguments of its call, has the default number
    of steps and prompts of its kind, and is the same after a file.
    """
    found = derived(name).spec
    call = inspect.signature(getattr(diffusers, TOYS[name]()[0]).__call__).parameters
    assert found.model.component == ("unet" if name == "sdxl" else "transformer")
    assert found.model.components == ()
    assert set(found.settings) <= set(call)
    assert found.settings["num_inference_steps"] == call["num_inference_steps"].default
    assert found.prompts == (general_videos() if name in VIDEO else general_pictures())
    assert (found.search.batch_size == 1) or name not in VIDEO
    assert found.model.vae_tiling == (name == "allegro")  # whose VAE decodes in no other way
    path = tmp_path / "study.toml"
    save_study(found, path)
    assert load_spec(path) == found


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("sd3", {"height": 256, "width": 256}),  # sample_size 32 x 8 pixels
        ("qwen", {"height": 512, "width": 512}),  # 128 tokens x 4 pixels a token of this toy's VAE
        ("ltx", {"height": 512, "width": 704, "num_frames": 161}),  # the call's own
        (
            "cogvideox",
            {"height": 16, "width": 16, "num_frames": 9},
        ),  # sample_height 2 x 8 pixels, sample_frames
        (
            "pixart",
            {"height": 128, "width": 128, "use_resolution_binning": False},
        ),  # 16 x 8 pixels, which no table of usual sizes has
    ],
)
def test_sizes_are_those_that_the_pipeline_generates(
    name: str, size: dict[str, int], derived: Callable[[str], Derivation]
) -> None:
    """Where the call has no default, the size follows from the component's sample size, as the
    pipeline computes it.
    """
    settings = derived(name).spec.settings
    assert {key: settings[key] for key in size} == size


@pytest.mark.parametrize("name", ["zimage", "wan"])
def test_a_size_that_runs_is_found_and_noted(
    name: str, derived: Callable[[str], Derivation]
) -> None:
    """A model whose positions end before the pipeline's default size gets a smaller size and a note
    about it, and the study runs.
    """
    found = derived(name)
    assert "does not run without weights as it is called by default" in found.notes[0]
    few = found.spec.model_copy(
        update={
            "settings": (
                found.spec.settings
                | {"num_inference_steps": 2}
                | ({"num_frames": 5} if name == "wan" else {})
            )
        }
    )
    assert run_shapes(few).table.linears


def test_true_cfg_gets_its_negative_prompt(derived: Callable[[str], Derivation]) -> None:
    """Where guidance wants a negative prompt, the study has one: two forwards a step, as the
    pipeline is meant.
    """
    found = derived("qwen").spec
    assert found.settings["negative_prompt"] == " "
    small = found.model_copy(
        update={"settings": found.settings | {"num_inference_steps": 3, "height": 64, "width": 64}}
    )
    assert {linear.calls for linear in run_shapes(small).table.linears} == {2 * 3}


@pytest.mark.parametrize(
    ("name", "fused"),
    [
        ("sdxl", [("to_q", "to_k", "to_v")]),
        ("sd3", [("to_q", "to_k", "to_v"), ("add_q_proj", "add_k_proj", "add_v_proj")]),
        ("zimage", [("to_q", "to_k", "to_v"), ("w1", "w3")]),
        ("lumina2", [("to_q", "to_k", "to_v"), ("linear_1", "linear_3")]),
    ],
)
def test_fused_roles_are_those_that_occur(
    name: str, fused: list[tuple[str, ...]], derived: Callable[[str], Derivation]
) -> None:
    """Only families of which some part of the denoiser has every member are stated."""
    assert list(derived(name).spec.search.fused) == fused


def test_denoisers_of_one_class_are_searched_together(tmp_path: Path) -> None:
    """Wan 2.2's second transformer is a denoiser too; the empty entry for one in Wan 2.1's index is
    none.
    """
    small = {"height": 64, "width": 64, "num_frames": 5}
    bare = toy("wan", tmp_path).model_copy(update={"settings": small})
    change_index(tmp_path, transformer_2=[None, None])
    assert derive_study(bare).model.denoisers == ("transformer",)
    (tmp_path / "transformer_2").symlink_to(tmp_path / "transformer")
    change_index(tmp_path, transformer_2=["diffusers", "WanTransformer3DModel"], boundary_ratio=0.5)
    found = derive_study(bare)
    assert found.model.denoisers == ("transformer", "transformer_2")
    assert parse_spec(found.model_dump(), where="here").model == found.model


def test_a_denoiser_may_be_called_prior(tmp_path: Path) -> None:
    """The denoiser is known by its class, not by the name of its folder."""
    diffusers.models.StableCascadeUNet(
        conditioning_dim=128,
        block_out_channels=(128, 128),
        num_attention_heads=(2, 2),
        down_num_layers_per_block=(1, 1),
        up_num_layers_per_block=(1, 1),
        switch_level=(False,),
        clip_image_in_channels=768,
        clip_text_in_channels=32,
        clip_text_pooled_in_channels=32,
        dropout=(0.1, 0.1),
    ).save_config(tmp_path / "prior")
    transformers.CLIPTextConfig(
        hidden_size=32,
        intermediate_size=64,
        num_attention_heads=4,
        num_hidden_layers=2,
        projection_dim=32,
        vocab_size=64,
        bos_token_id=0,
        eos_token_id=2,
        pad_token_id=1,
    ).save_pretrained(tmp_path / "text_encoder")
    diffusers.DDPMWuerstchenScheduler().save_config(tmp_path / "scheduler")
    index = {
        "_class_name": "StableCascadePriorPipeline",
        "prior": ["diffusers", "StableCascadeUNet"],
        "scheduler": ["diffusers", "DDPMWuerstchenScheduler"],
        "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer": ["transformers", "CLIPTokenizerFast"],
    }
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    found = derive(resolve_spec(str(tmp_path)))
    assert found.spec.model.component == "prior"
    assert found.notes == ()
    assert run_shapes(found.spec).table.linears


def test_a_folder_of_save_pretrained_gets_a_study(tiny_folder: Path) -> None:
    """What plain diffusers wrote is enough; the shapes are those of the study that a person would
    write.
    """
    table = run_shapes(derive_study(resolve_spec(str(tiny_folder)))).table
    assert table.settings["num_inference_steps"] == 28
    assert (
        len(table.linears) == 2 * 14 + 3 * 6 + 10
    )  # double blocks, single blocks, and what stands around them


@pytest.mark.parametrize("name", ["flux1-dev", "ltx2", "wan2.2", "sdxl", "z-image-turbo"])
def test_what_is_derived_is_what_a_person_declared(name: str, tmp_path: Path) -> None:
    """The config files of a shipped study give its denoisers, its fused roles and its size;
    encoders, VAEs and vocoders are no denoisers. Two layers in a stack are enough for that.
    """
    declared = load_spec(list_studies()[name])
    shallow(declared, tmp_path / name)
    found = derive(resolve_spec(str(tmp_path / name)))
    assert len(found.notes) == ("turbo" in name)
    assert found.spec.model.denoisers == declared.model.denoisers
    if name != "wan2.2":  # a person knows that the text's k and v are not fused with the video's q
        assert found.spec.search.fused == declared.search.fused
    assert found.spec.search.depth_bands == declared.search.depth_bands
    sizes = ("height", "width", "num_frames")
    assert [found.spec.settings.get(key) for key in sizes] == [
        declared.settings.get(key) for key in sizes
    ]


def test_deriving_is_done_once(derived: Callable[[str], Derivation]) -> None:
    """A study that was derived, or declared, is given back as it is."""
    once = derived("sdxl").spec
    assert derive_study(once) is once
    assert not once.bare
    declared = resolve_spec("tiny-flux")
    assert derive(declared).spec is declared


def test_what_the_user_said_stays(tmp_path: Path) -> None:
    """Prompts of the user's own and settings of a command line come before what would be
    derived."""
    mine = PromptSection(search=("a",), held_out=("b",))
    bare = with_prompts(toy("sd3", tmp_path), mine)
    bare = bare.model_copy(update={"settings": {"height": 128, "width": 64}})
    found = derive_study(bare)
    assert found.prompts == mine
    assert (found.settings["height"], found.settings["width"]) == (128, 64)


def test_a_hub_id_is_pinned_to_its_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commit that "main" means when a study is derived is written into it. The Hub is asked
    once.
    """
    snapshot = tmp_path / "snapshots" / COMMIT
    snapshot.parent.mkdir()
    toy("sd3", snapshot)
    asked = []
    monkeypatch.setattr(
        config_files, "download_configs", lambda spec: asked.append(spec.name) or snapshot
    )
    found = derive_study(resolve_spec("org/some-turbo"))
    assert (found.model.hub, found.model.revision, found.model.config) == (
        "org/some-turbo",
        COMMIT,
        None,
    )
    assert asked == ["some-turbo"]


def test_a_distilled_model_is_noted(tmp_path: Path) -> None:
    """A name or a flag of distillation gives a note about steps, which no config file states."""
    assert "distilled" in derive(toy("sd3", tmp_path / "sd3-turbo")).notes[0]
    bare = toy("flux2", tmp_path / "plain")
    assert derive(bare).notes == ()
    change_index(tmp_path / "plain", is_distilled=True)
    assert "distilled" in derive(bare).notes[0]


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (
            {"_class_name": "StableDiffusionPipeline", "vae": ["diffusers", "AutoencoderKL"]},
            r"no denoiser among vae.*model\.component",
        ),
        (
            {"_class_name": "DiTPipeline", "transformer": ["diffusers", "DiTTransformer2DModel"]},
            "takes no prompt",
        ),
        (
            {
                "_class_name": "WanImageToVideoPipeline",
                "transformer": ["diffusers", "WanTransformer3DModel"],
            },
            r"needs a picture \(image, ",
        ),
        (
            {"_class_name": "FluxPipeline", "transformer": ["diffusers", "FluxTransformer2DModel"]},
            "config.json could not be loaded",
        ),
        (
            {"_class_name": "FluxPipeline", "transformer": ["mine", "Model"]},
            "remote code is not run",
        ),
        ({"_class_name": "MyPipeline"}, "names the class 'MyPipeline'"),
    ],
)
def test_a_folder_that_no_study_can_describe_is_refused(
    index: dict[str, Any], message: str, tmp_path: Path
) -> None:
    """No denoiser, no prompt, another input, no configs, unknown classes: each is refused with what
    was expected.
    """
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(PipelineError, match=message) as caught:
        derive_study(resolve_spec(str(tmp_path)))
    assert "expected" in str(caught.value)
