"""Fused Linears, block patterns and stored sensitivities."""

from pathlib import Path
from typing import Any

from sensitivity.search.grouping import make_candidates
from sensitivity.search.store import Store, assignment_key
from sensitivity.shapes.by_hand import rule_of_thumb
from sensitivity.workflows.audit.findings import Kind, Severity

from support.audits import BF16, NVFP4, audited, bad, of


def test_fused_linears_with_different_formats(models: Any) -> None:
    """One of q, k and v: a warning that names the three, an error for a server that fuses them;
    fixed, all three stay bf16.
    """
    audit = audited(models("flux1-dev"), "transformer_blocks.3.attn.to_q", form="fqn")
    (found,) = of(audit, Kind.FUSED)
    family = {f"transformer_blocks.3.attn.to_{x}" for x in "qkv"}
    assert (set(found.fqns), found.severity) == (family, Severity.WARNING)
    assert {audit.fixed.formats[fqn] for fqn in family} == {BF16}
    assert of(audited(models("flux1-dev"), "\n".join(family), form="fqn"), Kind.FUSED) == []


def test_cross_attentions_are_not_torn(models: Any) -> None:
    """No server runs q of a cross attention with k and v, which read another input: the rule of
    thumb for LTX-2, which tells them apart, passes unchanged.
    """
    model = models("ltx2")
    by_hand = rule_of_thumb(model.pricer.table, model.spec)
    audit = audited(
        model, "\n".join(fqn for fqn in model.tree.fqns if fqn not in by_hand), form="fqn"
    )
    assert "transformer_blocks.0.audio_attn2.to_k" in audit.subject.quantized
    assert "transformer_blocks.0.audio_attn2.to_q" not in audit.subject.quantized
    assert bad(audit) == set()
    assert audit.fixed.changes == ()
    torn = audited(
        model, "transformer_blocks.0.audio_attn2.to_k\ntransformer_blocks.0.attn1.to_v", form="fqn"
    )
    (found,) = of(torn, Kind.FUSED)
    assert set(found.fqns) == {
        f"transformer_blocks.0.{name}"
        for name in (
            "audio_attn2.to_k",
            "audio_attn2.to_v",
            "attn1.to_q",
            "attn1.to_k",
            "attn1.to_v",
        )
    }


def test_block_patterns_beyond_torchs_limit(models: Any) -> None:
    """Nine blocks that differ from each other are more graphs than torch compiles; eight patterns
    in all are not.
    """
    model = models("flux1-dev")
    parts = ["norm.linear", "proj_mlp", "proj_out"]

    def patterns(count: int) -> str:
        return "\n".join(
            f"single_transformer_blocks.{i}.{part}"
            for i in range(1, count)
            for j, part in enumerate([*parts, "attn.*"])
            if i >> j & 1
        )

    (found,) = of(audited(model, patterns(9), form="glob"), Kind.PATTERNS)
    assert "single_transformer_blocks have 9 distinct patterns" in found.message
    assert of(audited(model, patterns(8), form="glob"), Kind.PATTERNS) == []


def test_stored_sensitivities_are_used(models: Any, tmp_path: Path) -> None:
    """Linears that carry half of the calibrated damage are told where they are quantized; skipping
    harmless ones is a warning; nothing stored, nothing said.
    """
    model, path = models("flux1-dev"), tmp_path / "s.db"
    worst = ["single_transformer_blocks.0.proj_out", "transformer_blocks.0.ff.net.2"]
    little = [f"single_transformer_blocks.{i}.proj_mlp" for i in range(20)]
    with Store.open(path) as store:
        for fqn in (*worst, *little):
            store.save_sensitivity("a", assignment_key({fqn: NVFP4}), 1.0 if fqn in worst else 1e-3)
        store.save_sensitivity("interrupted", assignment_key({little[0]: NVFP4}), 1.0)
    audit = audited(model, "*proj_mlp", form="glob", storage=path)
    (found,) = of(audit, Kind.SENSITIVE)
    assert set(found.fqns) <= set(worst)
    assert audit.calibrated == 22
    assert {(f.severity, len(f.fqns)) for f in of(audit, Kind.SKIPPED)} == {
        (Severity.WARNING, 20),
        (Severity.NOTE, 18),
    }
    assert of(audited(model, "\n".join(worst), form="fqn", storage=path), Kind.SENSITIVE) == []
    assert audited(model, "*proj_mlp", form="glob").calibrated == 0


def test_sensitivities_of_groups_count_for_their_linears(models: Any, tmp_path: Path) -> None:
    """Estimators that measure whole groups are understood."""
    model, path = models("flux1-dev"), tmp_path / "s.db"
    candidates = make_candidates(
        model.pricer.table, model.spec, formats=(NVFP4,), latency=model.pricer.latency
    )
    with Store.open(path) as store:
        for number, group in enumerate(candidates.groups):
            store.save_sensitivity(
                "a",
                assignment_key(dict.fromkeys(group.members[1], NVFP4)),
                1.0 if number == 0 else 1e-3,
            )
    audit = audited(model, "zzz", storage=path)
    (found,) = of(audit, Kind.SENSITIVE)
    assert set(found.fqns) <= set(candidates.groups[0].members[1])
    assert audit.calibrated == sum(len(group.members[1]) for group in candidates.groups)


def test_a_database_that_is_none_is_said(models: Any, tmp_path: Path) -> None:
    """A damaged file does not stop the audit."""
    (tmp_path / "s.db").write_bytes(b"no database at all" * 100)
    audit = audited(models("tiny-flux"), "embed", storage=tmp_path / "s.db")
    (found,) = of(audit, Kind.SENSITIVE)
    assert found.severity is Severity.NOTE
    assert "were not looked at" in found.message
