"""Lists that people have, audited: planted faults are found, right lists come out clean, and what
is fixed has no faults left. Full-size models, no weights.
"""

import dataclasses
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sensitivity.consumers.exporters import get_exporter
from sensitivity.consumers.readers import READERS, get_reader
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError, RecipeError, RecipeMismatchError, UserError
from sensitivity.recipes.recipe import load_recipe
from sensitivity.search.candidates import make_candidates
from sensitivity.search.store import Store, assignment_key
from sensitivity.shapes.by_hand import rule_of_thumb
from sensitivity.spec.loading import load_spec, resolve_spec
from sensitivity.workflows.audit.auditing import (
    Audit,
    AuditRequest,
    audit_on,
    fixed_recipe,
    fixed_text,
)
from sensitivity.workflows.audit.prices import other_studies
from sensitivity.workflows.audit.reading import Source, read_source
from sensitivity.workflows.audit.subject import (
    AuditedModel,
    Finding,
    Kind,
    Severity,
    audited_model,
    some_roles,
)

from support.clip_pipelines import save_wan

PUBLISHED = Path(__file__).parents[2] / "recipes" / "published"
NVFP4, BF16 = FormatName.NVFP4, FormatName.BF16


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], AuditedModel]:
    """Models by study name, each profiled once; "two" is a tiny Wan with two denoisers."""
    made: dict[str, AuditedModel] = {}

    def get(name: str) -> AuditedModel:
        if name not in made:
            spec = (
                load_spec(save_wan(tmp_path_factory.mktemp("two") / "wan", denoisers=2))
                if name == "two"
                else resolve_spec(name)
            )
            made[name] = audited_model(spec)
        return made[name]

    return get


def audited(
    model: AuditedModel, text: str, form: str = "substring", others: Any = None, **request: Any
) -> Audit:
    """A text as a list on a model; the database is not there unless it is given."""
    source = Source(name="mine.txt", form=form, guessed=False, listed=get_reader(form).read(text))
    return audit_on(
        model, AuditRequest(source=source, **{"storage": Path("/none.db"), **request}), others or {}
    )


def of(audit: Audit, kind: Kind) -> list[Finding]:
    return [finding for finding in audit.findings if finding.kind is kind]


def bad(audit: Audit) -> set[Kind]:
    """Kinds of the findings that are more than notes."""
    return {finding.kind for finding in audit.findings if finding.severity is not Severity.NOTE}


# --- published lists ------------------------------------------------------------------------------


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
    assert bad(audit) == {Kind.LOSS}
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
    assert "transformer_blocks.7.attn.add_q_proj" in found.fqns
    assert bad(audit) == set()


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


# --- over-matching --------------------------------------------------------------------------------

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
        "*embed*\n*norm*\nproj_out\nsingle_transformer_blocks.1.*\ntransformer_blocks.*.attn.*\nsingle_transformer_blocks.3[0-7].*",
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


# --- dead and redundant entries -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "form", "closest", "words"),
    [
        ("x_embeder", "substring", "x_embedder", "closest"),
        ("transformer_blocks.7.attn.to_qq", "glob", "transformer_blocks.7.attn.to_q", "closest"),
        (
            "transformer_blocks.0.attn",
            "fqn",
            "transformer_blocks.0.attn.*",
            "a module that holds 8",
        ),
        (
            "double_blocks",
            "substring",
            "transformer_blocks",
            "called transformer_blocks in diffusers",
        ),
        ("norm1.*context", "substring", None, "as regex-search it would hit 19"),
        ("zzzz", "substring", None, "nothing is called alike"),
    ],
)
def test_a_dead_entry_comes_with_what_it_may_mean(
    entry: str, form: str, closest: str | None, words: str, models: Any
) -> None:
    """A slip, a container, an older name, another form."""
    found = next(
        f for f in of(audited(models("flux1-dev"), f"{entry}\nproj_out", form=form), Kind.DEAD)
    )
    assert (found.entry, found.severity, found.fqns) == (entry, Severity.ERROR, ())
    assert words in found.message
    assert found.closest[:1] == ((closest,) if closest else ())


