"""Prices as tables: where the time goes by shape, and skip-lists side by side.

Every table says above itself what its numbers are: predicted or measured, on which GPU, for which
runtime.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group as Lines
from rich.text import Text

from sensitivity.cli.flags import name_flags
from sensitivity.cli.render.tables import Either, FittedTable, four_digits, number, words
from sensitivity.core.format_name import FormatName
from sensitivity.core.words import and_more
from sensitivity.latency.host import what_helps

if TYPE_CHECKING:
    from sensitivity.latency import LatencyEstimate, LinearCost
    from sensitivity.latency.memory import MemoryEstimate
    from sensitivity.latency.pricer import PricedList

MAX_NAMES = 3
"""Linears that are slower quantized which are named in a line."""
ROUNDING = 1e-9
"""Relative difference of a speedup from 1 below which there is no gain to give an interval for."""


def at_scale(factor: int) -> str:
    """The words for a price at a multiple of the model's own dimensions."""
    return f" at {factor} x its dimensions" if factor > 1 else ""


def latency_table(estimate: "LatencyEstimate") -> Lines:
    """Where the time goes, by shape and format, and what decides each shape's gain."""
    rows = FittedTable(
        number("M"),
        number("K"),
        number("N"),
        words("format"),
        number("Linears", drop=4),
        number("bf16 us", drop=3),
        number("quantized us", drop=3),
        number("speedup"),
        number("bf16 ms a run", drop=2),
        number("saved ms"),
        words("why", drop=1, least=32),
        title=(
            f"{estimate.source} for {estimate.target}, batch {estimate.batch_size},"
            f" {estimate.runtime}: one call of each shape, and the whole run"
        ),
    )
    groups: dict[tuple[int, int, int, FormatName, str], list[LinearCost]] = {}
    for cost in estimate.linears:
        groups.setdefault((cost.m, cost.k, cost.n, cost.format, cost.why), []).append(cost)
    for (m, k, n, fmt, why), costs in sorted(
        groups.items(), key=lambda item: -sum(c.calls * c.bf16_us for c in item[1])
    ):
        bf16_us, quantized_us = costs[0].bf16_us, costs[0].quantized_us
        rows.add_row(
            *(str(number) for number in (m, k, n)),
            fmt.value,
            str(len(costs)),
            f"{bf16_us:.1f}",
            f"{quantized_us:.1f}",
            f"{bf16_us / quantized_us:.2f}x",
            f"{sum(c.calls * c.bf16_us for c in costs) / 1e3:.2f}",
            f"{sum(c.calls * (c.bf16_us - c.quantized_us) for c in costs) / 1e3:+.2f}",
            Either(why, why.split(" (")[0]),
            style="yellow" if quantized_us > bf16_us else "",
        )
    return Lines(rows, *_totals(estimate))


def _totals(estimate: "LatencyEstimate") -> list[Text]:
    """The whole run, its memory, and the Linears that are slower quantized."""
    linears_s = sum(cost.calls * cost.bf16_us for cost in estimate.linears) / 1e6
    lines = [
        Text(
            f"{estimate.source} for {estimate.target}: bf16 {estimate.bf16_s:.4g} s"
            f" ({linears_s / estimate.bf16_s:.0%} in Linears), quantized {estimate.quantized_s:.4g}"
            f" s, speedup {_speedup(estimate)}"
        )
    ]
    if estimate.memory is not None:
        lines.append(Text(_memory_line(estimate.memory)))
    if estimate.host is not None and str(estimate.host):
        lines.append(Text(str(estimate.host), style="yellow"))
        lines.append(Text(name_flags(f"what helps: {what_helps(estimate)}"), style="yellow"))
    lines.append(Text(estimate.note, style="dim"))
    slower = [cost for cost in estimate.linears if cost.quantized_us > cost.bf16_us]
    if slower:
        lost_ms = sum(cost.calls * (cost.quantized_us - cost.bf16_us) for cost in slower) / 1e3
        lines.append(
            Text(
                f"{len(slower)} Linears are slower quantized than in bf16 ({lost_ms:.1f} ms a run):"
                f" {and_more(dict.fromkeys(cost.fqn for cost in slower), most=MAX_NAMES)}",
                style="yellow",
            )
        )
    return lines


def compare_table(priced: Sequence["PricedList"]) -> FittedTable:
    """Skip-lists side by side: how many Linears they quantize, seconds, speedup, memory."""
    first = priced[0].estimate
    rows = FittedTable(
        words("skip-list", least=14),
        number("quantized"),
        number("s a run"),
        number("speedup [90 %]"),
        number("Linears GB", drop=1),
        number("peak GB", drop=3),
        number("dead patterns", drop=2),
        title=(
            f"{first.source} for {first.target}, batch {first.batch_size}, {first.runtime};"
            f" bf16 {first.bf16_s:.4g} s; memory predicted"
        ),
    )
    for row in priced:
        memory = row.estimate.memory
        peak = memory.quantized_peak_bytes if memory is not None else None
        rows.add_row(
            row.name,
            f"{row.quantized}/{len(row.estimate.linears)}",
            four_digits(row.estimate.quantized_s),
            _speedup(row.estimate),
            f"{memory.quantized_linear_bytes / 1e9:.2f}" if memory is not None else "",
            f"{peak / 1e9:.2f}" if peak is not None else "",
            str(len(row.dead)) if row.dead else "",
        )
    return rows


def _speedup(estimate: "LatencyEstimate") -> str:
    interval = estimate.interval90 if abs(estimate.speedup - 1) > ROUNDING else None
    return f"{estimate.speedup:.3f}x" + (
        f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval is not None else ""
    )


def _memory_line(memory: "MemoryEstimate") -> str:
    text = (
        f"memory, predicted: Linears {memory.bf16_linear_bytes / 1e9:.2f} ->"
        f" {memory.quantized_linear_bytes / 1e9:.2f} GB"
    )
    if (
        memory.bf16_peak_bytes is None
        or memory.quantized_peak_bytes is None
        or memory.activation_bytes is None
    ):
        return text
    return (
        f"{text}; peak {memory.bf16_peak_bytes / 1e9:.2f} ->"
        f" {memory.quantized_peak_bytes / 1e9:.2f} GB with all components loaded and"
        f" {memory.activation_bytes / 1e9:.2f} GB of activations (CUDA's own and graph pools come"
        " on top)"
    )
