"""Records as tables for a terminal.

Every table says above itself what its numbers are: predicted or measured, on which GPU, at which
scale.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from rich import box
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from sensitivity.cli.flags import name_flags
from sensitivity.core.format_name import FormatName
from sensitivity.core.words import and_more
from sensitivity.latency.host import what_helps

if TYPE_CHECKING:
    from sensitivity.latency import LatencyEstimate, LinearCost
    from sensitivity.latency.memory import MemoryEstimate
    from sensitivity.latency.pricer import PricedList
    from sensitivity.shapes.table import ShapeTable

MAX_ROLES = 3
ROUNDING = 1e-9
"""Relative difference of a speedup from 1 below which there is no gain to give an interval for."""


def make_table(*columns: tuple[str, str], title: str) -> Table:
    """An empty table with a title above it; `columns` are (heading, "left" or "right")."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for name, justify in columns:
        right = justify == "right"
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=right)
    return table


def at_scale(factor: int) -> str:
    """The words for a price at a multiple of the model's own dimensions."""
    return f" at {factor} x its dimensions" if factor > 1 else ""


def _short(names: Sequence[str]) -> str:
    """The first few of the names, each once."""
    return and_more(dict.fromkeys(names), most=MAX_ROLES)


def profile_table(table: "ShapeTable") -> Lines:
    """Linears grouped by shape, most FLOPs first, with shares."""
    settings = ", ".join(f"{key} {value}" for key, value in table.settings.items())
    rows = make_table(
        ("M", "right"),
        ("K", "right"),
        ("N", "right"),
        ("Linears", "right"),
        ("calls", "right"),
        ("GFLOP", "right"),
        ("share", "right"),
        ("roles", "left"),
        title=(
            f"{table.model}: {len(table.linears)} Linears called, {len(table.uncalled)} never; one"
            f" pipeline run, batch {table.batch_size}"
        )
        + (f" ({settings})" if settings else ""),
    )
    for group in table.by_shape():
        rows.add_row(
            str(group.m),
            str(group.k),
            str(group.n),
            str(group.linears),
            str(group.calls),
            f"{group.flops / 1e9:,.2f}",
            f"{group.share:.1%}",
            _short(group.roles),
        )
    notes = [Text(f"total {table.flops / 1e9:,.1f} GFLOP in Linears")]
    if table.uncalled:
        notes.append(Text(f"never called: {_short(table.uncalled)}"))
    return Lines(rows, *notes)


def latency_table(estimate: "LatencyEstimate") -> Lines:
    """Where the time goes, by shape and format, and what decides each shape's gain."""
    rows = make_table(
        ("M", "right"),
        ("K", "right"),
        ("N", "right"),
        ("format", "left"),
        ("Linears", "right"),
        ("bf16 us", "right"),
        ("quantized us", "right"),
        ("speedup", "right"),
        ("bf16 ms a run", "right"),
        ("saved ms", "right"),
        ("why", "left"),
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
            why,
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
                f" {_short([cost.fqn for cost in slower])}",
                style="yellow",
            )
        )
    return lines


def compare_table(priced: Sequence["PricedList"]) -> Table:
    """Skip-lists side by side: how many Linears they quantize, seconds, speedup, memory."""
    first, dead = priced[0].estimate, any(row.dead for row in priced)
    rows = make_table(
        ("skip-list", "left"),
        ("quantized", "right"),
        ("s a run", "right"),
        ("speedup [90 %]", "right"),
        ("Linears GB", "right"),
        ("peak GB", "right"),
        *([("dead patterns", "right")] if dead else []),
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
            f"{row.estimate.quantized_s:.4g}",
            _speedup(row.estimate),
            f"{memory.quantized_linear_bytes / 1e9:.2f}" if memory is not None else "",
            f"{peak / 1e9:.2f}" if peak is not None else "",
            *([str(len(row.dead)) if row.dead else ""] if dead else []),
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


def dead_pattern_lines(dead: Sequence[str]) -> list[str]:
    """A warning for each pattern of a study's always_skip that matches nothing."""
    return [
        f"warning: {pattern!r} of the study's always_skip matches no Linear" for pattern in dead
    ]


def fixed_table(fixed: Mapping[str, str]) -> Table | Text:
    """Linears that stay bf16 whatever is chosen, by reason."""
    if not fixed:
        return Text("every Linear may be quantized")
    by_reason: dict[str, list[str]] = {}
    for fqn, reason in fixed.items():
        by_reason.setdefault(reason, []).append(fqn)
    rows = make_table(
        ("stays bf16 because", "left"),
        ("Linears", "right"),
        ("names", "left"),
        title=f"{len(fixed)} Linears are not searched",
    )
    for reason, fqns in by_reason.items():
        rows.add_row(reason, str(len(fqns)), _short(fqns))
    return rows