def test_norms_and_convolutions_are_no_dead_names(models: Any) -> None:
    """A list may name modules that this tool leaves alone: a note, so that the list passes."""
    audit = audited(models("flux1-dev"), "norm_added_k\nnorm1_context.norm\nproj_mlp")
    assert {(f.entry, f.severity) for f in of(audit, Kind.DEAD)} == {
        ("norm_added_k", Severity.NOTE),
        ("norm1_context.norm", Severity.NOTE),
    }


def test_a_list_in_another_form_is_told_which(models: Any) -> None:
    """Where every entry is dead, the form that would fit is named; where an entry is no pattern of
    the form, too.
    """
    model = models("flux1-dev")
    (found,) = of(audited(model, ".*norm.*\n^proj_out$"), Kind.FORM)
    assert "--as regex" in found.message
    with pytest.raises(
        PatternError, match=r"mine.txt: line 2: found the pattern '\^proj_out\$'.*--as regex"
    ):
        audited(model, "proj_out\n^proj_out$", form="glob")
    (other,) = of(
        audited(model, "model.layers.0.self_attn.q_proj\nlm_head", form="glob"), Kind.FORM
    )
    assert "another model" in other.message


def test_redundant_entries_are_notes(models: Any) -> None:
    """Of entries that say the same the later one is named, with the one that covers it; the rest
    stays.
    """
    audit = audited(models("flux1-dev"), "embed\nx_embedder\nproj_mlp\nproj_mlp\ncontext_embedder")
    found = {(f.entry, f.line): f for f in of(audit, Kind.REDUNDANT)}
    assert set(found) == {("x_embedder", 2), ("proj_mlp", 4), ("context_embedder", 5)}
    assert "line 1: embed" in found["x_embedder", 2].message
    assert {f.severity for f in found.values()} == {Severity.NOTE}


# --- prices ---------------------------------------------------------------------------------------


def test_quantizing_at_a_loss_costs_what_is_said(models: Any) -> None:
    """The list without the Linears that lose is faster by just what the finding says, and no other
    Linear left out makes it faster.
    """
    model = models("flux1-dev")
    audit = audited(model, "proj_out\nx_embedder", form="fqn")
    (found,) = of(audit, Kind.LOSS)
    listed, fixed = audit.priced[0].estimate, audit.priced[1].estimate
    assert audit.priced[1].name == "the same, fixed"
    assert listed.quantized_s - fixed.quantized_s == pytest.approx(found.cost_s)
    assert -sum(row.gain_s for row in found.rows) == pytest.approx(found.cost_s)
    assert sum(row.linears for row in found.rows) == len(found.fqns)
    costs = {cost.fqn: cost for cost in listed.linears}
    slower = {fqn for fqn, cost in costs.items() if cost.quantized_us > cost.bf16_us}
    assert set(found.fqns) == slower
    row = next(row for row in found.rows if row.role == "single_transformer_blocks.norm.linear")
    assert (row.linears, row.m, row.k, row.n, row.calls) == (38, 1, 3072, 9216, 38 * 28)


def test_fused_linears_are_judged_together(models: Any) -> None:
    """Of a self attention all three are judged as one; q of a cross attention reads another input
    than k and v, and gains although they lose.
    """
    audit = audited(models("ltx2"), "embed")
    lost = {fqn for finding in of(audit, Kind.LOSS) for fqn in finding.fqns}
    gain = {fqn: audit.subject.model.gain_s(fqn, NVFP4) for fqn in audit.subject.model.linears}
    q, k, v = (f"transformer_blocks.0.audio_to_video_attn.to_{x}" for x in "qkv")
    assert gain[q] > 0 > gain[k] + gain[v]
    assert lost & {q, k, v} == {k, v}
    fused = {
        family for family in audit.subject.model.fused if all(".attn1." in fqn for fqn in family)
    }
    assert {len(family) for family in fused} == {3}


