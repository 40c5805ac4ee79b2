"""Does a run take what the sum of its shapes says, and if not, why? `beside_shapes`.

A sum of shapes prices each Linear by itself. A run is more: torch fuses kernels, the host launches
them, and other parts run beside the Linears. Where both differ by more than the repetitions
explain, the words say by how much, and what is known of the reason.

    beside_shapes(timed, estimate)     # "" where they agree

Method. The speedups agree if their 90 % intervals overlap (that of the shapes as far as the model
gives one). If they do not, the seconds that the list saves are compared, end to end and by shapes.

What it does not do: change either of the two.
"""

from sensitivity.latency.estimate import HostTime, LatencyEstimate
from sensitivity.latency.timing.timed_lists import TimedList

CLOSE = 0.1
"""Relative difference of saved seconds up to which the Linears are not what differs."""
WAITING = 0.02
"""Part of a run that the GPU must wait for the host, so that the host is a reason."""


def beside_shapes(timed: TimedList, estimate: LatencyEstimate) -> str:
    """How a list's run and the sum of its shapes differ, and why.

    Args:
        timed: The list, end to end.
        estimate: The sum of shapes of the same list, for the same part of a run.

    Returns:
        Two sentences; "" if the repetitions explain the difference.
    """
    ratio = timed.ratio
    low, high = ratio.interval90 or (ratio.value, ratio.value)
    least, most = estimate.interval90 or (estimate.speedup, estimate.speedup)
    if least <= high and low <= most:
        return ""
    saved_s, summed_s = timed.bf16_s - timed.seconds, estimate.bf16_s - estimate.quantized_s
    return (
        f"End to end it is {ratio.value:.3f}x [{low:.3f}, {high:.3f}], and {estimate.speedup:.3f}x"
        f" by the sum of shapes: more than the repetitions explain (bf16 {timed.bf16_s:.4g} s and"
        f" {estimate.bf16_s:.4g} s, saved {saved_s:.3g} s and {summed_s:.3g} s)."
        f" {_why(saved_s, summed_s, timed, estimate)}"
    )


def _why(saved_s: float, summed_s: float, timed: TimedList, estimate: LatencyEstimate) -> str:
    """What is known of the reason, as a sentence."""
    host = estimate.host
    if host is not None and host.lost_s > WAITING * estimate.quantized_s:
        return _host(host)
    more_s = timed.bf16_s - estimate.bf16_s
    if abs(saved_s - summed_s) <= CLOSE * max(abs(saved_s), abs(summed_s)):
        word = "more" if more_s > 0 else "less"
        return (
            f"The Linears save what their shapes say; the rest of the run takes {abs(more_s):.3g} s"
            f" {word} than is priced."
        )
    if saved_s > summed_s:
        return (
            "The run saves more: torch fuses quantizing into the kernels before it, which a shape"
            " by itself does not show."
        )
    return (
        "The run saves less than its shapes do by themselves: other kernels, the GPU's clock or the"
        " host take the difference, and which is not known."
    )


def _host(host: HostTime) -> str:
    return (
        f"The run is limited by the host, which takes {host.quantized_s:.3g} s to launch what the"
        f" GPU computes in {host.gpu_quantized_s:.3g} s, and differs from machine to machine."
    )
