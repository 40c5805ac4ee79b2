"""What does launching a run cost the host, and is the host its limit? `host_work`, `with_host`.

Method. The host and the GPU work at the same time: Python launches ahead, and the GPU works through
what was launched. Over the steps of a run the slower of the two decides. What the host takes is
counted: compiled regions, Linears in them, kernels outside of them, quantized Linears. What each
costs is the runtime's (`runtimes.HostCosts`). Where steps differ in precision (`step_mix`), the
slower of the two counts for each kind of step.

    work = host_work(run.table, get_runtime("torchao-compiled"))
    work.seconds({})                                # the host's seconds of a bf16 run
    work.seconds(dict.fromkeys(table.fqns, FormatName.FP8))
    with_host(estimate, work, kinds, others_s=0.1)      # the slower of GPU and host

What it does not do: components that are no denoisers, the waiting of a scheduler, or a host that
other processes use.
"""

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from sensitivity.core.format_name import FormatName
from sensitivity.core.fqns import stack_of, within
from sensitivity.latency.estimate import HostTime, LatencyEstimate
from sensitivity.latency.runtimes import STEP_GRAPH, HostCosts, Runtime
from sensitivity.shapes.table import LinearProfile, ShapeTable

OUTSIDE = "outside of compiled regions"
SAMPLES = 400
"""Sampled speedups from which the interval's quantiles are taken."""
_QUANTILE = 1.645
"""A normal variable is between minus and plus this in 90 % of cases."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Region:
    """What a run launches of one compiled region, or outside of all of them.

    Attributes:
        stack: The list that it stands in ("transformer_blocks"), or `OUTSIDE`.
        calls: How often it is called in the run.
        kernels: Kernels that a run launches one by one; 0 for a compiled region.
        linears: {FQN: calls in the run}.
    """

    stack: str
    calls: int
    kernels: int
    linears: Mapping[str, int]

    def us(self, costs: HostCosts, formats: Mapping[str, FormatName]) -> float:
        """Microseconds of the host in the whole run."""
        quantized = sum(
            calls
            for fqn, calls in self.linears.items()
            if formats.get(fqn, FormatName.BF16).is_quantized
        )
        if self.stack == OUTSIDE:
            return self.kernels * costs.kernel_us + quantized * costs.eager_quantized_us
        return (
            self.calls * costs.region_us
            + sum(self.linears.values()) * costs.linear_us
            + quantized * costs.quantized_us
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class HostWork:
    """What a run's denoisers launch.

    Attributes:
        runtime: How they are run.
        calls: Calls of denoisers in the run.
        regions: What is launched in each.
    """

    runtime: Runtime
    calls: int
    regions: tuple[Region, ...]

    def seconds(self, formats: Mapping[str, FormatName]) -> float:
        """The host's seconds of the run; Linears that `formats` leaves out are bf16."""
        costs = self.runtime.host
        return (
            self.calls * costs.call_us + sum(region.us(costs, formats) for region in self.regions)
        ) / 1e6

    def added_s(self, linear: LinearProfile) -> float:
        """What quantizing one Linear adds to the host's seconds of the run."""
        for region in self.regions:
            if linear.fqn in region.linears:
                one, costs = {linear.fqn: FormatName.FP8}, self.runtime.host
                return (region.us(costs, one) - region.us(costs, {})) / 1e6
        return 0.0


@dataclass(frozen=True, kw_only=True, slots=True)
class StepKind:
    """Steps of a run that are alike.

    Attributes:
        share: Their part of the run's steps.
        formats: What is launched in them; Linears left out are bf16.
        gpu_s: Seconds of the GPU in the whole run, if all steps were like these.
    """

    share: float
    formats: Mapping[str, FormatName]
    gpu_s: float


def host_work(table: ShapeTable, runtime: Runtime) -> HostWork | None:
    """What the denoisers of a run launch in a runtime; None where the table has no such counts."""
    counted = [counts for counts in (table.run.components if table.run else ()) if counts.regions]
    if not counted:
        return None
    several, calls = bool(table.components), sum(counts.calls for counts in counted)
    if runtime.graphs == "step":
        return HostWork(runtime=runtime, calls=calls, regions=())
    regions: list[Region] = []
    for counts in counted:
        own = [x for x in table.linears if not several or x.fqn.startswith(f"{counts.component}.")]
        names = counts.regions
        if runtime.compiled == "nothing":
            names = ()
        elif runtime.compiled == "denoiser":
            names = ("",)
        prefix = (counts.component,) if several else ()
        held: dict[str, dict[str, int]] = {name: {} for name in names}
        rest: dict[str, int] = {}
        for linear in own:
            name = _region_of(within(linear.fqn, prefix), held)
            (rest if name is None else held[name])[linear.fqn] = linear.calls
        inside = {"blocks": counts.region_kernels, "denoiser": counts.kernels, "nothing": 0}
        regions += [
            Region(stack=stack_of(name), calls=counts.calls, kernels=0, linears=linears)
            for name, linears in held.items()
        ]
        outside = counts.kernels - inside[runtime.compiled]
        regions.append(Region(stack=OUTSIDE, calls=counts.calls, kernels=outside, linears=rest))
    return HostWork(runtime=runtime, calls=calls, regions=tuple(regions))