def test_what_a_format_refuses_is_an_error(models: Any) -> None:
    """tiny-flux's first Linear has K = 16, which MXFP8 does not take; with it in the list nothing
    is refused. Shapes are the model's own, not those it stands for.
    """
    model = models("tiny-flux")
    audit = audited(model, "proj_out", form="fqn", format=FormatName.MXFP8)
    found = of(audit, Kind.REFUSED)
    assert {fqn for f in found for fqn in f.fqns} >= {"x_embedder"}
    assert {f.severity for f in found} == {Severity.ERROR}
    assert "K = 16" in " ".join(f.message for f in found)
    assert audit.scale is not None
    skipped = "\n".join(fqn for f in found for fqn in f.fqns)
    assert (
        of(
            audited(model, f"proj_out\n{skipped}", form="fqn", format=FormatName.MXFP8),
            Kind.REFUSED,
        )
        == []
    )


def test_skipping_for_nothing_is_a_note(models: Any) -> None:
    """What is skipped and would gain is told with its gain; what the study always skips is not, and
    neither is what loses.
    """
    model = models("flux1-dev")
    audit = audited(model, "*", form="glob")
    nothing, found = of(audit, Kind.SKIPPED)
    assert (nothing.severity, found.severity) == (Severity.WARNING, Severity.NOTE)
    assert "nothing is quantized: all 504" in nothing.message
    assert "no sensitivity of them is known" in found.message
    assert "single_transformer_blocks.5.proj_mlp" in found.fqns
    assert not {"proj_out", "x_embedder", "single_transformer_blocks.5.norm.linear"} & set(
        found.fqns
    )
    by_name = {row.name: row.estimate for row in audit.priced}
    assert by_name["mine.txt"].quantized_s == by_name["none"].quantized_s
    assert found.cost_s is not None
    assert by_name["none"].quantized_s - by_name["all that gains"].quantized_s >= found.cost_s
    (alone,) = of(audited(model, "*proj_mlp\n*embed*", form="glob"), Kind.SKIPPED)
    assert alone.severity is Severity.NOTE


def test_the_bounds_bound(models: Any) -> None:
    """No list is faster than quantizing all that gains; rows are named and hold the list first."""
    audit = audited(models("flux1-dev"), "*norm*\n*embed*", form="glob")
    names = [row.name for row in audit.priced]
    assert names == [
        "mine.txt",
        "the same, fixed",
        "rule of thumb",
        "all nvfp4",
        "all that gains",
        "none",
    ]
    seconds = {row.name: row.estimate.quantized_s for row in audit.priced}
    assert min(seconds, key=lambda name: seconds[name]) == "all that gains"
    assert {row.estimate.source for row in audit.priced} == {"predicted"}


def test_runs_that_are_looked_at_besides() -> None:
    """Another batch and another prompt, shorter ones where those of the study are long."""
    spec = resolve_spec("flux1-dev")
    large = spec.model_copy(
        update={"pricing": spec.pricing.model_copy(update={"batch_size": 4, "prompt_tokens": 300})}
    )
    found = {
        words: (s.pricing.batch_size, s.pricing.prompt_tokens)
        for words, s in other_studies(large).items()
    }
    assert found == {
        "at batch size 1": (1, 300),
        "with a prompt of 600 tokens": (4, 600),
        "with a prompt of 16 tokens": (4, 16),
    }


# --- blocks and sensitivities ---------------------------------------------------------------------


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


# --- several denoisers ----------------------------------------------------------------------------


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


# --- fixing ---------------------------------------------------------------------------------------

FAULTY = {
    "flux1-dev": "zzz\nproj_out\nblocks.1\ntransformer_blocks.5.attn.to_k\n",
    "ltx2": "adaln_single\nproj_in\nattn1.to_q\naudio_attn2.to_k\n",
    "tiny-flux": "transformer_blocks.0\nsingle_transformer_blocks.2.attn.to_q\nnothing.here\n",
    "two": "blocks.0.attn1.to_q\nhead.head\nproj_out\n",
}


@pytest.mark.parametrize("study", FAULTY)
@pytest.mark.parametrize("fmt", [NVFP4, FormatName.MXFP8])
def test_a_fixed_list_has_no_faults(study: str, fmt: FormatName, models: Any) -> None:
    """As globs it says what was said to be fixed, and its audit has neither errors nor warnings,
    and nothing to fix.
    """
    model = models(study)
    audit = audited(model, FAULTY[study], format=fmt)
    assert bad(audit)
    again = audited(model, fixed_text(audit), form="glob", format=fmt)
    assert again.subject.formats == audit.fixed.formats
    assert bad(again) == set()
    assert again.fixed.changes == ()
    assert read_guess(fixed_text(audit)) == "glob"


