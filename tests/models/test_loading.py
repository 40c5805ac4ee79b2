"""The real loading path: folders as diffusers saves them, whole, sharded, of a variant or damaged;
what is on the device when; what a kill leaves behind.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import FluxPipeline
from safetensors.torch import load_file, save_file
from torch import Tensor

from sensitivity.errors import PipelineError, SpecError
from sensitivity.models import loading as pipelines
from sensitivity.models import skeleton as blueprint
from sensitivity.models.generating import Painter
from sensitivity.models.loading import LoadedPipeline, load_pipeline
from sensitivity.spec.loading import load_spec
from sensitivity.spec.overrides import with_random_weights
from sensitivity.spec.study_spec import ModelSection, StudySpec
from sensitivity.workflows.find import find_recipe
from sensitivity.workflows.requests import SearchRequest

from support.clip_pipelines import save_ltx2, save_wan
from support.toy_pipelines import save_toy

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def spec(tiny_study: Path) -> StudySpec:
    """The random FluxPipeline, two steps, three prompts and three held-out ones."""
    return load_spec(tiny_study)


@pytest.fixture(scope="module")
def saved(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same pipeline as plain diffusers saves it: in shards, and as the variant fp16."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("sharded", "variant")}
    pipe = FluxPipeline.from_pretrained(tiny_folder, torch_dtype=torch.bfloat16)
    pipe.save_pretrained(folders["sharded"], max_shard_size="400KB")
    pipe.save_pretrained(folders["variant"], variant="fp16")
    return folders


def at(spec: StudySpec, folder: Path, **more: Any) -> StudySpec:
    """The study of another folder."""
    return spec.model_copy(update={"model": ModelSection(path=folder, **more)})


def weights_of(loaded: LoadedPipeline) -> dict[str, Tensor]:
    """All parameters by component and name."""
    parts = {
        name: part
        for name, part in loaded.pipe.components.items()
        if isinstance(part, torch.nn.Module)
    }
    return {
        f"{name}.{key}": p for name, part in parts.items() for key, p in part.named_parameters()
    }


def same_weights(one: LoadedPipeline, other: LoadedPipeline) -> bool:
    """Whether two pipelines have the same parameters, to the last bit."""
    left, right = weights_of(one), weights_of(other)
    return left.keys() == right.keys() and all(
        torch.equal(left[key], right[key]) and right[key].dtype == torch.bfloat16 for key in left
    )


def draw(loaded: LoadedPipeline, prompts: list[str], batch_size: int = 3) -> Tensor:
    """Pictures of the prompts, seeded 0, 1, ..."""
    return Painter(loaded).paint(prompts, list(range(len(prompts))), batch_size=batch_size)


def test_shards_and_variants_are_the_same_model(spec: StudySpec, saved: dict[str, Path]) -> None:
    """A folder of shards, and one of a variant that is asked for, have the weights of the single
    files; what identifies them differs.
    """
    assert len(list((saved["sharded"] / "transformer").glob("*-of-*.safetensors"))) > 2
    whole = load_pipeline(spec, device="cpu")
    sharded = load_pipeline(at(spec, saved["sharded"]), device="cpu")
    variant = load_pipeline(at(spec, saved["variant"], variant="fp16"), device="cpu")
    assert same_weights(whole, sharded)
    assert same_weights(whole, variant)
    assert len({whole.weights_hash, sharded.weights_hash, variant.weights_hash}) == 3


def test_a_component_without_the_variant_takes_its_plain_files(
    spec: StudySpec, saved: dict[str, Path], tiny_folder: Path, tmp_path: Path
) -> None:
    """As in diffusers, only what has the variant is read as one."""
    folder = shutil.copytree(saved["variant"], tmp_path / "mixed")
    shutil.rmtree(folder / "vae")
    shutil.copytree(tiny_folder / "vae", folder / "vae")
    assert same_weights(
        load_pipeline(spec, device="cpu"),
        load_pipeline(at(spec, folder, variant="fp16"), device="cpu"),
    )


def remove_component(folder: Path) -> None:
    """No folder for the second text encoder."""
    shutil.rmtree(folder / "text_encoder_2")


def remove_weights(folder: Path) -> None:
    """Config files alone."""
    for path in folder.rglob("*.safetensors*"):
        path.unlink()


def remove_shard(folder: Path) -> None:
    """One of the shards is not there."""
    sorted((folder / "transformer").glob("*-00002-of-*"))[0].unlink()


def cut_shard(folder: Path) -> None:
    """One of the shards ends early, as after a copy that was broken off."""
    path = sorted((folder / "transformer").glob("*-00002-of-*"))[0]
    path.write_bytes(path.read_bytes()[:-1000])


def empty_shard(folder: Path) -> None:
    """One of the shards has nothing in it."""
    sorted((folder / "transformer").glob("*-00002-of-*"))[0].write_bytes(b"")


def break_index(folder: Path) -> None:
    """The list of shards is no JSON."""
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text("{")


def remove_index(folder: Path) -> None:
    """Shards without their list."""
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").unlink()


def point_to_lfs(folder: Path) -> None:
    """A clone without git-lfs."""
    sorted((folder / "vae").glob("*.safetensors"))[0].write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )


def pickle_weights(folder: Path) -> None:
    """A text encoder whose weights are a pickle; opening it would leave a trace."""
    path = folder / "text_encoder" / "model.safetensors"
    torch.save(load_file(path), folder / "text_encoder" / "pytorch_model.bin")
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            remove_component,
            (
                r"text_encoder_2 is not there, and model_index.json names T5EncoderModel for"
                r" text_encoder_2; .*save the pipeline again"
            ),
        ),
        (
            remove_weights,
            (
                r"text_encoder holds no weights; allowed are .safetensors"
                r" files.*save_pretrained.*--weights random"
            ),
        ),
        (
            remove_shard,
            (
                r"transformer lacks 1 of the \d+ shards that .*index.json lists, the first is"
                r" .*00002-of-.*download it again"
            ),
        ),
        (
            cut_shard,
            (
                r"00002-of-\d+.safetensors is cut short or damaged \(.*\), \d+ bytes; allowed is a"
                r" whole safetensors file: copy or download it again"
            ),
        ),
        (empty_shard, r"00002-of-\d+.safetensors is cut short or damaged \(.*\), 0 bytes"),
        (break_index, r"index.json could not be read \(JSONDecodeError.*download it again"),
        (
            remove_index,
            (
                r"transformer holds \d+ shards and no"
                r" diffusion_pytorch_model.safetensors.index.json, which lists them"
            ),
        ),
        (
            point_to_lfs,
            r"vae/.*safetensors is a Git LFS pointer, not the weights, \d+ bytes; .*git lfs pull",
        ),
        (
            pickle_weights,
            (
                r"text_encoder holds pytorch_model.bin and no safetensors; allowed are .safetensors"
                r" files, since pickled files run code"
            ),
        ),
    ],
)
def test_what_is_missing_or_damaged_is_named_before_any_weight_is_opened(
    damage: Callable[[Path], None],
    message: str,
    spec: StudySpec,
    saved: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each damage ends with a message that has the file, what is allowed and what to do; no
    component is loaded.
    """
    folder = shutil.copytree(saved["sharded"], tmp_path / "damaged")
    damage(folder)
    monkeypatch.setattr(
        "safetensors.torch.load_file", lambda *_a, **_o: pytest.fail("weights were opened")
    )
    monkeypatch.setattr(torch, "load", lambda *_a, **_o: pytest.fail("a pickle was opened"))
    with pytest.raises(PipelineError, match=message):
        load_pipeline(at(spec, folder), device="cpu")


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            None,
            (
                r"text_encoder holds weights of the variant 'fp16' alone; allowed are plain ones,"
                r" or a variant that is asked for: set `variant = \"fp16\"`"
            ),
        ),
        (
            "fp8",
            (
                r"has no weights of the variant 'fp8'; allowed are 'fp16': correct `variant` under"
                r" \[model\]"
            ),
        ),
    ],
)
def test_variants_that_are_not_there_are_named(
    asked: str | None, message: str, spec: StudySpec, saved: dict[str, Path]
) -> None:
    """A folder with a variant alone wants to be asked for it, by its name."""
    with pytest.raises(PipelineError, match=message):
        load_pipeline(at(spec, saved["variant"], variant=asked), device="cpu")