def _region_of(fqn: str, regions: Mapping[str, object]) -> str | None:
    """The region that a Linear is in; None if it is in none."""
    parts = fqn.split(".")
    found = (".".join(parts[:end]) for end in range(len(parts) - 1, -1, -1))
    return next((name for name in found if name in regions), None)


def with_host(
    estimate: LatencyEstimate,
    work: HostWork | None,
    kinds: Sequence[StepKind],
    *,
    others_s: float,
    anchor_s: float | None = None,
) -> LatencyEstimate:
    """An estimate of the GPU's seconds as one of the run's: the slower of GPU and host.

    Args:
        estimate: The GPU's seconds.
        work: What the run launches; None leaves the estimate as it is.
        kinds: The steps that it is an estimate of.
        others_s: Seconds of the run that are not its denoisers'.
        anchor_s: Measured seconds of the bf16 run, if there are any. What the GPU's estimate does
            not explain of them is the host's.
    """
    if work is None:
        return estimate
    bf16_s, factor = work.seconds({}), 1.0
    if anchor_s is not None:
        most_s = max(0.0, anchor_s - others_s)
        if bf16_s > most_s or estimate.bf16_s < anchor_s * (1 - 1e-9):
            factor = most_s / bf16_s
    steps = [
        _Steps(kind.share, work.seconds(kind.formats) * factor, kind.gpu_s - others_s)
        for kind in kinds
    ]
    lost_s = sum(own.share * max(0.0, own.host_s - own.gpu_s) for own in steps)
    host = HostTime(
        calls=work.calls,
        regions=sum(region.calls for region in work.regions if region.stack != OUTSIDE),
        bf16_s=bf16_s * factor,
        quantized_s=sum(own.share * own.host_s for own in steps),
        gpu_bf16_s=estimate.bf16_s - others_s,
        gpu_quantized_s=estimate.quantized_s - others_s,
        steps_lost_s=lost_s if len(steps) > 1 else None,
    )
    return dataclasses.replace(
        estimate,
        bf16_s=estimate.bf16_s + host.bf16_lost_s,
        quantized_s=estimate.quantized_s + host.lost_s,
        host=host,
        interval90=_interval90(estimate, host, steps, others_s, work.runtime.host.spread),
    )


def what_helps(estimate: LatencyEstimate) -> str:
    """What would take away the host's limit on a run; "" where the host is none."""
    host = estimate.host
    if host is None or not (host.lost_s or host.bf16_lost_s):
        return ""
    free_s = estimate.quantized_s - host.lost_s
    free_bf16_s = estimate.bf16_s - host.bf16_lost_s
    ways = ["a larger batch, which gives the GPU more work for the same launches"]
    if estimate.runtime != STEP_GRAPH:
        ways.insert(
            0,
            f"one CUDA graph for the whole denoiser call (`runtime` {STEP_GRAPH}: {free_s:.4g} s a"
            f" run of {estimate.quantized_s:.4g}, {free_bf16_s / free_s:.3f}x bf16 there)",
        )
    if host.quantized_s > host.bf16_s:
        added = host.quantized_s - host.bf16_s
        ways.append(
            "fewer quantized Linears"
            f" (launching them takes the host {added:.4g} s more a run than bf16)"
        )
    return "; ".join(ways)


class _Steps(NamedTuple):
    """Steps that are alike: their part of the run, and the seconds that host and GPU would take in
    the denoisers of the whole run if all steps were like these.
    """

    share: float
    host_s: float
    gpu_s: float


def _interval90(
    estimate: LatencyEstimate,
    host: HostTime,
    steps: Sequence[_Steps],
    others_s: float,
    spread: float,
) -> tuple[float, float] | None:
    """The 5 % and 95 % quantiles of the speedup, the host's uncertainty included.

    The GPU's own interval stays where the host is no limit even if it is slow.
    """
    slow = math.exp(_QUANTILE * spread)
    is_far = host.bf16_s * slow < host.gpu_bf16_s and all(
        own.host_s * slow < own.gpu_s for own in steps
    )
    if estimate.interval90 is None or is_far:
        return estimate.interval90
    low, high = estimate.interval90
    middle, deviation = math.sqrt(low * high), math.log(high / low) / (2 * _QUANTILE)
    noise, speedups = random.Random(0), []
    for _ in range(SAMPLES):
        factor = math.exp(spread * noise.gauss(0, 1))
        gain = middle * math.exp(deviation * noise.gauss(0, 1))
        gpu_s = estimate.bf16_s / gain - others_s
        bf16_s = others_s + max(host.gpu_bf16_s, host.bf16_s * factor)
        quantized_s = sum(
            own.share * max(gpu_s + (own.gpu_s - host.gpu_quantized_s), own.host_s * factor)
            for own in steps
        )
        speedups.append(bf16_s / (others_s + quantized_s))
    speedups.sort()
    return speedups[round(0.05 * (SAMPLES - 1))], speedups[round(0.95 * (SAMPLES - 1))]
