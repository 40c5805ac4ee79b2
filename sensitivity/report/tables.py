"""Records as tables for a terminal. Every table says above itself what its numbers are: predicted or measured, on which GPU, at which scale."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Group as Lines
from rich.table import Table
from rich.text import Text

from sensitivity.latency import LatencyEstimate
from sensitivity.profiler import ShapeTable
from sensitivity.spec import FormatName
from sensitivity.workflow import SearchOutcome

MAX_ROLES = 3


def _table(*columns: tuple[str, str], title: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name, justify in columns:
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold", no_wrap=justify == "right")
    return table


def _short(roles: Sequence[str]) -> str:
    names = list(dict.fromkeys(roles))
    return ", ".join(names[:MAX_ROLES]) + (f" and {len(names) - MAX_ROLES} more" if len(names) > MAX_ROLES else "")


def profile_table(table: ShapeTable) -> Lines:
    """Linears grouped by shape, most FLOPs first, with shares."""
    settings = ", ".join(f"{key} {value}" for key, value in table.settings.items())
    rows = _table(
        ("M", "right"), ("K", "right"), ("N", "right"), ("Linears", "right"), ("calls", "right"), ("GFLOP", "right"), ("share", "right"), ("roles", "left"),
        title=f"{table.model}: {len(table.linears)} Linears called, {len(table.uncalled)} never; one pipeline run, batch {table.batch_size}"
        + (f" ({settings})" if settings else ""),
    )  # fmt: skip
    for group in table.by_shape():
        rows.add_row(
            str(group.m), str(group.k), str(group.n), str(group.linears), str(group.calls), f"{group.flops / 1e9:,.2f}", f"{group.share:.1%}",
            _short(group.roles),
        )  # fmt: skip
    notes = [Text(f"total {table.flops / 1e9:,.1f} GFLOP in Linears")]
    if table.uncalled:
        notes.append(Text(f"never called: {_short(table.uncalled)}"))
    return Lines(rows, *notes)


def latency_table(estimate: LatencyEstimate) -> Lines:
    """Where the time goes, by shape and format, and which Linears are slower quantized."""
    rows = _table(
        ("M", "right"), ("K", "right"), ("N", "right"), ("format", "left"), ("Linears", "right"), ("bf16 us", "right"), ("quantized us", "right"),
        ("speedup", "right"), ("bf16 ms a run", "right"), ("saved ms", "right"),
        title=f"{estimate.source} for {estimate.target}, batch {estimate.batch_size}, {estimate.compile_mode}: one call of each shape, and the whole run",
    )  # fmt: skip
    groups: dict[tuple[int, int, int, FormatName], list[tuple[int, float, float]]] = {}
    for cost in estimate.linears:
        groups.setdefault((cost.m, cost.k, cost.n, cost.format), []).append((cost.calls, cost.bf16_us, cost.quantized_us))
    for (m, k, n, fmt), costs in sorted(groups.items(), key=lambda item: -sum(c * b for c, b, _ in item[1])):
        bf16_us, quantized_us = costs[0][1], costs[0][2]
        bf16_ms, saved_ms = sum(c * b for c, b, _ in costs) / 1e3, sum(c * (b - q) for c, b, q in costs) / 1e3
        rows.add_row(
            str(m), str(k), str(n), fmt.value, str(len(costs)), f"{bf16_us:.1f}", f"{quantized_us:.1f}", f"{bf16_us / quantized_us:.2f}x",
            f"{bf16_ms:.2f}", f"{saved_ms:+.2f}",
        )  # fmt: skip
    slower = [cost.fqn for cost in estimate.linears if cost.quantized_us > cost.bf16_us]
    lines = [
        Text(
            f"{estimate.source} for {estimate.target}: bf16 {estimate.bf16_s:.4g} s, quantized {estimate.quantized_s:.4g} s, speedup {estimate.speedup:.3f}x"
        ),
        Text(estimate.note, style="dim"),
    ]
    if slower:
        lines.append(Text(f"{len(slower)} Linears are slower quantized than in bf16: {_short(slower)}", style="yellow"))
    return Lines(rows, *lines)


def front_table(outcome: SearchOutcome) -> Lines:
    """The front, fastest first, with the first trials in it or beside it, the winner marked, held-out values where they were measured."""
    candidates, chosen = outcome.prepared.candidates, outcome.chosen
    latency, scale = outcome.prepared.latency, outcome.prepared.evaluator.spec.pricing.stands_for
    on_front = {t.index for t in outcome.front}
    shown = sorted(
        {t.index: t for t in (*outcome.front, *(t for t in outcome.result.trials if t.label))}.values(),
        key=lambda t: (t.latency_s, t.score.mean),
    )
    at_scale = f" at {scale} x its dimensions" if scale > 1 else ""
    net = shown[0].score.net if shown else ""
    rows = _table(
        ("", "left"), ("skip-list", "left"), ("quantized", "right"), ("ms a run", "right"), ("speedup", "right"), ("LPIPS", "right"),
        ("held-out LPIPS [95 %]", "right"),
        title=f"front of {len(outcome.front)} among {len(outcome.result.trials)} trials; latency {latency.source} for {latency.target}{at_scale}, "
        f"LPIPS {net} by emulation",
    )  # fmt: skip
    for trial in shown:
        held = outcome.held_out.get(trial.index)
        is_chosen = chosen is not None and trial.index == chosen.index
        quantized = sum(name is not FormatName.BF16 for name in candidates.decode(trial.choice).values())
        rows.add_row(
            ("*" if trial.index in on_front else "") + (">" if is_chosen else ""), trial.label or f"trial {trial.index}",
            f"{quantized}/{len(candidates.fqns)}", f"{trial.latency_s * 1e3:.2f}", f"{candidates.bf16_s / trial.latency_s:.3f}x",
            f"{trial.score.mean:.4f}", f"{held.mean:.4f} [{held.ci95[0]:.4f}, {held.ci95[1]:.4f}]" if held else "",
            style="bold green" if is_chosen else ("" if trial.index in on_front else "dim"),
        )  # fmt: skip
    floor = shown[0].score.noise_floor if shown else None
    legend = "* on the front   > chosen   noise floor of LPIPS " + (
        "not measured (batch of one)" if floor is None else f"{floor:.4f} (bf16 drawn one by one)"
    )
    return Lines(rows, Text(legend, style="dim"))


def fixed_table(fixed: Mapping[str, str]) -> Table | Text:
    """Linears that stay bf16 whatever is chosen, by reason."""
    if not fixed:
        return Text("every Linear may be quantized")
    by_reason: dict[str, list[str]] = {}
    for fqn, reason in fixed.items():
        by_reason.setdefault(reason, []).append(fqn)
    rows = _table(("stays bf16 because", "left"), ("Linears", "right"), ("names", "left"), title=f"{len(fixed)} Linears are not searched")
    for reason, fqns in by_reason.items():
        rows.add_row(reason, str(len(fqns)), _short(fqns))
    return rows
