"""Entries that hit nothing come with what they may mean."""

from typing import Any

import pytest

from sensitivity.errors import PatternError
from sensitivity.workflows.audit.findings import Kind, Severity

from support.audits import audited, of


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
            "double_blocks",  # `transformer_blocks` would hit the single blocks as well
            "substring",
            "transformer_blocks.0.norm1.linear",
            "the original checkpoint's name of 266 Linears",
        ),
        ("img_in", "substring", "x_embedder", "called x_embedder in diffusers"),
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
    assert "`form` regex" in found.message
    with pytest.raises(
        PatternError, match=r"mine.txt: line 2: found the pattern '\^proj_out\$'.*`form` regex"
    ):
        audited(model, "proj_out\n^proj_out$", form="glob")
    (other,) = of(
        audited(model, "model.layers.0.self_attn.q_proj\nlm_head", form="glob"), Kind.FORM
    )
    assert "another model" in other.message
