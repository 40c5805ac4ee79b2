"""Only whole weights serve as the bf16 reference: quantized denoisers and adapters are refused
before any weight is read.
"""

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from sensitivity.errors import PipelineError
from sensitivity.models.loading import load_pipeline
from sensitivity.models.reference_weights import describe_quantized_module
from sensitivity.shapes.deriving import derive
from sensitivity.spec.loading import resolve_spec
from sensitivity.spec.study_spec import StudySpec

from support.loaded import at


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny pipeline, with a model card."""
    copy = shutil.copytree(tiny_folder, tmp_path / "copy")
    (copy / "README.md").write_text("---\nbase_model: org/whole\n---\n")
    return copy


def change(folder: Path, part: str, changed: Callable[[dict[str, Tensor]], object]) -> None:
    """Rewrite a component's only weight file."""
    path = next((folder / part).glob("*.safetensors"))
    tensors = load_file(path)
    changed(tensors)
    save_file(tensors, path, metadata={"format": "pt"})


def to_float8(tensors: dict[str, Tensor]) -> None:
    """2-D weights in float8, without scales."""
    small = {key: x.to(torch.float8_e4m3fn) for key, x in tensors.items() if x.ndim == 2}
    tensors |= small


def test_a_float8_denoiser_is_refused_before_it_is_read(
    spec: StudySpec, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message has the folder, a tensor, why, and the model that it was made of."""
    change(folder, "transformer", to_float8)
    monkeypatch.setattr(
        "diffusers.FluxTransformer2DModel.from_pretrained", lambda *_a, **_o: pytest.fail("read")
    )
    with pytest.raises(
        PipelineError,
        match=(
            r"transformer holds weights that are quantized already: F8_E4M3 values .*expected bf16,"
            r" .*reference of every score: name the model .*org/whole"
        ),
    ):
        load_pipeline(at(spec, folder), device="cpu")


def test_a_float8_text_encoder_is_loaded_and_said(
    spec: StudySpec, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the same in the reference and in every trial: a warning says what it is."""
    change(folder, "text_encoder", to_float8)
    with caplog.at_level(logging.WARNING):
        loaded = load_pipeline(at(spec, folder), device="cpu")
    assert "text_encoder holds F8_E4M3 values" in caplog.text
    assert {p.dtype for p in loaded.pipe.text_encoder.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("part", ["text_encoder_2", "vae"])
def test_other_components_that_need_a_quantizer_are_refused(
    part: str, spec: StudySpec, folder: Path
) -> None:
    """Codes read as values would be another model."""
    change(folder, part, lambda tensors: tensors.update({"x.weight_scale": torch.ones(())}))
    with pytest.raises(
        PipelineError, match=rf"{part} holds .* put the {part} folder of .* \(it seems to be org/w"
    ):
        load_pipeline(at(spec, folder), device="cpu")


@pytest.mark.parametrize("place", ["transformer/config.json", "hf_quant_config.json"])
def test_a_config_refuses_the_denoiser(place: str, spec: StudySpec, folder: Path) -> None:
    """The component's own, or the whole pipeline's."""
    path = folder / place
    config = json.loads(path.read_text()) if path.is_file() else {}
    path.write_text(json.dumps(config | {"quantization_config": {"quant_method": "torchao"}}))
    with pytest.raises(PipelineError, match=r"transformer holds weights that are quantized"):
        load_pipeline(at(spec, folder), device="cpu")


def test_a_derived_study_says_that_its_model_is_quantized(folder: Path) -> None:
    """Shapes and prices are right; the search that follows is not possible."""
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": {"quant_method": "gguf"}}
    path.write_text(json.dumps(config))
    notes = derive(resolve_spec(str(folder))).notes
    assert any("transformer is quantized already: gguf" in note for note in notes)


def wrap(tensors: dict[str, Tensor]) -> None:
    """A LoRA of PEFT around the last Linear."""
    tensors["proj_out.base_layer.weight"] = tensors.pop("proj_out.weight")
    tensors["proj_out.lora_A.default.weight"] = torch.ones(2, 4)


def test_stored_adapters_are_named(spec: StudySpec, folder: Path) -> None:
    """By their tensors, or by the file that PEFT writes; the next step is to fuse them."""
    change(folder, "transformer", wrap)
    with pytest.raises(PipelineError, match=r"adapter such as LoRA \(proj_out\..*fuse_lora"):
        load_pipeline(at(spec, folder), device="cpu")
    (folder / "text_encoder" / "adapter_config.json").write_text("{}")
    with pytest.raises(PipelineError, match=r"text_encoder holds an adapter such as LoRA"):
        load_pipeline(at(spec, folder), device="cpu")


def test_a_loaded_model_is_examined() -> None:
    """The dtype or class of a Linear's weight, a quantizer's parts, or the quantizer itself."""
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    assert describe_quantized_module(net) is None
    assert describe_quantized_module(net.to(torch.bfloat16)) is None
    net[1].weight = nn.Parameter(torch.ones(4, 4).to(torch.float8_e4m3fn), requires_grad=False)
    assert describe_quantized_module(net) == "1 has a weight in torch.float8_e4m3fn"

    class Packed(torch.Tensor):
        """A tensor class of a quantizer."""

    net[1].weight = nn.Parameter(torch.ones(4, 4).as_subclass(Packed), requires_grad=False)
    assert describe_quantized_module(net) == "1 has a weight of class Packed"
    net[1] = nn.Linear(4, 4)
    net[1].add_module("input_quantizer", nn.Identity())
    assert "1.input_quantizer" in str(describe_quantized_module(net))
