"""Quantized checkpoints of each tool are told from unquantized ones by configs and headers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from sensitivity.models.quantized_weights import base_model, describe_quantized

WHOLE = {
    "proj.weight": torch.ones(4, 4, dtype=torch.bfloat16),
    "proj.bias": torch.ones(4),
    "norm.scale": torch.ones(4),
    "attn.bias": torch.ones(1, 1, 8, 8, dtype=torch.uint8),
    "position_ids": torch.arange(4).unsqueeze(0),
    "quantize.embedding.weight": torch.ones(4, 4),
    "acoustic_vector_quantizer.codebook": torch.ones(4, 4, dtype=torch.float16),
    "scale_shift_table": torch.ones(1, 6),
}
"""Tensors that unquantized models have."""
CODES = torch.ones(4, 2, dtype=torch.uint8)
FLOAT8 = torch.ones(4, 4, dtype=torch.float8_e4m3fn)


def describe(folder: Path, tensors: Mapping[str, Tensor], **metadata: str) -> Any:
    """What is said of a component with these tensors."""
    path = folder / "model.safetensors"
    save_file(dict(tensors), path, metadata={"format": "pt"} | metadata)
    return describe_quantized(folder, [path])


def test_unquantized_weights_are_not_suspected(tmp_path: Path) -> None:
    """Masks in integers, codebooks and modulation tables among them."""
    (tmp_path / "config.json").write_text(json.dumps({"quantization_config": None, "scale": 1}))
    assert describe(tmp_path, WHOLE) is None
    assert describe_quantized(tmp_path) is None


@pytest.mark.parametrize(
    ("tensors", "what"),
    [
        ({"proj.weight": FLOAT8, "proj.weight_scale": torch.ones(())}, "scales"),
        ({"proj.weight": FLOAT8, "proj.scale": torch.ones(())}, r"F8_E4M3"),
        ({"proj.weight": CODES, "proj.weight.absmax": torch.ones(2)}, "bitsandbytes"),
        ({"proj.weight.quant_state.bitsandbytes__nf4": CODES}, "bitsandbytes"),
        ({"proj.SCB": torch.ones(4)}, "bitsandbytes"),
        ({"proj.input_quantizer._amax": torch.ones(())}, "ModelOpt"),
        ({"proj.weight_scale_2": torch.ones(())}, "ModelOpt"),
        ({"proj.qweight": CODES, "proj.wscales": torch.ones(2, 4)}, "SVDQuant"),
        ({"proj.qweight": CODES, "proj.qzeros": CODES.clone()}, "GPTQ"),
        ({"proj.weight_packed": CODES.int()}, "compressed-tensors"),
        ({"proj.weight._data": CODES.char(), "proj.weight._scale": torch.ones(4)}, "quanto"),
        ({"proj._weight_qdata": FLOAT8}, "torchao"),
        ({"scaled_fp8": torch.ones(0)}, "ComfyUI"),
        ({"proj.comfy_quant": CODES}, "ComfyUI"),
        ({"proj.weight": CODES}, "U8"),
        ({"proj.weight": CODES.char()}, "I8"),
        ({"experts.gate_up_proj_blocks": CODES}, "U8"),
        ({"proj.weight": torch.ones(4, 2).to(torch.float8_e8m0fnu)}, "F8_E8M0"),
    ],
)
def test_checkpoints_of_each_tool_are_recognised(
    tensors: dict[str, Tensor], what: str, tmp_path: Path
) -> None:
    """By the names and dtypes of their tensors; none of them can be loaded as it is."""
    found = describe(tmp_path, WHOLE | tensors)
    assert what in found.what
    assert "model.safetensors" in found.what
    assert not found.is_plain


def test_plain_float8_is_told_apart(tmp_path: Path) -> None:
    """Values without scales are cast to bf16 as they are."""
    found = describe(tmp_path, WHOLE | {"proj.weight": FLOAT8})
    assert found.is_plain
    assert "F8_E4M3 values (proj.weight)" in found.what


@pytest.mark.parametrize(
    ("config", "what"),
    [
        ({"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}, "modelopt"),
        ({"quantization_config": {"load_in_4bit": True}}, "bitsandbytes, load_in_4bit"),
        ({"quantization_config": {"quant_type": {"default": {}}}}, "a quantizer"),
        ({"text_config": {"quantization_config": {"quant_method": "awq"}}}, "awq"),
        ({"compression_config": {"format": "float-quantized"}}, "float-quantized"),
    ],
)
def test_configs_tell_without_any_weight(config: Any, what: str, tmp_path: Path) -> None:
    """The tool is named as the config names it."""
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = describe_quantized(tmp_path)
    assert found is not None
    assert found.what.startswith(what)
    assert "in config.json" in found.what


@pytest.mark.parametrize("name", ["hf_quant_config.json", "quanto_qmap.json"])
def test_files_of_quantizers_tell(name: str, tmp_path: Path) -> None:
    """Nothing else writes them."""
    (tmp_path / name).write_text("{}")
    found = describe_quantized(tmp_path)
    assert found is not None
    assert name in found.what


def test_a_header_s_own_texts_tell(tmp_path: Path) -> None:
    """ComfyUI and Nunchaku write there what they did."""
    assert "ComfyUI" in describe(tmp_path, WHOLE, _quantization_metadata="{}").what


@pytest.mark.parametrize(
    ("front", "base"),
    [
        ("base_model: org/base", "org/base"),
        ("license: mit\nbase_model:\n- org/base\n- org/other\ntags:\n- x/y", "org/base"),
        ('base_model: ["org/base"]', "org/base"),
        ("tags:\n- org/none", None),
        ("base_model: ../../etc/passwd", None),
        ("base_model: org/self", None),
    ],
)
def test_the_base_model_is_that_of_the_model_card(
    front: str, base: str | None, tmp_path: Path
) -> None:
    """One id or a list of them; the model itself and what is no id do not count."""
    (tmp_path / "README.md").write_text(f"---\n{front}\n---\n# base_model: a/b\n")
    assert base_model([tmp_path], but="org/self") == base


def test_configs_may_name_the_base_model(tmp_path: Path) -> None:
    """Where there is no model card."""
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "org/base"}))
    assert base_model([tmp_path]) == "org/base"
