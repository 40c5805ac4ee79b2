"""Weight files of a folder, whole, in shards, of a variant or damaged, are told apart before any
weight is read.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sensitivity.errors import PipelineError
from sensitivity.models.loading import load_pipeline
from sensitivity.spec.study_spec import StudySpec

from support.loaded import at, same_weights


def test_shards_and_variants_are_the_same_model(spec: StudySpec, saved: dict[str, Path]) -> None:
    """A folder of shards, and one of a variant that is asked for, have the same weights as single
    files; their hashes differ.
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
    """As in diffusers, a component without the variant is loaded from its plain files."""
    folder = shutil.copytree(saved["variant"], tmp_path / "mixed")
    shutil.rmtree(folder / "vae")
    shutil.copytree(tiny_folder / "vae", folder / "vae")
    assert same_weights(
        load_pipeline(spec, device="cpu"),
        load_pipeline(at(spec, folder, variant="fp16"), device="cpu"),
    )


def remove_component(folder: Path) -> None:
    """The second text encoder has no folder."""
    shutil.rmtree(folder / "text_encoder_2")


def remove_weights(folder: Path) -> None:
    """There are config files alone."""
    for path in folder.rglob("*.safetensors*"):
        path.unlink()


def remove_shard(folder: Path) -> None:
    """A shard is missing."""
    sorted((folder / "transformer").glob("*-00002-of-*"))[0].unlink()


def cut_shard(folder: Path) -> None:
    """A shard is truncated, as after an interrupted copy."""
    path = sorted((folder / "transformer").glob("*-00002-of-*"))[0]
    path.write_bytes(path.read_bytes()[:-1000])


def empty_shard(folder: Path) -> None:
    """A shard is empty."""
    sorted((folder / "transformer").glob("*-00002-of-*"))[0].write_bytes(b"")


def break_index(folder: Path) -> None:
    """The index of the shards is no JSON."""
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text("{")


def remove_index(folder: Path) -> None:
    """The index of the shards is missing."""
    (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").unlink()


def point_to_lfs(folder: Path) -> None:
    """Weights are a pointer, as in a clone without git-lfs."""
    sorted((folder / "vae").glob("*.safetensors"))[0].write_text(
        "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    )


def name_other_files(folder: Path) -> None:
    """The index names a pickle, and a file of another folder."""
    path = folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    path.write_text('{"weight_map": {"a": "../vae/x.safetensors", "b": "evil.bin"}}')


def make_pipe(folder: Path) -> None:
    """A weight file is a pipe."""
    path = folder / "text_encoder" / "model.safetensors"
    path.unlink()
    os.mkfifo(path)


def make_gguf(folder: Path) -> None:
    """A text encoder is there as GGUF alone."""
    path = folder / "text_encoder" / "model.safetensors"
    path.rename(path.with_suffix(".gguf"))


def pickle_weights(folder: Path) -> None:
    """A text encoder has its weights in a pickle."""
    path = folder / "text_encoder" / "model.safetensors"
    torch.save(load_file(path), folder / "text_encoder" / "pytorch_model.bin")
    path.unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            remove_component,
            (
                r"text_encoder_2 is missing, and model_index.json names T5EncoderModel for"
                r" text_encoder_2; .*save the pipeline again"
            ),
        ),
        (
            remove_weights,
            (
                r"text_encoder holds no weights; expected .safetensors"
                r" files.*save_pretrained.*set `weights` to random"
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
                r"00002-of-\d+.safetensors is truncated or damaged \(.*\), \d+ bytes; expected a"
                r" complete safetensors file: copy or download it again"
            ),
        ),
        (empty_shard, r"00002-of-\d+.safetensors is truncated or damaged \(.*\), 0 bytes"),
        (break_index, r"index.json could not be read \(Invalid JSON.*download it again"),
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
            name_other_files,
            r"index.json names '../vae/x.safetensors', 'evil.bin'; expected names of .safetensors",
        ),
        (make_pipe, r"text_encoder/.*safetensors cannot be read \(found a pipe or device\)"),
        (
            make_gguf,
            r"text_encoder holds .*gguf and no safetensors; expected .*GGUF files are quantized",
        ),
        (
            pickle_weights,
            (
                r"text_encoder holds pytorch_model.bin and no safetensors; expected .safetensors"
                r" files, because pickled files run code"
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
    """Each damage ends with a message that has the file, what was expected and what to do; no
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
                r"text_encoder holds weights of the variant 'fp16' alone; expected plain ones,"
                r" or a variant that the study names: set `variant = \"fp16\"`"
            ),
        ),
        (
            "fp8",
            (
                r"has no weights of the variant 'fp8'; expected one of 'fp16': correct `variant`"
                r" under \[model\]"
            ),
        ),
    ],
)
def test_variants_that_are_not_there_are_named(
    asked: str | None, message: str, spec: StudySpec, saved: dict[str, Path]
) -> None:
    """A folder that has one variant alone is refused under any other name."""
    with pytest.raises(PipelineError, match=message):
        load_pipeline(at(spec, saved["variant"], variant=asked), device="cpu")
