"""Two recipes side by side: what differs, what it costs and gains, and which numbers compare.

Also the nearest recipe that a consumer can express, in words.
"""

from collections import Counter

from rich.console import Group as Lines
from rich.text import Text

from sensitivity.cli.render.tables import FittedTable, number, words
from sensitivity.core.words import printable
from sensitivity.recipes.differences import RecipeDiff, Side
from sensitivity.workflows.nearest import Nearest

ROUNDING = 1e-3
"""Relative difference below which a file's seconds are those that were priced here."""


def diff_report(diff: RecipeDiff) -> Lines:
    """The groups that differ, most seconds first; totals; LPIPS; places on the fronts."""
    a, b = diff.a, diff.b
    lines = [
        Text(
            f"A is {a.name} ({a.counts}), B is {b.name} ({b.counts}); {len(a.recipe.layers)}"
            " Linears"
        )
    ]
    lines += [
        Text(f"{letter}: {side.recipe.caveat}", style="yellow")
        for letter, side in (("A", a), ("B", b))
        if side.recipe.caveat
    ]
    body = [_changes(diff)] if diff.changes else [Lines(_same_formats(diff))]
    if diff.steps_differ:
        body.append(Lines(Text(f"steps differ: A runs {a.steps}, B {b.steps}")))
    after = [
        Text(printable(line)) for line in (_seconds(diff), *_quality(diff), *_places(diff)) if line
    ]
    notes = [Text(f"note: {printable(note)}", style="yellow") for note in diff.notes]
    return Lines(*lines, *body, *after, *notes)


def _same_formats(diff: RecipeDiff) -> Text:
    same = "A and B give every Linear the same format"
    if diff.steps_differ:
        return Text(same)
    return Text(f"identical: {same}", style="green")


def _changes(diff: RecipeDiff) -> Lines:
    priced = diff.priced
    where = (
        f"{priced.source} for {priced.target}, batch {priced.batch_size}: what B saves in a run"
        if priced
        else "not priced"
    )
    rows = FittedTable(
        words("role", least=20),
        words("blocks"),
        number("Linears"),
        words("A"),
        words("B"),
        number("B saves ms"),
        title=f"{sum(len(change.fqns) for change in diff.changes)} Linears differ; {where}",
    )
    for change in diff.changes:
        saved = "" if change.saved_s is None else f"{change.saved_s * 1e3:+.2f}"
        rows.add_row(
            change.role,
            change.blocks,
            str(len(change.fqns)),
            change.a.value,
            change.b.value,
            saved,
            style="yellow" if (change.saved_s or 0) < 0 else "",
        )
    return Lines(rows)


def _seconds(diff: RecipeDiff) -> str:
    if diff.priced is None:
        said = "; ".join(
            f"{letter} says {side.latency_text}" for letter, side in (("A", diff.a), ("B", diff.b))
        )
        return f"not priced: {diff.unpriced}. {said}"
    p = diff.priced
    stated = (
        f"; {letter}'s file says {side.latency_text}"
        for letter, side, seconds in (("A", diff.a, p.a_s), ("B", diff.b, p.b_s))
        if abs(side.recipe.latency.quantized_s / seconds - 1) > ROUNDING
    )
    return (
        f"{p.source} for {p.target}, batch {p.batch_size}: bf16 {p.bf16_s:.4g} s, A {p.a_s:.4g} s"
        f" ({p.bf16_s / p.a_s:.3f}x), B {p.b_s:.4g} s ({p.bf16_s / p.b_s:.3f}x); B saves"
        f" {(p.a_s - p.b_s) * 1e3:+.2f} ms{''.join(stated)}"
    )


def _quality(diff: RecipeDiff) -> list[str]:
    if diff.a.recipe.is_unverified and diff.b.recipe.is_unverified:
        return []
    lines = [f"{letter}: {_lpips(side)}" for letter, side in (("A", diff.a), ("B", diff.b))]
    if diff.incomparable:
        return [*lines, f"these LPIPS do not compare: {'; '.join(diff.incomparable)}"]
    if diff.lpips_ratio is not None:
        value, low, high = diff.lpips_ratio
        lines.append(
            f"B's typical LPIPS is {value:.2f} [{low:.2f}, {high:.2f}] of A's, prompt by prompt"
            " (95 % interval over prompts)"
        )
    return lines


def _lpips(side: Side) -> str:
    if side.recipe.fidelity is None:
        return "UNVERIFIED"
    said = side.recipe.fidelity.lpips
    return f"{said.words} ({said.net}, {len(said.per_prompt)} pictures)"


def _places(diff: RecipeDiff) -> list[str]:
    return [
        f"{letter} is number {side.place[0]} of the {side.place[1]} skip-lists on the front of its"
        " search, the fastest first"
        for letter, side in (("A", diff.a), ("B", diff.b))
        if side.place is not None
    ]


def nearest_lines(found: Nearest) -> list[str]:
    """What the nearest expressible recipe changes and costs."""
    before, after = found.before.estimate, found.after.estimate
    moves = ", ".join(
        f"{count} from {old} to {new}"
        for (old, new), count in Counter(found.changed.values()).items()
    )
    lines = [
        (
            f"nearest: {len(found.changed)} of {len(found.recipe.layers)} Linears have another"
            f" format ({moves}), none a coarser one"
        ),
        (
            f"{after.source} for {after.target}, batch {after.batch_size}: {before.quantized_s:.4g}"
            f" s -> {after.quantized_s:.4g} s a run, speedup {before.speedup:.3f}x ->"
            f" {after.speedup:.3f}x"
        ),
    ]
    if not found.damage:
        return [
            *lines,
            "what it gains in quality is not known: no layer sensitivities are stored for it"
            " (`sensitivity calibrate`)",
        ]
    return lines + [
        f"the changed Linears carry {part:.1%} of the calibrated damage of {name}"
        for name, part in found.damage.items()
    ]