def test_a_denoiser_without_some_of_its_weights_is_refused(
    spec: StudySpec, tiny_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The libraries would draw them at random: refused in what is studied, said elsewhere."""
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
                    r"transformer lacks 1 weights that its class has, the first is .*norm.*download"
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
    for module in (pipelines, blueprint):
        monkeypatch.setattr(module, "hub_answers", lambda: False)


@pytest.mark.usefixtures("cached_hub")
def test_a_hub_id_is_loaded_from_the_cache_without_a_network(spec: StudySpec) -> None:
    """An id with the revision that the cache holds, or without any, loads; its commit identifies
    the weights.
    """
    hub = {"path": None, "hub": "org/tiny"}
    loaded = [
        load_pipeline(
            spec.model_copy(update={"model": ModelSection(**hub, revision=revision)}), device="cpu"
        )
        for revision in (None, COMMIT)
    ]
    assert same_weights(load_pipeline(spec, device="cpu"), loaded[0])
    assert loaded[0].weights_hash == loaded[1].weights_hash


@pytest.mark.usefixtures("cached_hub")
@pytest.mark.parametrize(
    ("hub", "revision"), [("org/tiny", "f" * 40), ("org/tiny", "v2"), ("org/other", None)]
)
def test_wrong_revisions_and_unknown_ids_are_named(
    hub: str, revision: str | None, spec: StudySpec
) -> None:
    """What is not in the cache, with no network: the message has the id, the revision, and what to
    check.
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
    """An argument that the call lacks ends the loading with the arguments that there are."""
    with pytest.raises(
        SpecError,
        match=(
            r"settings num_frames are no arguments of FluxPipeline; allowed are prompt, .*correct"
            r" `\[settings\]`"
        ),
    ):
        load_pipeline(
            spec.model_copy(update={"settings": {**spec.settings, "num_frames": 9}}), device="cpu"
        )


def test_pictures_are_the_same_however_parts_are_placed(spec: StudySpec) -> None:
    """A plain pipeline with everything in place, one that remembers text, and one whose parts take
    turns draw the same pictures, to the last bit.
    """
    prompts = [*spec.prompts.search[:2], "a text that the study does not have"]
    plain = draw(load_pipeline(spec, device="cpu", resident=True), prompts, batch_size=1)
    assert plain.std() > 0.01
    assert torch.equal(plain, draw(load_pipeline(spec, device="cpu"), prompts, batch_size=1))
    assert torch.equal(
        plain, draw(load_pipeline(spec, device="cpu", in_turn=True), prompts, batch_size=1)
    )


@pytest.mark.parametrize("save", [save_wan, save_ltx2])
def test_clips_are_the_same_however_parts_are_placed(
    save: Callable[[Path], Path], tmp_path: Path
) -> None:
    """A pipeline whose denoiser is an optional argument, and one with sound, connectors and a
    vocoder: what is loaded is what draws, guided, in turn or in place.
    """
    spec = load_spec(save(tmp_path))
    spec = spec.model_copy(update={"settings": {**spec.settings, "guidance_scale": 3.0}})
    loaded = [
        load_pipeline(spec, device="cpu", **how)
        for how in ({"resident": True}, {}, {"in_turn": True})
    ]  # type: ignore[arg-type]
    drawn = [
        Painter(one).draw(list(spec.prompts.search[:2]), [0, 1], batch_size=1) for one in loaded
    ]
    for one in loaded:
        assert one.denoiser is one.pipe.transformer
        assert one.text is None or (one.text.works and one.text.answered == {"text_encoder"})
    for media in drawn[1:]:
        assert torch.equal(drawn[0].pictures, media.pictures)
        assert (drawn[0].sound is None) == (media.sound is None)
        assert media.sound is None or torch.equal(drawn[0].sound, media.sound)  # type: ignore[arg-type]


def test_two_denoisers_come_together(tmp_path: Path) -> None:
    """Of a pipeline with two denoisers both are there when text has left, under their names, and
    draw what they draw in place.
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
    assert torch.equal(draw(place, prompts), draw(turn, prompts))


def test_two_batch_sizes_give_the_same_references(spec: StudySpec) -> None:
    """Pictures that were drawn together differ from those drawn one by one by rounding alone: far
    less than two prompts do.
    """
    loaded = load_pipeline(spec, device="cpu")
    together, alone = (draw(loaded, [*spec.prompts.search], batch_size=size) for size in (3, 1))
    assert (together - alone).abs().mean() < 0.03 * (alone[0] - alone[1]).abs().mean()


def devices(loaded: LoadedPipeline) -> dict[str, set[str]]:
    """{component: where its parameters are}."""
    return {
        name: {p.device.type for p in getattr(loaded.pipe, name).parameters()}
        for name in ("text_encoder", "text_encoder_2", "vae", "transformer")
    }


def test_parts_are_there_while_they_are_used(
    spec: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In turn: the encoders are read once and have left before the denoiser is made; the VAE comes
    to decode and leaves; an unknown text brings them back.
    """
    made: list[str] = []
    made_by = pipelines._stored

    def counted(spec: StudySpec) -> Any:
        source = made_by(spec)
        return pipelines.replace(
            source, make=lambda name, device: made.append(name) or source.make(name, device)
        )

    monkeypatch.setattr(pipelines, "_stored", counted)
    loaded = load_pipeline(spec, device="cpu", in_turn=True)
    away, here = {"meta"}, {"cpu"}
    assert made.index("transformer") > max(made.index("text_encoder"), made.index("text_encoder_2"))
    assert devices(loaded) == {
        "text_encoder": away,
        "text_encoder_2": away,
        "vae": away,
        "transformer": here,
    }
    assert loaded.pipe.device == torch.device("cpu")
    hook = loaded.denoiser.register_forward_pre_hook(lambda *_: seen.append(devices(loaded)))
    seen: list[dict[str, set[str]]] = []
    for _ in range(2):
        draw(loaded, [*spec.prompts.search])
    assert all(
        one == {"text_encoder": away, "text_encoder_2": away, "vae": away, "transformer": here}
        for one in seen
    )
    assert devices(loaded)["vae"] == here
    assert sorted(made) == ["text_encoder", "text_encoder_2", "transformer", "vae"]
    hook.remove()
    draw(loaded, ["a text that the study does not have"])
    assert devices(loaded)["text_encoder_2"] == away
    assert made[4:] == ["text_encoder", "text_encoder_2"]


def test_memory_that_runs_out_while_loading_is_said(
    spec: StudySpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """torch's error becomes a message with the device and the command that says what is needed."""

    def full(*_args: Any, **_options: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")

    monkeypatch.setattr("diffusers.FluxTransformer2DModel.from_pretrained", full)
    for in_turn in (False, True):
        with pytest.raises(
            PipelineError,
            match=(
                r"ran out of memory on cpu while it was loaded \(CUDA out of memory.*--dry-run`"
                r" says how much it needs"
            ),
        ):
            load_pipeline(spec, device="cpu", in_turn=in_turn)


KILLED = """
import os, signal, sys
from pathlib import Path
from sensitivity import pipelines, text_memory
from sensitivity.spec import load_spec
from sensitivity.workflow import SearchRequest, find_recipe

plain, learnt = text_memory.TextMemory.learn, []

def learn(self, prompt, call):
    learnt.append(prompt)
    if len(learnt) == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    plain(self, prompt, call)

text_memory.TextMemory.learn = learn
find_recipe(load_spec(Path(sys.argv[1])), SearchRequest(budget=1, storage=Path(sys.argv[2]), cache_folder=Path(sys.argv[3]), calibrated=False))
"""


def test_a_kill_while_text_is_encoded_leaves_nothing_broken(
    spec: StudySpec, tiny_study: Path, tmp_path: Path
) -> None:
    """Killed in the middle of encoding: no half file is in the cache, and the same search runs to
    its end on the same database.
    """
    storage, cache = tmp_path / "study.db", tmp_path / "references"
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tiny_study), str(storage), str(cache)],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not cache.exists() or not list(cache.iterdir())
    outcome = find_recipe(
        spec, SearchRequest(budget=1, storage=storage, cache_folder=cache, calibrated=False)
    )
    assert len(outcome.result.trials) == 1
    assert [path.suffix for path in cache.iterdir()] == [".safetensors"] * len(
        list(cache.iterdir())
    )


def test_a_folder_whose_index_names_an_unknown_class_is_refused(
    spec: StudySpec, tiny_folder: Path, tmp_path: Path
) -> None:
    """Remote code is not run: the message has the class, and what is allowed."""
    folder = shutil.copytree(tiny_folder, tmp_path / "remote")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(
        json.dumps(index | {"transformer": ["my_code", "MyTransformer"]})
    )
    with pytest.raises(
        PipelineError,
        match=(
            r"names my_code.MyTransformer; allowed are classes of the installed diffusers and"
            r" transformers"
        ),
    ):
        load_pipeline(at(spec, folder), device="cpu")
