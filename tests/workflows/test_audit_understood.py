"""Lists in another tool's names: hints and fixed lists speak the names of the list's consumer."""

import json
from typing import Any

import pytest

from sensitivity.consumers.readers import get_reader
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError
from sensitivity.workflows.audit import (
    Audit,
    AuditRequest,
    Source,
    fixed_recipe,
    fixed_text,
    keeps_its_form,
)
from sensitivity.workflows.audit.auditing import audit_on
from sensitivity.workflows.audit.findings import Kind, Severity
from sensitivity.workflows.audit.model import AuditedModel

from support.audits import BF16, audited, of

SINGLE = "single_transformer_blocks.0"
QKV = {f"{SINGLE}.attn.to_{part}" for part in "qkv"}


def read_and_audited(model: AuditedModel, value: Any, form: str) -> Audit:
    """An object in a consumer's form, audited with its text."""
    text = json.dumps(value)
    source = Source(
        name="mine.json", form=form, guessed=False, listed=get_reader(form).read(text), text=text
    )
    return audit_on(model, AuditRequest(source=source), {})


def fixed_again(audit: Audit) -> tuple[Any, Audit]:
    """The fixed list in its own form, and its audit."""
    assert keeps_its_form(audit)
    value = json.loads(fixed_text(audit))
    return value, read_and_audited(audit.subject.model, value, audit.source.form)


OMNI, SGLANG = "ignored_layers", "quantization_ignored_layers"


@pytest.mark.parametrize(
    ("form", "value", "key", "names", "kept"),
    [
        ("vllm-omni", {"method": "fp8"}, OMNI, sorted(QKV), QKV),
        ("vllm-omni", {"method": "fp8"}, OMNI, [f"{SINGLE}.attn.to_q"], QKV),
        ("vllm-omni", {"method": "fp8"}, OMNI, [f"transformer.{SINGLE}.attn.to_k.weight"], QKV),
        ("vllm-omni", {"method": "fp8"}, OMNI, [f"{SINGLE}.attn"], QKV),
        (
            "vllm-omni",
            {"method": "fp8"},
            OMNI,
            ["single_blocks.0.linear1"],
            {*QKV, f"{SINGLE}.proj_mlp"},
        ),
        ("vllm-omni", {"method": "fp8"}, OMNI, ["to_qkv"], QKV),
        ("sglang", {"quantization": "fp8"}, SGLANG, ["attn.to_"], QKV),
        (
            "sglang",
            {"quantization": "fp8"},
            SGLANG,
            ["double_blocks.3.img_attn.qkv"],
            {f"transformer_blocks.3.attn.to_{part}" for part in "qkv"},
        ),
    ],
)
def test_a_server_is_told_its_own_names(
    form: str, value: dict[str, Any], key: str, names: list[str], kept: set[str], models: Any
) -> None:
    """Names of diffusers and of the original checkpoint, with prefixes or of modules, are given up
    for the server's own: hints name these, and the fixed list keeps at least what was meant.
    """
    audit = read_and_audited(models("flux1-dev"), {**value, key: names}, form)
    for finding in of(audit, Kind.DEAD):
        assert finding.closest
        assert set(finding.closest) <= audit.subject.names.keys()
        assert "`form`" not in finding.message
    again_value, again = fixed_again(audit)
    assert again.count(Severity.ERROR) == 0
    assert again.subject.formats == audit.fixed.formats
    assert again.fixed.changes == ()
    assert {fqn for fqn in kept if audit.fixed.formats[fqn] is not BF16} == set()
    assert {k: v for k, v in again_value.items() if k != key} == value
    assert audit.fixed.given_up == ()


def test_parts_of_names_are_kept_where_the_rule_cannot_say_them(models: Any) -> None:
    """Quanto compares the last part alone: a whole name is dead, no entry could say it, and the
    fixed list keeps what it means. A number is no part of a name.
    """
    names = [f"{SINGLE}.proj_mlp", "77"]
    value = {"quant_method": "quanto", "modules_to_not_convert": names}
    audit = read_and_audited(models("flux1-dev"), value, "diffusers")
    first = next(finding for finding in of(audit, Kind.DEAD) if finding.entry == names[0])
    assert "no entry can name them alone; `fix` writes a list that does" in first.message
    assert audit.fixed.formats[names[0]] is BF16
    assert audit.fixed.given_up == ("77",)


