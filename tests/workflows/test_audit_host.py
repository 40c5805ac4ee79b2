"""An audit says whether a list's run waits for the host, by how much, and what helps."""

import dataclasses
from typing import Any

from sensitivity.latency import PredictedLatency, get_device
from sensitivity.latency.runtimes import get_runtime
from sensitivity.workflows.audit.findings import Kind, Severity

from support.audits import audited, of


def on_host(model: Any, factor: float, runtime: str = "torchao-graphs") -> Any:
    """The model, priced for a B200 whose host takes `factor` times as long."""
    device = dataclasses.replace(get_device("b200"), host_factor=factor)
    latency = PredictedLatency(device, runtime=get_runtime(runtime))
    return dataclasses.replace(model, pricer=dataclasses.replace(model.pricer, latency=latency))


def test_a_run_that_waits_for_the_host_is_a_warning(models: Any) -> None:
    """With the milliseconds of a denoiser call, the speedup with and without them, and remedies."""
    audit = audited(on_host(models("tiny-flux"), 5.0), "x_embedder", form="fqn")
    (found,) = of(audit, Kind.HOST)
    listed = audit.priced[0].estimate
    assert listed.host is not None
    assert found.severity is Severity.WARNING
    assert found.cost_s == listed.host.lost_s > 0
    assert set(found.fqns) == set(audit.subject.quantized)
    for words in (
        "limited by the host quantized",
        "ms a denoiser call",
        "predicted for torchao-graphs on b200",
        f"the run is {listed.speedup:.3f}x bf16",
        "`runtime` torchao-step-graph",
        "a larger batch",
        "fewer quantized Linears",
    ):
        assert words in found.message


def test_one_graph_for_a_denoiser_call_takes_the_limit_away(models: Any) -> None:
    """And a fast host is none."""
    model = models("tiny-flux")
    step = audited(on_host(model, 5.0, "torchao-step-graph"), "x_embedder", form="fqn")
    fast = audited(on_host(model, 0.1), "x_embedder", form="fqn")
    assert of(step, Kind.HOST) == of(fast, Kind.HOST) == []
    assert step.priced[0].estimate.runtime == "torchao-step-graph"