def read_guess(text: str) -> str:
    return next((reader.name for reader in READERS.values() if reader.looks_like(text)), "glob")


def test_a_fixed_list_as_a_recipe(models: Any, tmp_path: Path) -> None:
    """The recipe has the fixed formats, says that it is unverified, survives a round trip, and is
    itself a list that passes.
    """
    audit = audited(models("flux1-dev"), FAULTY["flux1-dev"])
    path = fixed_recipe(audit).save(tmp_path / "fixed.json")
    recipe = load_recipe(path)
    assert recipe.layers == audit.fixed.formats
    assert (recipe.fidelity, recipe.verified) == (None, None)
    assert "fixed by `sensitivity audit`" in str(recipe.notice)
    assert recipe.latency.quantized_s == audit.fixed_price.estimate.quantized_s
    source = read_source(str(path))
    assert (source.form, source.guessed) == ("recipe", True)
    again = audit_on(
        models("flux1-dev"),
        AuditRequest(source=source, recipe=path, storage=tmp_path / "none.db"),
        {},
    )
    assert again.subject.formats == audit.fixed.formats
    assert bad(again) == set()
    assert recipe.name in [row.name for row in again.priced]
    with pytest.raises(RecipeMismatchError, match=r"differ in \d+ Linears"):
        audit_on(
            models("ltx2"),
            AuditRequest(source=read_source(str(PUBLISHED / "ltx2-torchao.txt")), recipe=path),
            {},
        )


def test_a_list_of_several_formats_needs_a_recipe(models: Any) -> None:
    """A skip-list names one format; the message says what does not."""
    audit = audited(models("flux1-dev"), "proj_out", form="fqn")
    layers = {
        fqn: FormatName.MXFP8 if "ff" in fqn else name for fqn, name in audit.fixed.formats.items()
    }
    mixed = dataclasses.replace(audit, fixed=dataclasses.replace(audit.fixed, formats=layers))
    with pytest.raises(PatternError, match=r"mxfp8, nvfp4.*\.json"):
        fixed_text(mixed)


# --- reading --------------------------------------------------------------------------------------


def test_the_form_is_guessed_by_looks(tmp_path: Path) -> None:
    """Names and globs, or regular expressions; Python is told how it would be run, and is not."""
    for text, form in (("proj_out\n*embed*\n", "glob"), ("^proj_out$\n.*embed.*\n", "regex")):
        (tmp_path / "list.txt").write_text(text)
        source = read_source(str(tmp_path / "list.txt"))
        assert (source.form, source.guessed) == (form, True)
    (tmp_path / "mine.py").write_text("import os\n\ndef keep(module, fqn):\n    return True\n")
    with pytest.raises(PatternError, match=r"mine.py.*: found Python code.*--as filter-fn"):
        read_source(str(tmp_path / "mine.py"))


@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("torchao", "json"),
        ("diffusers", "json"),
        ("modelopt", "quant-cfg"),
        ("compressed-tensors", "config"),
    ],
)
def test_what_is_exported_for_a_consumer_is_a_list_that_passes(
    name: str, form: str, models: Any, tmp_path: Path
) -> None:
    """A recipe in a consumer's own form is recognised, has the recipe's formats, and has no fault
    in its names.
    """
    model = models("tiny-flux")
    audit = audited(model, "embed\nfqn:proj_out")
    exporter = dataclasses.replace(get_exporter(name), form=form)
    (tmp_path / "list.json").write_text(exporter.export(fixed_recipe(audit)))
    source = read_source(str(tmp_path / "list.json"))
    assert (source.form, source.guessed) == (name, True)
    again = audit_on(model, AuditRequest(source=source, storage=tmp_path / "none.db"), {})
    assert again.subject.formats == audit.fixed.formats
    assert bad(again) == set()


