"""Pipelines are loaded from folders and from the Hub's cache, whole or with components that take
turns.
"""

import json
import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig

from sensitivity.errors import PipelineError, SpecError
from sensitivity.models import config_files, loading, pipeline_source
from sensitivity.models.generating import MediaGenerator
from sensitivity.models.loading import LoadedPipeline, load_pipeline
from sensitivity.models.pipeline_source import PipelineSource
from sensitivity.models.text_memory import TextMemory
from sensitivity.shapes.deriving import derive_study
from sensitivity.spec.loading import load_spec, resolve_spec
from sensitivity.spec.overrides import with_random_weights
from sensitivity.spec.study_spec import ModelSection, StudySpec
from sensitivity.workflows.conclude import SearchOutcome
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.requests import SearchRequest

from support.clip_pipelines import save_ltx2, save_wan
from support.loaded import at, generate, same_weights
from support.toy_pictures import sdxl
from support.toy_pipelines import save_toy
from support.whole_pipelines import TOKENIZERS

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_a_denoiser_without_some_of_its_weights_is_refused(
    spec: StudySpec, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The libraries would initialise them at random: refused in a denoiser, logged elsewhere."""
    for part, file in (("transformer", "diffusion_pytorch_model"), ("text_encoder_2", "model")):
        folder = shutil.copytree(tiny_folder, tmp_path / part)
        path = folder / part / f"{file}.safetensors"
        tensors = load_file(path)
        gone = next(key for key in tensors if "norm" in key and "weight" in key)
        save_file(
            {key: value for key, value in tensors.items() if key != gone},
            path,
            metadata={"format": "pt"},
        )
        if part == "transformer":
            with pytest.raises(
                PipelineError,
                match=(
                    r"transformer lacks 1 weights of its class, the first is .*norm.*download"
                    r" it again"
                ),
            ):
                load_pipeline(at(spec, folder), device="cpu")
        else:
            load_pipeline(at(spec, folder), device="cpu")
            assert "text_encoder_2 lacks 1 weights" in caplog.text


@pytest.fixture
def cached_hub(tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local cache of the Hub that holds the commit `COMMIT` of org/tiny, which `main` is, and no
    network.
    """
    repo = tmp_path / "hub" / "models--org--tiny"
    shutil.copytree(tiny_folder, repo / "snapshots" / COMMIT)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    for module in (config_files, pipeline_source):
        monkeypatch.setattr(module, "hub_answers", lambda: False)


@pytest.mark.usefixtures("cached_hub")
def test_a_hub_id_is_loaded_from_the_cache_without_a_network(spec: StudySpec) -> None:
    """An id with the revision that the cache holds, a branch, or neither loads; its commit
    identifies the weights, whatever was asked for.
    """
    hub = {"path": None, "hub": "org/tiny"}
    loaded = [
        load_pipeline(
            spec.model_copy(update={"model": ModelSection(**hub, revision=revision)}), device="cpu"
        )
        for revision in (None, COMMIT, "main")
    ]
    assert same_weights(load_pipeline(spec, device="cpu"), loaded[0])
    assert len({one.weights_hash for one in loaded}) == 1
    assert {one.commit for one in loaded} == {COMMIT}
    assert load_pipeline(spec, device="cpu").commit is None


@pytest.mark.usefixtures("cached_hub")
@pytest.mark.parametrize(
    ("hub", "revision"), [("org/tiny", "f" * 40), ("org/tiny", "v2"), ("org/other", None)]
)
def test_wrong_revisions_and_unknown_ids_are_named(
    hub: str, revision: str | None, spec: StudySpec
) -> None:
    """Without a network, what is not in the cache is refused: the message has the id, the revision,
    and what to check.
    """
    wrong = spec.model_copy(update={"model": ModelSection(hub=hub, revision=revision)})
    named = f"{hub}, revision {revision}," if revision else hub
    with pytest.raises(
        PipelineError,
        match=(
            rf"{named} could not be loaded from .*does not answer.*check the id, the revision and"
            r" the network"
        ),
    ):
        load_pipeline(wrong, device="cpu")


def test_settings_that_the_pipeline_does_not_have_are_named(spec: StudySpec) -> None:
    """Loading refuses an argument that the call does not take, and lists those that it takes."""
    with pytest.raises(
        SpecError,
        match=(
            r"settings num_frames are no arguments of FluxPipeline; expected some of prompt,"
            r" .*correct `\[settings\]`"
        ),
    ):
        load_pipeline(
            spec.model_copy(update={"settings": {**spec.settings, "num_frames": 9}}), device="cpu"
        )


def test_several_pictures_of_one_prompt_are_refused(spec: StudySpec) -> None:
    """Each picture has a prompt and a seed of its own: the message says what to set instead."""
    several = spec.model_copy(update={"settings": {**spec.settings, "num_images_per_prompt": 2}})
    with pytest.raises(
        SpecError, match=r"num_images_per_prompt is 2; expected 1, .* set `batch_size`"
    ):
        load_pipeline(several, device="cpu")


def test_lists_and_null_reach_the_pipeline(spec: StudySpec) -> None:
    """Sigmas of one's own, and an argument that is None."""
    own = {"sigmas": [1.0, 0.5], "negative_prompt": None, "num_inference_steps": 2}
    loaded = load_pipeline(
        spec.model_copy(update={"settings": {**spec.settings, **own}}), device="cpu"
    )
    prompts = [spec.prompts.search[0]]
    assert generate(loaded, prompts).std() > 0.01
    assert not torch.equal(
        generate(loaded, prompts),
        MediaGenerator(loaded).generate_pictures(prompts, [0], batch_size=1, sigmas=[1.0, 0.8]),
    )


def test_pictures_are_the_same_however_parts_are_placed(spec: StudySpec) -> None:
    """A plain pipeline, one that remembers text, and one whose components take turns generate the
    same pictures, to the last bit.
    """
    prompts = [*spec.prompts.search[:2], "a text that the study does not have"]
    plain = generate(load_pipeline(spec, device="cpu", resident=True), prompts, batch_size=1)
    assert plain.std() > 0.01
    assert torch.equal(plain, generate(load_pipeline(spec, device="cpu"), prompts, batch_size=1))
    assert torch.equal(
        plain, generate(load_pipeline(spec, device="cpu", in_turn=True), prompts, batch_size=1)
    )


@pytest.mark.parametrize("save", [save_wan, save_ltx2])
def test_clips_are_the_same_however_parts_are_placed(
    save: Callable[[Path], Path], tmp_path: Path
) -> None:
    """A pipeline whose denoiser is an optional argument, and one with sound, connectors and a
    vocoder: with guidance, clips and sound are the same in turn and as a whole.
    """
    spec = load_spec(save(tmp_path))
    spec = spec.model_copy(update={"settings": {**spec.settings, "guidance_scale": 3.0}})
    loaded = [
        load_pipeline(spec, device="cpu", **how)
        for how in ({"resident": True}, {}, {"in_turn": True})
    ]  # type: ignore[arg-type]
    media = [
        MediaGenerator(one).generate(list(spec.prompts.search[:2]), [0, 1], batch_size=1)
        for one in loaded
    ]
    for one in loaded:
        assert one.denoiser is one.pipe.transformer
        assert one.text is None or (one.text.works and one.text.answered == {"text_encoder"})
    for other in media[1:]:
        assert torch.equal(media[0].pictures, other.pictures)
        sounds = [x.sound for x in (media[0], other) if x.sound is not None]
        assert len(sounds) in (0, 2)
        assert not sounds or torch.equal(*sounds)


def test_two_denoisers_are_loaded_together(tmp_path: Path) -> None:
    """Both denoisers are loaded after the text is encoded, under their names, and generate what
    they generate in a pipeline that is loaded as a whole. So they do once everything is to stay on
    the device; then nothing is unloaded any more.
    """
    spec = save_toy("wan", tmp_path)
    shutil.copytree(tmp_path / "transformer", tmp_path / "transformer_2")
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(
        json.dumps(index | {"transformer_2": index["transformer"], "boundary_ratio": 0.9})
    )
    both = with_random_weights(
        spec.model_copy(
            update={
                "model": ModelSection(path=tmp_path, components=("transformer", "transformer_2"))
            }
        )
    )
    place, turn = (
        load_pipeline(both, device="cpu", resident=True),
        load_pipeline(both, device="cpu", in_turn=True),
    )
    assert list(turn.denoisers) == ["transformer", "transformer_2"]
    assert turn.denoisers["transformer_2"] is turn.pipe.transformer_2
    prompts = [both.prompts.search[0]]
    pictures = generate(place, prompts)
    assert torch.equal(pictures, generate(turn, prompts))
    turn.keep_resident()
    assert turn.text is not None
    assert not turn.text.works
    for _ in range(2):
        assert torch.equal(pictures, generate(turn, prompts))
        assert not any(
            p.is_meta for part in (turn.pipe.vae, turn.pipe.text_encoder) for p in part.parameters()
        )


def test_two_batch_sizes_give_the_same_references(spec: StudySpec) -> None:
    """Pictures of one batch differ from pictures generated one by one only by rounding: far less
    than two prompts differ.
    """
    loaded = load_pipeline(spec, device="cpu")
    together, alone = (generate(loaded, [*spec.prompts.search], batch_size=size) for size in (3, 1))
    assert (together - alone).abs().mean() < 0.03 * (alone[0] - alone[1]).abs().mean()


def devices(loaded: LoadedPipeline) -> dict[str, set[str]]:
    """{component: where its parameters are}."""
    return {
        name: {p.device.type for p in getattr(loaded.pipe, name).parameters()}
        for name in ("text_encoder", "text_encoder_2", "vae", "transformer")
    }


def test_components_are_loaded_while_they_are_used(
    spec: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turn: the encoders are made once and unloaded before the denoiser is made; the VAE is
    loaded to decode and then unloaded; an unknown text loads the encoders again.
    """
    made: list[str] = []

    def recording(spec: StudySpec, *, device: str) -> PipelineSource:
        source = pipeline_source.pipeline_source(spec, device=device)

        def make(name: str, device: str) -> torch.nn.Module:
            made.append(name)
            return source.make(name, device)

        return replace(source, make=make)

    monkeypatch.setattr(loading, "pipeline_source", recording)
    loaded = load_pipeline(spec, device="cpu", in_turn=True)
    unloaded, here = {"meta"}, {"cpu"}
    assert made.index("transformer") > max(made.index("text_encoder"), made.index("text_encoder_2"))
    assert devices(loaded) == {
        "text_encoder": unloaded,
        "text_encoder_2": unloaded,
        "vae": unloaded,
        "transformer": here,
    }
    assert loaded.pipe.device == torch.device("cpu")
    hook = loaded.denoiser.register_forward_pre_hook(lambda *_: seen.append(devices(loaded)))
    seen: list[dict[str, set[str]]] = []
    for _ in range(2):
        generate(loaded, [*spec.prompts.search])
    assert all(
        one
        == {
            "text_encoder": unloaded,
            "text_encoder_2": unloaded,
            "vae": unloaded,
            "transformer": here,
        }
        for one in seen
    )
    assert devices(loaded)["vae"] == here
    assert sorted(made) == ["text_encoder", "text_encoder_2", "transformer", "vae"]
    hook.remove()
    generate(loaded, ["a text that the study does not have"])
    assert devices(loaded)["text_encoder_2"] == unloaded
    assert made[4:] == ["text_encoder", "text_encoder_2"]


def test_memory_that_runs_out_while_loading_is_named(
    spec: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's error becomes a message with the device, and how to find out what is needed."""

    def full(*_args: Any, **_options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("diffusers.FluxTransformer2DModel.from_pretrained", full)
    for in_turn in (False, True):
        with pytest.raises(
            PipelineError,
            match=(
                r"ran out of memory on cpu while it was loaded \(CUDA out of memory.*see how much a"
                r" search needs with `dry_run`"
            ),
        ):
            load_pipeline(spec, device="cpu", in_turn=in_turn)


def test_a_kill_while_text_is_encoded_leaves_nothing_broken(
    spec: StudySpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a kill while text is encoded no partial file is in the cache, the text before it is
    kept, and the same search runs to its end on the same database.
    """
    storage, cache = tmp_path / "study.db", tmp_path / "references"

    def search() -> SearchOutcome:
        return find_recipe(
            spec, SearchRequest(budget=1, storage=storage, cache_folder=cache, calibrated=False)
        )

    def die_at_the_second(memory: TextMemory, prompt: str, call: Callable[[], object]) -> None:
        learnt.append(prompt)
        if len(learnt) == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        learn(memory, prompt, call)

    learn, learnt = TextMemory.learn, list[str]()
    with monkeypatch.context() as patch:
        patch.setattr(TextMemory, "learn", die_at_the_second)
        process = multiprocessing.get_context("fork").Process(target=search)
        process.start()
    process.join(timeout=100)
    assert process.exitcode == -signal.SIGKILL
    assert {path.suffix for path in cache.rglob("*.*") if path.is_file()} == {".safetensors"}
    assert search().result.tried == 1
    assert {path.suffix for path in cache.rglob("[!.]*.*")} == {".safetensors"}


def test_a_folder_whose_index_names_an_unknown_class_is_refused(
    spec: StudySpec, tiny_folder: Path, tmp_path: Path
) -> None:
    """Remote code is not run: the message has the class, and what was expected."""
    folder = shutil.copytree(tiny_folder, tmp_path / "remote")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps(index | {"transformer": ["my_code", "MyTransformer"]})
    )
    with pytest.raises(
        PipelineError,
        match=(
            r"names my_code.MyTransformer; expected a class of the installed diffusers or"
            r" transformers"
        ),
    ):
        load_pipeline(at(spec, folder), device="cpu")


def test_a_safety_checker_is_not_loaded(tmp_path: Path) -> None:
    """Stable Diffusion 1 blackens what its checker flags. It is not loaded, so pictures are
    compared as the denoiser makes them.
    """
    vision = {
        "hidden_size": 16,
        "intermediate_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    checker = StableDiffusionSafetyChecker(CLIPConfig(vision_config=vision, projection_dim=8))
    # every cosine is above it, so everything is flagged
    checker.special_care_embeds_weights.data.fill_(-10.0)
    checker.concept_embeds_weights.data.fill_(-10.0)
    parts = sdxl()[2]
    text_time = (
        "addition_embed_type",
        "addition_time_embed_dim",
        "projection_class_embeddings_input_dim",
    )
    config = {key: value for key, value in parts["unet"].config.items() if key not in text_time}
    unet = diffusers.UNet2DConditionModel.from_config(config | {"cross_attention_dim": 32})
    plain = diffusers.StableDiffusionPipeline(
        unet=unet,
        vae=parts["vae"],
        scheduler=parts["scheduler"],
        text_encoder=transformers.CLIPTextModel(parts["text_encoder"][1]),
        tokenizer=TOKENIZERS["CLIPTokenizer"](transformers.CLIPTextModel(parts["text_encoder"][1])),
        safety_checker=checker,
        feature_extractor=transformers.CLIPImageProcessor(size={"shortest_edge": 8}, crop_size=8),
    ).to(dtype=torch.bfloat16)
    plain.save_pretrained(tmp_path / "sd1")
    settings = {"height": 64, "width": 64, "num_inference_steps": 2}
    assert not plain("a cat", output_type="pt", **settings).images.any()
    spec = derive_study(resolve_spec(str(tmp_path / "sd1")))
    loaded = load_pipeline(spec.model_copy(update={"settings": settings}), device="cpu")
    assert loaded.pipe.safety_checker is None
    assert loaded.pipe("a cat", output_type="pt", **settings).images.std() > 0
