"""Whatever is given in place of a pipeline is told by name, with what to do about it."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from sensitivity.errors import PipelineError, UnknownModelError
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.not_a_pipeline import hub_id_in


def weights(path: Path, name: str, dtype: str = "BF16") -> None:
    """A safetensors file with one tensor."""
    entry = {"dtype": dtype, "shape": [1], "data_offsets": [0, 2]}
    header = json.dumps({name: entry}).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(header)) + header + b"00")


def text(path: Path, content: str) -> None:
    """A file with this content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


@pytest.mark.parametrize(
    ("make", "model", "message"),
    [
        (lambda p: weights(p / "a.safetensors", "x.weight"), "a.safetensors", "from_single_file"),
        (lambda p: text(p / "a.ckpt", ""), "a.ckpt", "single-file checkpoint.*save_pretrained"),
        (lambda p: weights(p / "a.safetensors", "x", "F8_E4M3"), "a.safetensors", "F8_E4M3"),
        (lambda p: weights(p / "a.safetensors", "x.lora_A.weight"), "a.safetensors", "fuse_lora"),
        (lambda p: text(p / "a.gguf", ""), "a.gguf", "GGUF.*quantized.*name the pipeline"),
        (lambda p: text(p / "a.onnx", ""), "a.onnx", "an ONNX graph"),
        (lambda p: text(p / "a.zip", ""), "a.zip", "an archive.*unpack it"),
        (lambda p: text(p / "a.txt", ""), "a.txt", "is a file; expected"),
        (lambda p: os.mkfifo(p / "a.safetensors"), "a.safetensors", "cannot be read"),
        (lambda p: text(p / "f" / "model_index.json", ""), "f/model_index.json", "its folder, .*f"),
        (
            lambda p: weights(p / "f" / "pytorch_lora_weights.safetensors", "x"),
            "f",
            "LoRA weights alone.*load the base model",
        ),
        (lambda p: text(p / "f" / "adapter_config.json", "{}"), "f", "LoRA weights alone"),
        (
            lambda p: text(p / "f" / "config.json", '{"architectures": ["LlamaForCausalLM"]}'),
            "f",
            r"transformers \(LlamaForCausalLM\)",
        ),
        (
            lambda p: text(p / "f" / "config.json", '{"_class_name": "FluxTransformer2DModel"}'),
            "f",
            r"one component of a pipeline \(FluxTransformer2DModel\)",
        ),
        (lambda p: text(p / "f" / "model.onnx", ""), "f", "a folder with an ONNX graph"),
        (lambda p: text(p / "f" / "a.gguf", ""), "f", "a folder with a GGUF"),
        (
            lambda p: text(p / "f" / "snapshots" / "abc" / "model_index.json", ""),
            "f",
            "name the pipeline in it, f/snapshots/abc",
        ),
        (lambda p: (p / "f").mkdir(), "f", "without model_index.json.*save_pretrained"),
    ],
)
def test_other_things_are_told(
    make: Callable[[Path], object],
    model: str,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Files and folders: what it is, and the next step."""
    monkeypatch.chdir(tmp_path)
    make(tmp_path)
    with pytest.raises(PipelineError, match=f"(?s){message}"):
        resolve_spec(model)


def test_a_component_names_its_pipeline(tmp_path: Path) -> None:
    """The folder above has the index, for components of both libraries."""
    text(tmp_path / "p" / "model_index.json", "{}")
    text(tmp_path / "p" / "transformer" / "config.json", '{"_class_name": "FluxTransformer2D"}')
    text(tmp_path / "p" / "text_encoder" / "config.json", '{"architectures": ["T5EncoderModel"]}')
    for part in ("transformer", "text_encoder"):
        with pytest.raises(PipelineError, match=r"one component .* whole pipeline's folder, .*/p"):
            resolve_spec(str(tmp_path / "p" / part))


@pytest.mark.parametrize(
    ("model", "found"),
    [
        ("https://hub.example/org/name", "org/name"),
        ("https://hub.example/org/name/tree/main/transformer?x=1", "org/name"),
        ("org/name/transformer", "org/name"),
        ("https://hub.example/", None),
        ("org/name", None),
        ("../x/y", None),
        ("/nowhere/at/all", None),
    ],
)
def test_the_hub_id_in_an_address_is_named(model: str, found: str | None) -> None:
    """An address of the Hub, or an id with a folder behind it, is answered with the id alone."""
    assert hub_id_in(model) == found
    if found:
        with pytest.raises(UnknownModelError, match=f"expected the Hub id alone: name {found}"):
            resolve_spec(model)


def test_an_address_is_shown_without_its_password() -> None:
    """Names and passwords in an address are not printed."""
    with pytest.raises(UnknownModelError) as raised:
        resolve_spec("https://user:secret@hub.example/org/name")
    assert "secret" not in str(raised.value)


def test_a_revision_may_follow_a_hub_id() -> None:
    """As in other tools of the Hub."""
    spec = resolve_spec("org/name@refs/pr/4")
    assert (spec.name, spec.model.hub, spec.model.revision) == ("name", "org/name", "refs/pr/4")
