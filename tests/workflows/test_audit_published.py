"""Published lists, audited: what is known of them is found, and right names come out clean."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from sensitivity.consumers.readers import get_reader
from sensitivity.core.format_name import FormatName
from sensitivity.latency import PredictedLatency, get_device
from sensitivity.workflows.audit.findings import Kind, Severity
from sensitivity.workflows.audit.model import audited_model
from sensitivity.workflows.audit.other_runs import other_studies

from support.audits import PUBLISHED, audited, bad, of


@pytest.mark.parametrize(
    ("study", "quantized", "linears", "dead"),
    [("flux1-dev", 494, 504, 0), ("qwen-image", 360, 846, 0), ("ltx2", 1356, 1370, 7)],
)
def test_published_lists_are_what_is_known_of_them(
    study: str, quantized: int, linears: int, dead: int, models: Any
) -> None:
    """torchao's three lists quantize what was counted by hand, and seven of the ten patterns for
    LTX-2 match no Linear.
    """
    audit = audited(models(study), (PUBLISHED / f"{study}-torchao.txt").read_text(), min_width=1024)
    assert (len(audit.subject.quantized), len(audit.subject.formats)) == (quantized, linears)
    assert len(of(audit, Kind.DEAD)) == dead
    assert audit.priced[0].quantized == quantized


def test_the_published_list_for_ltx2(models: Any) -> None:
    """Its dead patterns are named with their lines, the renamed one with its new name, and so are
    the 588 Linears with a small M, K or N.
    """
    audit = audited(models("ltx2"), (PUBLISHED / "ltx2-torchao.txt").read_text(), min_width=1024)
    dead = {finding.entry: finding for finding in of(audit, Kind.DEAD)}
    assert set(dead) == {
        "patch_embed",
        "adaln_single",
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
        "norm_out",
    }
    assert dead["adaln_single"].closest == ("time_embed",)
    assert dead["adaln_single"].line == 8
    assert dead["norm_out"].severity is Severity.NOTE
    assert "LayerNorm" in dead["norm_out"].message
    assert [len(finding.fqns) for finding in of(audit, Kind.SMALL)] == [588]
    (over,) = of(audit, Kind.OVER)
    assert over.entry == "caption_projection"
    assert set(over.fqns) == {
        "audio_caption_projection.linear_1",
        "audio_caption_projection.linear_2",
    }
    assert audit.failed("error")


def test_the_published_list_for_flux(models: Any) -> None:
    """76 modulation Linears have one row for each picture and 114 of the text stream 512; its names
    are right, so that only its prices are looked at.
    """
    audit = audited(
        models("flux1-dev"), (PUBLISHED / "flux1-dev-torchao.txt").read_text(), min_width=1024
    )
    (small,) = of(audit, Kind.SMALL)
    by_m = {
        m: sum(row.linears for row in small.rows if row.m == m)
        for m in {row.m for row in small.rows}
    }
    assert by_m == {1: 76, 512: 114}
    assert bad(audit) == set()
    assert not audit.failed("error")


def test_the_published_list_for_qwen_image_is_fitted_to_a_short_prompt(models: Any) -> None:
    """The text stream that the list skips is worth quantizing once the prompt has 512 tokens
    instead of 14.
    """
    model = models("qwen-image")
    others = other_studies(model.spec)
    assert list(others) == ["at batch size 4", "with a prompt of 512 tokens"]
    words = "with a prompt of 512 tokens"
    audit = audited(
        model,
        (PUBLISHED / "qwen-image-torchao.txt").read_text(),
        min_width=1024,
        others={words: audited_model(others[words])},
    )
    (found,) = of(audit, Kind.VARIES)
    assert words in found.message
    assert {row.m for row in found.rows} == {512}
    assert "transformer_blocks.7.txt_mlp.net.0.proj" in found.fqns
    assert bad(audit) == set()


def test_what_hopper_refuses_is_an_error_on_a_laptop_too(models: Any) -> None:
    """FP8 on an H100 stops at Qwen-Image's text stream of 14 tokens: the audit says so without a
    GPU, and every list that it prices leaves these Linears in bf16.
    """
    model = models("qwen-image")
    hopper = PredictedLatency(get_device("h100"))
    model = dataclasses.replace(model, pricer=dataclasses.replace(model.pricer, latency=hopper))
    audit = audited(model, "norm_out.linear", form="fqn", format=FormatName.FP8)
    found = [f for f in of(audit, Kind.REFUSED) if "refused by the kernel" in f.message]
    assert {f.severity for f in found} == {Severity.ERROR}
    assert {fqn for f in found for fqn in f.fqns} >= {
        f"transformer_blocks.{block}.txt_mlp.net.2" for block in range(60)
    }
    assert "CUBLAS_STATUS_NOT_SUPPORTED for M=14 K=12288 N=3072 with a bias" in found[0].message
    assert "a run stops there: skip" in found[0].message
    refused = {fqn for f in found for fqn in f.fqns}
    assert "60 Linears that the target's kernel refuses left in bf16" in audit.fixed.changes
    for row in audit.priced:
        assert all(not row.formats.get(fqn, FormatName.BF16).is_quantized for fqn in refused)


@pytest.mark.parametrize(
    ("study", "quantized"), [("flux1-dev", 494), ("qwen-image", 56 * 14), ("ltx2", 42 * 28 + 12)]
)
def test_modelopts_lists_have_no_fault_in_their_names(
    study: str, quantized: int, models: Any
) -> None:
    """Regular expressions that close their alternatives are right."""
    audit = audited(models(study), (PUBLISHED / f"{study}-modelopt.txt").read_text(), form="regex")
    assert bad(audit) <= {Kind.LOSS}
    if study != "ltx2":
        assert len(audit.subject.quantized) == quantized
    else:  # everything outside the blocks but the four modules of the list, and six of 48 blocks
        assert (
            len(audit.subject.quantized)
            == sum(not fqn.startswith("transformer_blocks") for fqn in audit.subject.quantized)
            + 42 * 28
        )


@pytest.mark.parametrize("path", sorted(PUBLISHED.glob("*.txt")), ids=lambda path: path.stem)
def test_each_published_list_says_how_to_audit_it(path: Path) -> None:
    """Its header has the source and a command that reads it in the form that it is in."""
    text = path.read_text()
    command = next(line for line in text.splitlines() if "sensitivity audit" in line)
    assert "# Source:" in text
    assert f"recipes/published/{path.name}" in command
    study, form = command.split("--model ")[1].split()[0], command.split("--as ")[1].split()[0]
    assert path.stem.startswith(study)
    assert get_reader(form).read(text).entries
