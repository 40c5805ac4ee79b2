"""An audit reads the step policy beside a list as the tools that may run it, and prices it."""

import dataclasses
import io
import json
from typing import Any

import pytest
from rich.console import Console

from sensitivity.cli.render.audit import audit_report
from sensitivity.consumers.readers import get_reader
from sensitivity.consumers.step_policies import COSMOS3, policy_object
from sensitivity.core.format_name import FormatName
from sensitivity.core.step_policy import EdgeMode, StepPolicy
from sensitivity.workflows.audit import AuditRequest
from sensitivity.workflows.audit.auditing import audit_on
from sensitivity.workflows.audit.findings import Kind, Severity
from sensitivity.workflows.audit.reading import read_source

from support.audits import audited, of
from support.policies import with_steps
from support.recipes import make_recipe

FP8 = FormatName.FP8


def checkpoint(first: Any, last: Any = 0, **changes: Any) -> str:
    """A ModelOpt checkpoint in FP8 with a policy."""
    policy = policy_object(StepPolicy(first_steps=1, mode=EdgeMode.A16)) | {
        "first_steps": {"count": first, "mode": "a16"},
        "last_steps": {"count": last, "mode": "a16"},
    }
    config = {"quant_method": "modelopt", "quant_algo": "FP8", "ignore": ["x_embedder"]}
    return json.dumps({**config, "runtime": {"diffusion_step_policy": policy | changes}})


def of_cosmos3(model: Any) -> Any:
    """The model under the name of the one class whose policies are read."""
    tree = dataclasses.replace(model.tree, classes={"transformer": COSMOS3})
    return dataclasses.replace(model, tree=tree)


def test_a_policy_that_is_run_is_priced(models: Any) -> None:
    """With the share of the steps, the seconds with and without it, and the bytes that are kept:
    seconds are linear in the steps, so 8 - 2 of 8 steps save less than all of them.
    """
    model = of_cosmos3(models("tiny-flux"))
    audit = audited(model, checkpoint(1, 1), form="modelopt", format=FP8)
    assert of(audit, Kind.STEPS) == []
    data = audit.to_json()["step_policy"]
    assert (data["first_steps"], data["last_steps"], data["mode"]) == (1, 1, "a16")
    assert (data["steps"], data["quantized_share"], data["kept_bf16_bytes"]) == (8, 6 / 8, 0)
    assert data["tools"]["sglang"] == {"runs_it": True, "why_not": None}
    assert data["quantized_s"] == audit.priced[0].estimate.quantized_s
    assert data["quantized_s_without"] < data["quantized_s"]
    assert (
        "first 1 and last 1 steps in W x A16 by diffusers 0.42.1, vLLM-Omni" in audit.policy_words
    )
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(audit_report(audit))
    assert "6 of 8 steps quantized" in console.export_text()


def test_every_tool_ignores_a_policy_of_another_model(models: Any) -> None:
    """FLUX would run every step quantized, which is priced, and warned of."""
    audit = audited(models("tiny-flux"), checkpoint(1), form="modelopt", format=FP8)
    (found,) = of(audit, Kind.STEPS)
    assert found.severity is Severity.WARNING
    assert "for Cosmos3OmniTransformer alone, and this is FluxTransformer2DModel" in found.message
    data = audit.to_json()["step_policy"]
    assert not any(tool["runs_it"] for tool in data["tools"].values())
    assert (data["mode"], data["quantized_share"]) == (None, 1.0)
    assert "no tool runs it" in audit.policy_words


@pytest.mark.parametrize("count", [-1, True, 1.5, "1", None])
def test_a_policy_that_every_tool_refuses_is_an_error(models: Any, count: Any) -> None:
    """With the field and the value."""
    model = of_cosmos3(models("tiny-flux"))
    audit = audited(model, checkpoint(count), form="modelopt", format=FP8)
    found = of(audit, Kind.STEPS)
    assert {one.severity for one in found} == {Severity.ERROR}
    assert all(f"first_steps.count is {count!r}" in one.message for one in found)


def test_a_policy_that_some_refuse_is_a_warning(models: Any) -> None:
    """diffusers overlooks a field that it does not know; the servers do not."""
    model = of_cosmos3(models("tiny-flux"))
    audit = audited(model, checkpoint(1, sigma=1), form="modelopt", format=FP8)
    found = of(audit, Kind.STEPS)
    assert [one.severity for one in found] == [Severity.WARNING] * 3
    assert all("'sigma', which it does not know" in one.message for one in found)
    assert audit.to_json()["step_policy"]["tools"]["diffusers"]["runs_it"]


def test_edge_steps_alone_are_an_error(models: Any) -> None:
    """Where no step of the study's run is quantized; a policy of no steps is a note."""
    model = of_cosmos3(models("tiny-flux"))
    audit = audited(model, checkpoint(4, 4), form="modelopt", format=FP8)
    (found,) = of(audit, Kind.STEPS)
    assert found.severity is Severity.ERROR
    assert "has 8 steps: nothing ever runs quantized" in found.message
    (note,) = of(audited(model, checkpoint(0), form="modelopt", format=FP8), Kind.STEPS)
    assert (note.severity, "changes nothing" in note.message) == (Severity.NOTE, True)


def test_another_format_is_not_switched(models: Any) -> None:
    """SGLang's policy is of FP8 Linears."""
    text = checkpoint(1).replace('"FP8"', '"NVFP4"')
    listed = get_reader("sglang").read(text)
    assert listed.policies[0].tools == ("sglang",)
    audit = audited(of_cosmos3(models("tiny-flux")), text, form="modelopt")
    assert any("quant_algo is 'NVFP4'" in one.message for one in of(audit, Kind.STEPS))


def test_a_recipes_policy_is_its_own(models: Any, tmp_path: Any) -> None:
    """No tool has to read it, and its bf16 weights are counted: two bytes a quantized value."""
    model = models("tiny-flux")
    fqns = list(model.tree.fqns)
    recipe = with_steps(make_recipe(fqns, fqns[:5], "fp8"), mode="bf16", steps=8)
    source = read_source(str(recipe.save(tmp_path / "r.json")))
    audit = audit_on(model, AuditRequest(source=source, format=FP8, storage=None), {})
    data = audit.to_json()["step_policy"]
    expected = sum(2 * model.linears[fqn].k * model.linears[fqn].n for fqn in fqns[:5])
    assert (data["mode"], data["kept_bf16_bytes"], data["tools"]) == ("bf16", expected, {})
    assert "of bf16 weights kept beside" in audit.policy_words
    assert of(audit, Kind.STEPS) == []
