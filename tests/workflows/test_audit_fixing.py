"""What is fixed has no faults left, as a list and as a recipe."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from sensitivity.consumers.readers import READERS
from sensitivity.core.format_name import FormatName
from sensitivity.errors import PatternError, RecipeMismatchError, UserError
from sensitivity.recipes.recipe import load_recipe
from sensitivity.workflows.audit import AuditRequest, fixed_recipe, fixed_text, read_source
from sensitivity.workflows.audit.auditing import audit_on

from support.audits import BF16, NVFP4, PUBLISHED, audited, bad

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


def test_an_audit_is_shown_as_tables(models: Any) -> None:
    """Its findings and its prices are rows; at a prompt it is one line."""
    audit = audited(models("tiny-flux"), FAULTY["tiny-flux"])
    found = audit.to_pandas()
    assert list(found["message"]) == [finding.message for finding in audit.findings]
    prices = audit.to_pandas("prices")
    assert list(prices["speedup"]) == [row.estimate.speedup for row in audit.priced]
    assert audit.to_text() == fixed_text(audit)
    assert repr(audit).startswith("Audit(mine.txt on tiny-flux: ")
    assert "\n" not in repr(audit)
    assert "nothing.here" in audit._repr_html_()
    with pytest.raises(UserError, match="`part` is 'price'; expected findings or prices"):
        audit.to_pandas("price")