@pytest.mark.parametrize(
    ("content", "form", "message"),
    [
        (b"\xff\xfe\x00\x01", None, "is no text"),
        (None, None, "No such file"),
        (b"x" * (17 * 1024 * 1024), None, "has more than 16777216 bytes"),
        (b"a\n" * 30_000, "substring", "found 30000 entries"),
        (b"[" * 100_000, None, ""),
        (b'{"schema_version": "1.0", "layers": ' + b"[" * 100_000, None, ""),
        (b'{"schema_version": "1.0", "layers": {"a": "nvfp4", "a": "bf16"}}', None, ""),
    ],
)
def test_files_that_are_no_lists_are_refused_quickly(
    content: bytes | None, form: str | None, message: str, tmp_path: Path
) -> None:
    """Binary, absent, huge, deep: a message with the file's name, at once."""
    path, start = tmp_path / "list.txt", time.monotonic()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((PatternError, RecipeError), match=f"list.txt.*{message}"):
        read_source(str(path), form=form)
    assert time.monotonic() - start < 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"quant_method": "torchao", "quant_method": "x"}', "no strict JSON"),
        ('{"a": NaN}', "no strict JSON"),
        ('{"modules_to_not_convert": ["proj_out"]}', "an object with 'modules_to_not_convert'"),
        ("{}", "nothing in it"),
    ],
)
def test_an_object_in_no_form_is_no_list_of_patterns(text: str, words: str, tmp_path: Path) -> None:
    """What is wrong with a config is said, not what is wrong with it as a glob."""
    (tmp_path / "list.json").write_text(text)
    with pytest.raises(
        PatternError, match=rf"list.json: found .*{words}.*allowed are the configs of .*diffusers"
    ):
        read_source(str(tmp_path / "list.json"))


@pytest.mark.parametrize(
    ("form", "text", "fmt", "quantized"),
    [
        (
            "diffusers",
            '["norm", "proj_out"]',
            NVFP4,
            427,
        ),  # FACTS of `key + "."`: proj_out skips 39, norm 38
        ("diffusers", "['proj_out.weight']", FormatName.FP8, 503),
        ("modelopt", '["*norm*", "proj_out"]', FormatName.FP8, 426),
        ("compressed-tensors", '["re:.*norm.*", "proj_out"]', FormatName.MXFP8, 426),
    ],
)
def test_a_consumers_list_may_come_alone(
    form: str, text: str, fmt: FormatName, quantized: int, models: Any, tmp_path: Path
) -> None:
    """The value of modules_to_not_convert, exclude_modules or ignore is matched as in its config,
    and the rest has the format that is named.
    """
    (tmp_path / "list.json").write_text(text)
    source = read_source(str(tmp_path / "list.json"), form=form, format=fmt)
    audit = audit_on(
        models("flux1-dev"),
        AuditRequest(source=source, format=fmt, storage=tmp_path / "none.db"),
        {},
    )
    assert (len(audit.subject.quantized), set(audit.subject.formats.values())) == (
        quantized,
        {fmt, BF16},
    )
    assert of(audit, Kind.DEAD) == []


def test_servers_lists_may_come_alone(models: Any, tmp_path: Path) -> None:
    """vLLM-Omni's and SGLang's: run-time names, in the form that is for the format."""
    path = tmp_path / "list.json"
    tree = models("qwen-image").tree
    for form, fmt, name, fqns in (
        (
            "vllm-omni",
            FormatName.FP8,
            "transformer_blocks.0.attn.to_qkv",
            {f"transformer_blocks.0.attn.to_{x}" for x in "qkv"},
        ),
        ("sglang", FormatName.FP8, "0.img_mod", {"transformer_blocks.0.img_mod.1"}),
        ("sglang", NVFP4, "transformer_blocks.0.img_mod", {"transformer_blocks.0.img_mod.1"}),
    ):
        path.write_text(json.dumps([name]))
        listed = read_source(str(path), form=form, format=fmt).listed
        assert [listed.hits(entry, tree) for entry in listed.entries] == [fqns]
    with pytest.raises(PatternError, match=r"found the method 'nvfp4'; allowed are fp8"):
        read_source(str(path), form="vllm-omni", format=NVFP4)


