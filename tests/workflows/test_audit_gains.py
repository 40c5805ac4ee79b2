"""What quantizing gains, loses and depends on is said as it is priced."""

import dataclasses
from typing import Any

import pytest

from sensitivity.core.format_name import FormatName
from sensitivity.latency import PredictedLatency, get_device
from sensitivity.spec.loading import resolve_spec
from sensitivity.workflows.audit.findings import Kind, Severity
from sensitivity.workflows.audit.other_runs import other_studies

from support.audits import NVFP4, audited, of


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
    row = next(row for row in found.rows if row.role == "context_embedder")
    assert (row.linears, row.m, row.k, row.n, row.calls) == (1, 512, 4096, 3072, 28)


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


def test_what_could_not_be_measured_is_no_refusal(models: Any) -> None:
    """A shape that the GPU had no memory for is a warning; the fixed list keeps it."""
    model = models("tiny-flux")
    words = "out of memory on this device"

    class NoMemory(PredictedLatency):
        def refusal(self, *, n: int, format: FormatName, **shape: Any) -> str | None:
            known = super().refusal(n=n, format=format, **shape)
            return known or (words if n == odd.n and format.is_quantized else None)

    odd = model.linears["proj_out"]
    latency = NoMemory(get_device("b200"))
    without = dataclasses.replace(model, pricer=dataclasses.replace(model.pricer, latency=latency))
    audit = audited(without, "x_embedder", form="fqn")
    (found,) = of(audit, Kind.UNMEASURED)
    assert found.severity is Severity.WARNING
    assert "proj_out" in found.fqns
    assert f"could not be measured: {words}" in found.message
    assert not any("proj_out" in refused.fqns for refused in of(audit, Kind.REFUSED))
    assert audit.fixed.formats["proj_out"].is_quantized


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
