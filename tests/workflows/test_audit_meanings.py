"""Entries that hit more than they mean, or nothing new, are found; right lists come out clean."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from sensitivity.workflows.audit import fixed_recipe, fixed_text, keeps_its_form
from sensitivity.workflows.audit.findings import Kind, Severity

from support.audits import BF16, audited, bad, of

FLUX_OVER: list[tuple[str, str, Callable[[str], bool], Severity]] = [
    (
        "substring",
        "proj_out",
        lambda n: n.startswith("single_transformer_blocks.") and n.endswith(".proj_out"),
        Severity.ERROR,
    ),
    (
        "dotted-substring",
        "proj_out",
        lambda n: n.startswith("single_transformer_blocks.") and n.endswith(".proj_out"),
        Severity.ERROR,
    ),
    (
        "substring",
        "transformer_blocks.0.attn.to_q",
        lambda n: n == "single_transformer_blocks.0.attn.to_q",
        Severity.ERROR,
    ),
    (
        "substring",
        "transformer_blocks",
        lambda n: n.startswith("single_transformer_blocks."),
        Severity.ERROR,
    ),
    (
        "substring",
        "blocks.1",
        lambda n: n.split(".")[1] in {str(i) for i in range(10, 20)},
        Severity.ERROR,
    ),
    ("substring", "norm1", lambda n: "norm1_context" in n, Severity.WARNING),
    (
        "regex-search",
        r"blocks\.1",
        lambda n: n.split(".")[1] in {str(i) for i in range(10, 20)},
        Severity.ERROR,
    ),
    (
        "regex",
        r"transformer_blocks\.(0|1)",
        lambda n: n.startswith("transformer_blocks.1") and n.split(".")[1] != "1",
        Severity.ERROR,
    ),
    (
        "regex",
        r".*transformer_blocks\.3\..*",
        lambda n: n.startswith("single_transformer_blocks.3."),
        Severity.ERROR,
    ),
    (
        "glob",
        "transformer_blocks.1*",
        lambda n: n.startswith("transformer_blocks.1") and n.split(".")[1] != "1",
        Severity.ERROR,
    ),
    (
        "glob",
        "*transformer_blocks.[01].*",
        lambda n: n.startswith(("single_transformer_blocks.0.", "single_transformer_blocks.1.")),
        Severity.ERROR,
    ),
]


@pytest.mark.parametrize(
    ("form", "entry", "more", "severity"),
    FLUX_OVER,
    ids=[f"{form} {entry}" for form, entry, *_ in FLUX_OVER],
)
def test_what_an_entry_hits_besides_is_found(
    form: str, entry: str, more: Callable[[str], bool], severity: Severity, models: Any
) -> None:
    """A name inside another, a number inside another, a list of blocks inside another: the surplus
    is told exactly, and fixed.
    """
    audit = audited(models("flux1-dev"), entry, form=form)
    (found,) = of(audit, Kind.OVER)
    hits = {fqn for fqn, name in audit.subject.formats.items() if name is BF16}
    surplus = {fqn for fqn in hits if more(fqn)}
    assert surplus
    assert surplus != hits
    assert set(found.fqns) == surplus
    assert (found.entry, found.line, found.severity) == (entry, 1, severity)
    assert {
        fqn for fqn, cause in audit.fixed.causes.items() if cause == "skipped by the list"
    } == hits - surplus


@pytest.mark.parametrize(
    ("form", "text", "block"),
    [
        (
            "convert-to-quant",
            "ctq -i a.safetensors --nvfp4 --simple --exclude-layers single_blocks.1",
            "single_transformer_blocks.1",
        ),
        (
            "sdnq",
            '{"weights_dtype": "fp8", "use_quantized_matmul": true, "add_skip_keys": false,'
            ' "modules_to_not_convert": [".transformer_blocks.1"]}',
            "transformer_blocks.1",
        ),
    ],
)
def test_a_number_inside_another_in_a_tools_own_list(
    form: str, text: str, block: str, models: Any
) -> None:
    """An expression and a beginning that are open behind an index hit ten and more as well; a fixed
    list is one of globs.
    """
    audit = audited(models("flux1-dev"), text, form=form)
    (found,) = of(audit, Kind.OVER)
    assert found.severity is Severity.ERROR
    inside = audit.subject.model.tree.fqns
    assert set(found.fqns) == {
        fqn for fqn in inside if fqn.startswith(block) and not fqn.startswith(f"{block}.")
    }
    assert {fqn for fqn in audit.fixed.causes if fqn.startswith(block)} >= {f"{block}.attn.to_q"}
    assert not keeps_its_form(replace(audit, source=replace(audit.source, text=text)))


def test_an_audio_prefix_is_no_part_of_the_video(models: Any) -> None:
    """`attn1.to_q` stands between dots in the video's stream and inside `audio_attn1.to_q` in the
    sound's.
    """
    (found,) = of(audited(models("ltx2"), "attn1.to_q\ntime_embed"), Kind.OVER)[:1]
    assert set(found.fqns) == {f"transformer_blocks.{i}.audio_attn1.to_q" for i in range(48)}
    (other,) = of(audited(models("ltx2"), "time_embed"), Kind.OVER)
    assert {fqn.partition(".")[0] for fqn in other.fqns} == {"audio_time_embed"}


def test_an_index_that_a_list_lacks_is_not_another_list(models: Any) -> None:
    """FLUX.1 has 19 double blocks, 0 to 18, and 38 single ones: number 19 of the first is a slip,
    and as a glob no substring is recommended for it.
    """
    model = models("flux1-dev")
    audit = audited(model, "transformer_blocks.19.attn\nproj_mlp")
    (found,) = of(audit, Kind.OVER)
    assert (found.severity, set(found.fqns)) == (
        Severity.ERROR,
        {f"single_transformer_blocks.19.attn.to_{x}" for x in "qkv"},
    )
    assert "names no Linear" in found.message
    assert not set(found.fqns) & set(audit.fixed.causes)
    (dead,) = of(
        audited(model, "transformer_blocks.19.attn.to_q\n*.proj_mlp", form="glob"), Kind.DEAD
    )
    assert "substring" not in dead.message
    assert dead.closest[0].startswith("transformer_blocks.")


def test_over_matching_that_changes_nothing_is_no_fault(models: Any) -> None:
    """What another entry or the least width decides alike is not reported."""
    model = models("flux1-dev")
    assert (
        of(audited(model, "transformer_blocks.0.attn\nsingle_transformer_blocks.0"), Kind.OVER)
        == []
    )
    assert of(audited(models("ltx2"), "proj_in", min_width=1024), Kind.OVER) == []
    assert len(of(audited(models("ltx2"), "proj_in"), Kind.OVER)) == 1


CLEAN: list[tuple[str, str]] = [
    ("substring", "embed\nnorm\nfqn:proj_out"),
    ("substring", "_embedder\nsingle_transformer_blocks.1.\n.proj_mlp"),
    ("substring", "transformer_blocks.18.ff_context"),
    (
        "glob",
        "*embed*\n*norm*\nproj_out\nsingle_transformer_blocks.1.*\n"
        "transformer_blocks.*.attn.*\nsingle_transformer_blocks.3[0-7].*",
    ),
    (
        "regex",
        r"proj_out$"
        + "\n"
        + r".*(norm|embed).*"
        + "\n"
        + r"single_transformer_blocks\.(1|2)\..*"
        + "\n"
        + r"transformer_blocks\.1\d?\.",
    ),
    ("regex-search", r"\.1\.|proj_mlp"),
    ("prefix", "transformer_blocks.1\nproj_out\nnorm_out"),
    ("fqn", "proj_out\ntransformer_blocks.1.norm1.linear"),
]


@pytest.mark.parametrize(("form", "text"), CLEAN, ids=[form for form, _ in CLEAN])
def test_lists_that_are_right_come_out_clean(form: str, text: str, models: Any) -> None:
    """What plainly means anywhere, or is exact, is no fault of names; prices and fused groups are
    looked at alike.
    """
    audit = audited(models("flux1-dev"), text, form=form)
    assert bad(audit) <= {Kind.LOSS, Kind.FUSED}
    assert not audit.failed("error")


def test_redundant_entries_are_notes(models: Any) -> None:
    """Of entries that say the same the later one is named, with the one that covers it; the rest
    stays.
    """
    audit = audited(models("flux1-dev"), "embed\nx_embedder\nproj_mlp\nproj_mlp\ncontext_embedder")
    found = {(f.entry, f.line): f for f in of(audit, Kind.REDUNDANT)}
    assert set(found) == {("x_embedder", 2), ("proj_mlp", 4), ("context_embedder", 5)}
    assert "line 1: embed" in found["x_embedder", 2].message
    assert {f.severity for f in found.values()} == {Severity.NOTE}


def test_two_denoisers(models: Any) -> None:
    """A name without a component is that of each, one with it of one; nothing of that is
    over-matching.
    """
    model = models("two")
    audit = audited(
        model,
        "proj_out\ncondition_embedder.*\ntransformer_2.blocks.0.*\ntransformer.blocks.1.ffn.net.2",
        form="glob",
    )
    assert bad(audit) <= {Kind.LOSS, Kind.FUSED}
    bf16 = {fqn for fqn, name in audit.subject.formats.items() if name is BF16}
    assert {
        "transformer.proj_out",
        "transformer_2.proj_out",
        "transformer.blocks.1.ffn.net.2",
    } <= bf16
    assert {fqn for fqn in bf16 if ".blocks.0." in fqn} == {
        fqn for fqn in model.tree.fqns if fqn.startswith("transformer_2.blocks.0.")
    }
    again = audited(model, fixed_text(audit), form="glob")
    assert again.subject.formats == audit.fixed.formats
    assert set(fixed_recipe(audit).model.components) == {"transformer", "transformer_2"}
