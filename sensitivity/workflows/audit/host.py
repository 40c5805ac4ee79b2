"""Does a list's run wait for the host?

A GPU works through what Python launches. Where launching takes longer than computing, faster
kernels save nothing, and quantized weights that every launch unwraps make the run slower. Linear by
Linear such a list gains, so the other checks of prices do not see it (`latency.host`).
"""

from collections.abc import Iterator

from sensitivity.core.format_name import FormatName
from sensitivity.latency.estimate import LatencyEstimate
from sensitivity.latency.host import what_helps
from sensitivity.workflows.audit.findings import Finding, Kind, Severity
from sensitivity.workflows.audit.policies import with_policy
from sensitivity.workflows.audit.subject import Subject


def limited_by_host(subject: Subject) -> Iterator[Finding]:
    """A run of the list that the host limits, with what helps; no fault of a list that quantizes
    nothing.
    """
    estimate = estimate_of(subject)
    host = estimate.host
    if host is None or not host.lost_s:
        return
    yield Finding(
        kind=Kind.HOST,
        severity=Severity.WARNING if subject.quantized else Severity.NOTE,
        fqns=subject.quantized,
        rows=subject.model.rows(subject.quantized, subject.judged),
        cost_s=host.lost_s,
        message=(
            f"{host}, {estimate.source} for {estimate.runtime} on {estimate.target}: the run is"
            f" {estimate.speedup:.3f}x bf16, and the GPU's time alone"
            f" {_without_host(estimate):.3f}x; what helps: {what_helps(estimate)}"
        ),
    )


def estimate_of(subject: Subject) -> LatencyEstimate:
    """The list's price, memory included, by its step policy. What a format or a kernel refuses is
    bf16.
    """
    model = subject.model
    formats = {
        fqn: FormatName.BF16 if model.refusal(fqn, name) else FormatName(name)
        for fqn, name in subject.formats.items()
    }
    return model.pricer.price("audited", with_policy(subject, formats)).estimate


def _without_host(estimate: LatencyEstimate) -> float:
    """The speedup if launching took no time."""
    assert estimate.host is not None
    bf16_s = estimate.bf16_s - estimate.host.bf16_lost_s
    return bf16_s / (estimate.quantized_s - estimate.host.lost_s)