def test_entries_for_weights_that_are_no_linears_are_notes(models: Any) -> None:
    """A convolution's weight and a bare parameter are no fault, even if they are the whole list."""
    value = {
        "quant_method": "modelopt",
        "modules_to_not_convert": ["patch_embedding.weight", "scale_shift_table"],
    }
    audit = read_and_audited(models("two"), value, "diffusers")
    assert audit.count(Severity.ERROR) == 0
    assert {finding.severity for finding in of(audit, Kind.DEAD)} == {Severity.NOTE}


def test_what_is_not_understood_is_said(models: Any) -> None:
    """A name that nothing has is given up by name; the object around the lists stays."""
    value = {
        "transformer": {"method": "fp8", "activation_scheme": "dynamic", "ignored_layers": ["zz"]},
        "transformer_2": None,
    }
    audit = read_and_audited(models("two"), value, "vllm-omni")
    assert audit.fixed.given_up == ("zz",)
    assert any("dropped: zz" in change for change in audit.fixed.changes)
    value["transformer"]["ignored_layers"] = []  # type: ignore[index]
    assert fixed_again(audit)[0] == value


def test_a_checkpoints_layers_are_its_own_names(models: Any) -> None:
    """ComfyUI's list names what is quantized: a whole family becomes its matrix, a part of one
    stays bf16; what the list says of a layer is kept.
    """
    layer = {"format": "nvfp4", "note": "mine"}
    names = [*sorted(QKV), f"{SINGLE}.proj_mlp", "transformer_blocks.0.attn.to_q"]
    audit = read_and_audited(
        models("flux1-dev"),
        {"format_version": "1.0", "layers": dict.fromkeys(names, layer)},
        "comfyui",
    )
    value, again = fixed_again(audit)
    assert list(value["layers"]) == ["single_blocks.0.linear1"]
    assert again.count(Severity.ERROR) == 0


def test_what_a_dead_entry_quantizes_may_have_no_price(models: Any) -> None:
    """All entries are dead, and what they mean is in a format of another tool."""
    layer = {"format": "asym_w4a8_int8", "group_size": 16}
    value = {"layers": {"double_blocks.0.img_attn.qkv.weight": layer}}
    audit = read_and_audited(models("flux1-dev"), value, "comfyui")
    assert audit.subject.is_priced
    assert not audit.has_fixed_price
    assert fixed_again(audit)[0] == {"layers": {"double_blocks.0.img_attn.qkv": layer}}
    with pytest.raises(PatternError, match="found a list in the format asym_w4a8_int8"):
        fixed_recipe(audit)


@pytest.mark.parametrize(
    ("entry", "form", "kept"),
    [
        ("double_blocks.3.img_attn.qkv", "glob", "transformer_blocks.3.attn.to_q"),
        ("single_blocks.[0-3].linear2", "glob", "single_transformer_blocks.2.proj_out"),
        (
            r"double_blocks\.3\.txt_mlp\.0",
            "regex-full",
            "transformer_blocks.3.ff_context.net.0.proj",
        ),
        ("img_attn.proj", "substring", "transformer_blocks.7.attn.to_out.0"),
        ("transformer_blocks.3.attn", "fqn", "transformer_blocks.3.attn.to_add_out"),
    ],
)
def test_plain_lists_keep_what_original_names_mean(
    entry: str, form: str, kept: str, models: Any
) -> None:
    """By its own rule, an entry hits the original names, and its Linears stay bf16."""
    audit = audited(models("flux1-dev"), f"{entry}\nproj_out", form=form)
    assert audit.subject.formats[kept] is not BF16
    assert audit.fixed.formats[kept] is BF16
    again = audited(models("flux1-dev"), fixed_text(audit), form="glob")
    assert again.count(Severity.ERROR) == 0
    assert again.subject.formats == audit.fixed.formats


def test_a_server_list_is_not_torn_where_the_server_does_not_fuse(models: Any) -> None:
    """vLLM-Omni runs k and v of Wan's cross attention one by one: one of them may stay bf16."""
    value = {"method": "fp8", "ignored_layers": ["blocks.0.attn2.to_k"]}
    audit = read_and_audited(models("two"), value, "vllm-omni")
    assert of(audit, Kind.FUSED) == []
    assert audit.fixed.formats["transformer.blocks.0.attn2.to_v"] is FormatName.FP8