def test_a_checkpoints_list_may_be_for_a_server(tmp_path: Path) -> None:
    """Guessed to be ModelOpt's, it comes with what SGLang would do."""
    (tmp_path / "list.json").write_text('{"quant_algo": "NVFP4", "ignore": ["proj_out"]}')
    source = read_source(str(tmp_path / "list.json"))
    assert source.form == "modelopt"
    assert any("--as sglang" in note for note in source.listed.notes)
    assert not any(
        "--as sglang" in note
        for note in read_source(str(tmp_path / "list.json"), form="modelopt").listed.notes
    )


def test_a_list_without_entries_says_what_it_does(models: Any) -> None:
    """It quantizes all there is."""
    audit = audited(models("flux1-dev"), "# nothing\n\n", form="glob")
    assert len(audit.subject.quantized) == 504
    assert "no entries" in audit.subject.listed.notes[0]


def test_long_lists_of_run_time_names_are_matched_quickly(models: Any) -> None:
    """A list that ComfyUI reads names each layer of a model with 1370 Linears."""
    model, start = models("ltx2"), time.monotonic()
    audit = audited(
        model, get_exporter("comfyui").export(fixed_recipe(audited(model, "zzz"))), form="comfyui"
    )
    assert len(audit.subject.listed.entries) > 800
    assert time.monotonic() - start < 5
    assert of(audit, Kind.DEAD) == []


def test_a_regular_expression_without_end_is_refused_quickly(models: Any) -> None:
    """Catastrophic backtracking ends the audit with the line."""
    start = time.monotonic()
    with pytest.raises(
        PatternError, match=r"mine.txt: line 2: found the regular expression.*without end"
    ):
        audited(
            models("flux1-dev"), r"proj_out" + "\n" + r"(\w|\w\w|\w\w\w)+(?<=\d\d\d)", form="regex"
        )
    assert time.monotonic() - start < 10


def test_a_function_is_run_only_when_that_is_allowed(models: Any, tmp_path: Path) -> None:
    """`filter_fn` lists need --allow-code; allowed, they are judged like any list."""
    path = tmp_path / "mine.py"
    path.write_text(
        "def keep(module, fqn):\n    return hasattr(module, 'in_features') and 'embed' not in fqn\n"
    )
    with pytest.raises(PatternError, match="--allow-code"):
        read_source(f"{path}:keep", form="filter-fn")
    with pytest.raises(UserError, match="--as filter-fn"):
        read_source(str(path), allow_code=True)
    source = read_source(f"{path}:keep", form="filter-fn", allow_code=True)
    audit = audit_on(
        models("flux1-dev"),
        AuditRequest(source=source, min_width=1024, storage=tmp_path / "none.db"),
        {},
    )
    assert len(audit.subject.quantized) == 495  # torchao's list and norm_out.linear
    assert of(audit, Kind.LOSS)


# --- the record -----------------------------------------------------------------------------------


def test_json_has_everything(models: Any) -> None:
    """Every FQN of every finding, units in the keys, numbers that JSON knows."""
    audit = audited(models("ltx2"), FAULTY["ltx2"])
    data = json.loads(json.dumps(audit.to_json(), allow_nan=False))
    assert [f["kind"] for f in data["findings"]] == [f.kind for f in audit.findings]
    assert [f["fqns"] for f in data["findings"]] == [list(f.fqns) for f in audit.findings]
    assert (data["source"], data["target"], data["linears"], data["quantized"]) == (
        "predicted",
        "b200",
        1370,
        len(audit.subject.quantized),
    )
    assert data["errors"] == sum(f["severity"] == "error" for f in data["findings"])
    severities = [f["severity"] for f in data["findings"]]
    assert severities == sorted(severities, key=["error", "warning", "note"].index)
    assert set(data["fixed"]["skip"]) == {
        fqn for fqn, name in audit.fixed.formats.items() if name is BF16
    }


def test_roles_are_shortened_where_they_begin_alike() -> None:
    """What roles share in front is said once."""
    assert some_roles(["a.b.c", "a.b.d"]) == "a.b.{c, d}"
    assert some_roles(["a.b", "c.b"]) == "a.b, c.b"
    assert some_roles(["a.b", "a.b"]) == "a.b"
    assert some_roles(["a.b", "a.c", "a.d", "a.e"]) == "a.{b, c, d} and 1 more"
    assert some_roles(["a", "a.b"]) == "a, a.b"
